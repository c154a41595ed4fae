"""Submissions for tests: rows in, a job in the database, and the messages kept here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from textmill.core.broker import Publisher
from textmill.core.jobs import JobSpec
from textmill.core.messages import ChunkMessage
from textmill.core.settings import load_settings
from textmill.core.tasks import TASKS
from textmill.db.models import metadata, sweeps
from textmill.db.session import Database
from textmill.producer import loader
from textmill.producer.readers import ReadOptions, RecordReader, records_from_objects
from textmill.producer.submit import Submitted, submit_job

from .builders import count, spec

HEAD_ROWS = 100  # that a reader looks at before anything is written


class Outbox(Publisher):
    """Keeps what would be published."""

    def __init__(self) -> None:
        super().__init__(load_settings())
        self.messages: list[ChunkMessage] = []

    def publish(self, messages: Iterable[ChunkMessage]) -> int:
        new = list(messages)
        self.messages += new
        return len(new)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 10 records, written 20 records at a time."""
    chunk_records(monkeypatch, 10)
    monkeypatch.setattr(loader, "FLUSH_RECORDS", 20)


def chunk_records(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    task = replace(TASKS["classification"], chunk_records=number)
    monkeypatch.setitem(TASKS, "classification", task)


def reader_of(rows: Iterable[Any], **options: Any) -> RecordReader:
    return records_from_objects(rows, ["text"], ReadOptions(**options))


def send(
    database: Database, rows: Iterable[Any], job: JobSpec | None = None, **options: Any
) -> Submitted:
    return submit_job(database, Outbox(), job or spec(), reader_of(rows, **options))


def nothing_in(database: Database) -> bool:
    tables = [table for table in metadata.sorted_tables if table is not sweeps]
    return not any(count(database, table) for table in tables)
