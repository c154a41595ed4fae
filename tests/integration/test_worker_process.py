"""One worker process by itself, mostly without its Celery side."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog
from celery.utils.dispatch import Signal

from textmill.core.settings import Settings
from textmill.core.stored_texts import StoreText
from textmill.core.tasks import TASKS
from textmill.db.chunks import MAX_FAILURES
from textmill.db.dispatch import publish
from textmill.db.models import workers
from textmill.db.rerun import rerun_job
from textmill.db.session import Database
from textmill.db.workers import WorkerInfo, forget_worker, register_worker
from textmill.workers import app, process, supervisor
from textmill.workers.process import WorkerOptions, WorkerProcess
from textmill.workers.tasks import process_chunk
from textmill.workers.watchdog import REPLACE_EXIT_CODE

from .. import builders
from ..builders import count, dispatch, job_of, make_job, statuses

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


@pytest.mark.parametrize(
    ("ends", "code"),
    [
        (SystemExit(), 0),
        (SystemExit(0), 0),
        (SystemExit(2), 2),  # a setting is wrong
        (SystemExit(1), REPLACE_EXIT_CODE),  # what Celery makes of an error of its broker's
        (SystemExit("no"), REPLACE_EXIT_CODE),
        (OSError("an error that nobody has caught"), REPLACE_EXIT_CODE),
    ],
    ids=repr,
)
def test_what_celery_ends_for_is_no_crash(
    monkeypatch: pytest.MonkeyPatch, home: Path, ends: BaseException, code: int
) -> None:
    """The supervisor takes every other exit code for one of native code's."""

    def run_worker(*given: Any) -> None:
        raise ends

    def nothing(*given: Any) -> None:
        """No signals, no threads, and no logging but pytest's."""

    monkeypatch.setattr(app, "run_worker", run_worker)
    for name in ("at_end_of_input", "start_pulse", "configure_logging"):
        monkeypatch.setattr(app, name, nothing)
    monkeypatch.setattr(app.gc, "set_threshold", nothing)
    with structlog.testing.capture_logs():
        ended = app.main(["--id", "w", "--device", "cpu", "--queues", "default", "--slots", "1"])
    assert ended == code
    assert (code in supervisor.OWN_EXIT_CODES) and 1 not in supervisor.OWN_EXIT_CODES


@pytest.mark.parametrize(
    "fields", [{"task": "divination"}, {"task": "fake", "params": {"mood": "good"}}]
)
def test_a_job_that_this_worker_does_not_know_waits_for_one_that_does(
    worker: WorkerProcess, database: Database, fields: dict[str, Any]
) -> None:
    """It lacks a plugin, or is older than the producer."""
    other = WorkerInfo("w2", "elsewhere", 1, "cpu", 4, ("default",))
    database.transact(register_worker, other)
    job_id = make_job(database, **fields)
    for _ in range(MAX_FAILURES + 1):
        (message,) = dispatch(database, job_id)
        process_chunk(worker, message.chunk_id, message.attempt)
        assert statuses(database, job_id) == ["pending"]
    job = job_of(database, job_id)
    assert (job.status, job.load_failures) == ("running", [worker.place])

    database.transact(forget_worker, "w2")
    (message,) = dispatch(database, job_id)
    process_chunk(worker, message.chunk_id, message.attempt)
    job = job_of(database, job_id)
    assert job.status == "failed"
    assert "this worker cannot run the job" in job.error


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


def _run_all(worker: WorkerProcess, database: Database, job_id: str) -> None:
    for message in dispatch(database, job_id):
        process_chunk(worker, message.chunk_id, message.attempt)
    assert job_of(database, job_id).status == "completed"


def test_no_job_is_answered_from_another_nor_from_its_run_before(
    worker: WorkerProcess, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyed = replace(TASKS["fake"], name="keyed", runner="fake_tasks:KeyedRunner")
    monkeypatch.setitem(TASKS, "keyed", keyed)
    about: dict[str, Any] = {"task": "keyed", "model": "m"}
    first, second = (make_job(database, (2, 1), **about) for _ in range(2))
    for job_id in (first, second):
        _run_all(worker, database, job_id)
    (engine,) = worker.pool.engines()
    asked: list[str] = engine._runner.asked  # type: ignore[union-attr]
    assert len(asked) == 6
    database.transact(rerun_job, first)
    _run_all(worker, database, first)
    assert len(asked) == 9
    engine._equal.forget_all()
    _run_all(worker, database, make_job(database, (2,), store_text=StoreText.NONE, **about))
    assert len(asked) == 11
    assert engine._equal.forget_old() is None, "nothing stayed of texts that are not to be kept"
