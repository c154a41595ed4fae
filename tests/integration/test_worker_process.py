"""One worker process by itself, mostly without its Celery side."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import structlog
from celery.utils.dispatch import Signal

from textmill.core.settings import Settings
from textmill.core.tasks import TASKS
from textmill.db.dispatch import publish
from textmill.db.models import workers
from textmill.db.session import Database
from textmill.workers import app, process
from textmill.workers.process import WorkerOptions, WorkerProcess
from textmill.workers.watchdog import REPLACE_EXIT_CODE

from .. import builders
from ..builders import count, dispatch, make_job

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


def test_an_answer_to_its_registration_that_was_lost_is_no_obstacle(
    worker: WorkerProcess, database: Database
) -> None:
    worker._register()
    assert count(database, workers) == 1


@pytest.fixture
def celery_signals() -> Iterator[None]:
    """Whoever is told of them in the test is told no more afterwards."""
    used = [getattr(app.signals, name) for name in dir(app.signals)]
    used = [one for one in used if isinstance(one, Signal)]
    before = [(one, one.receivers) for one in used]
    for one in used:
        one.receivers = list(one.receivers or ())
    yield
    for one, receivers in before:
        one.receivers = receivers


class Unprepared(WorkerProcess):
    """Fails to start in a way that nobody has thought of."""

    def start(self) -> None:
        raise KeyError("a package of another version")


def test_a_worker_whose_start_fails_in_any_way_ends(
    settings: Callable[..., Settings], celery_signals: None
) -> None:
    """Celery goes on after any exception but SystemExit; its slots would work without a lease."""
    app._connect_signals(Unprepared(settings(), WorkerOptions("w1", "cpu", ("default",), 1)))
    with structlog.testing.capture_logs(), pytest.raises(SystemExit) as ended:
        app.signals.worker_init.send(sender=None)
    assert ended.value.code == REPLACE_EXIT_CODE


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
