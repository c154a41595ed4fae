"""One worker process by itself, without its Celery side: what it does with messages and with time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import structlog

from textmill.core.settings import Settings
from textmill.core.tasks import TASKS
from textmill.db.dispatch import publish
from textmill.db.session import Database
from textmill.workers import process
from textmill.workers.process import WorkerOptions, WorkerProcess
from textmill.workers.watchdog import REPLACE_EXIT_CODE

from .. import builders
from ..builders import dispatch, make_job

PLUGINS = Path(__file__).parents[1] / "plugins"

# Fixtures; imported by name, they would be redefined by every test's parameter.
tables_url = builders.tables_url
postgresql = builders.postgresql
database = builders.database


@pytest.fixture
def worker(
    database: Database,
    broker_url: str,
    settings: Callable[..., Settings],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[WorkerProcess]:
    """Started, with an empty broker; nobody sweeps or beats but the test."""
    monkeypatch.syspath_prepend(PLUGINS)
    fake = replace(
        TASKS["classification"], name="fake", runner="fake_tasks:FakeRunner", architecture=None
    )
    monkeypatch.setitem(TASKS, "fake", fake)
    monkeypatch.setattr(process, "ensure_schema", lambda database, settings: None)
    mine = settings(
        database_url=database.url,
        broker_url=broker_url,
        sweep_seconds=3600,
        lease_seconds=14400,
        starvation_seconds=1e-9,
    )
    with structlog.testing.capture_logs():
        worker = WorkerProcess(mine, WorkerOptions("w1", "cpu", ("default",), 1))
        worker.start()
        yield worker
        worker.stop()


def test_a_worker_that_gets_no_message_is_replaced_unless_it_stops(
    worker: WorkerProcess, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A draining worker takes no messages: to end it then would lose what it still works on."""
    publish(database, worker.publisher, dispatch(database, make_job(database, task="fake")))
    exits: list[int] = []
    monkeypatch.setattr(process.os, "_exit", exits.append)
    for _ in range(2):
        worker._look_for_starvation()
    assert set(exits) == {REPLACE_EXIT_CODE}

    exits.clear()
    worker.stopping.set()
    for _ in range(3):
        worker._look_for_starvation()
    assert exits == []
