"""Result rows: the bulk write of a completed chunk, and their removal.

The write is the hot path of the whole product: COPY on PostgreSQL, one prepared multi-row insert
on SQLite, both below SQLAlchemy's per-row machinery.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import repeat
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Connection, Row, delete, select
from sqlalchemy.exc import DBAPIError

from textmill.db.indexing import (
    Entries,
    bulk_insert,
    make_entries,
    remove_entries,
    write_entries,
)
from textmill.db.models import results

NO_ENTRIES = Entries()
# What entries are made of.
INDEXED = [
    results.c[name] for name in ("record_index", "text", "output", "label", "detail", "extra")
]


class ResultRow(NamedTuple):
    """One row of ``results`` but for its job, in the order the bulk write sends the columns."""

    record_index: int
    record_id: str
    text: str | None = None
    text_hash: bytes | None = None
    label: str | None = None
    score: float | None = None
    output: str | None = None
    vector: bytes | None = None
    detail: str | None = None  # JSON text
    error_code: str | None = None
    error_message: str | None = None
    extra: str | None = None  # JSON text
    input_tokens: int | None = None
    output_tokens: int | None = None
    reused_from: str | None = None


def to_json(value: Any) -> str | None:
    """JSON text for a JSON column, or NULL."""
    return None if value is None else orjson.dumps(value).decode()


def write_results(
    connection: Connection, job_id: str, rows: Sequence[ResultRow], entries: Entries = NO_ENTRIES
) -> None:
    """Insert the rows of one chunk with their entries; a second row for a record is an error.

    Raises IntegrityError for that, and what the driver raises as SQLAlchemy's errors.
    """
    if not rows:
        return
    names, values = _used_columns(job_id, rows)
    with driver_errors(connection):
        bulk_insert(connection, "results", names, values)
        write_entries(connection, job_id, entries)


@contextmanager
def driver_errors(connection: Connection) -> Iterator[None]:
    """What is below SQLAlchemy raises its errors too: callers tell them apart, and retry some."""
    driver_error = connection.dialect.loaded_dbapi.Error
    try:
        yield
    except driver_error as error:
        raise DBAPIError.instance("write_results", None, error, driver_error) from error


def delete_results(connection: Connection, job: Row[Any], *conditions: Any) -> None:
    """Delete the job's rows that fulfil the conditions, a page of them, and what finds them."""
    where = (results.c.job_id == job.id, *conditions)
    # Read in any case: what further labels a row has is said by nothing but the row.
    rows = connection.execute(select(*INDEXED).where(*where)).all()
    entries = make_entries(job, rows, sqlite=connection.dialect.name == "sqlite")
    remove_entries(connection, job.id, entries)
    connection.execute(delete(results).where(*where))


def _used_columns(
    job_id: str, rows: Sequence[ResultRow]
) -> tuple[Sequence[str], list[tuple[Any, ...]]]:
    """The columns that are not NULL in every row, and the rows of these alone.

    Most tasks leave half of the columns empty, and each one sent costs on both databases.
    """
    used = [
        (name, values)
        for name, values in zip(ResultRow._fields, zip(*rows, strict=True), strict=True)
        if values.count(None) < len(values)
    ]
    names = ["job_id", *(name for name, _ in used)]
    return names, list(zip(repeat(job_id, len(rows)), *(v for _, v in used), strict=True))
