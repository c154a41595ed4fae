"""What a person who watches a job is told when nothing of it moves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from textmill.core.jobs import JobStatus
from textmill.core.settings import Settings
from textmill.db.jobs import pause_job
from textmill.db.models import chunks, jobs, workers
from textmill.db.session import Database
from textmill.db.workers import WorkerInfo, register_worker
from textmill.producer import waiting
from textmill.producer.summary import summarize
from textmill.producer.waiting import WaitingClock

from .. import builders
from ..builders import claim_all, complete, dispatch, make_job, put, put_job

# Fixtures; imported by name, they would be redefined by every test's parameter.
tables_url = builders.tables_url
postgresql = builders.postgresql
database = builders.database


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for five seconds without a new row here."""
    monkeypatch.setattr(waiting, "STILL_SECONDS", 0.0)


def _add_worker(database: Database, worker_id: str = "w1") -> None:
    info = WorkerInfo(worker_id, "host", 1, "cpu", 4, ("default",))
    database.transact(register_worker, info)


def _told(database: Database, job_id: str, settings: Settings | None = None) -> tuple[str, str]:
    clock = WaitingClock(database, settings)
    assert clock.look(summarize(database, job_id)) is None, "at the first look all is new"
    reason = clock.look(summarize(database, job_id))
    return ("", "") if reason is None else (reason.kind, reason.text)


def test_without_a_worker_it_says_how_to_start_one(database: Database) -> None:
    assert _told(database, make_job(database)) == (
        "worker",
        "no live worker serves queue 'default'; start one with `textmill worker`",
    )
    assert "worker --queues gpu" in _told(database, make_job(database, queue="gpu"))[1]


def test_a_job_that_is_held_back_or_loads_says_so(database: Database) -> None:
    _add_worker(database)
    paused, loading = make_job(database), make_job(database, finish=False)
    database.transact(pause_job, paused)
    assert f"`textmill resume {paused}`" in _told(database, paused)[1]
    assert _told(database, loading)[0] == "loading"


def test_a_job_that_moves_or_has_ended_says_nothing(database: Database) -> None:
    _add_worker(database)
    job_id = make_job(database, (2, 1))
    clock = WaitingClock(database, None)
    for claimed in claim_all(database, job_id):
        assert clock.look(summarize(database, job_id)) is None
        complete(database, claimed)
    assert _told(database, job_id) == ("", "")


def test_behind_other_jobs_it_says_how_many(database: Database) -> None:
    _add_worker(database)
    claim_all(database, make_job(database, (1, 1)))
    claim_all(database, make_job(database))
    claim_all(database, make_job(database), worker="of another queue")
    job_id = make_job(database)
    dispatch(database, job_id)
    assert _told(database, job_id) == (
        "others",
        "behind other work: 3 chunks of 2 other jobs",
    )


def test_what_is_in_work_or_was_left_by_a_worker_is_told_apart(database: Database) -> None:
    _add_worker(database)
    job_id = make_job(database, (1, 1))
    claim_all(database, job_id)
    assert _told(database, job_id)[0] == "work"
    put(database, workers, workers.c.id == "w1", last_seen=0.0)
    assert _told(database, job_id)[0] == "worker"
    _add_worker(database, "w2")
    kind, text = _told(database, job_id)
    assert kind == "lease"
    assert "the leases of 2 chunks" in text


def test_a_chunk_that_is_tried_again_says_why(database: Database) -> None:
    _add_worker(database)
    job_id = make_job(database, (1, 1, 1))
    own = chunks.c.job_id == job_id
    put(database, chunks, own, error="its worker stopped")
    first = chunks.c.id == dispatch(database, job_id)[0].chunk_id
    put(database, chunks, own & first, failures=2, error="memory")
    kind, text = _told(database, job_id)
    assert (kind, "2 of 3 times" in text, "memory" in text) == ("failure", True, True)
    put(database, chunks, own & first, crashes=1)
    assert _told(database, job_id)[0] == "crash"
    put(database, jobs, jobs.c.id == job_id, load_failures=["host cpu"])
    kind, text = _told(database, job_id)
    assert (kind, "host cpu" in text, "memory" in text) == ("load", True, True)
    put_job(database, job_id, JobStatus.FAILED)
    assert _told(database, job_id) == ("", "")


def test_a_broker_that_is_away_is_told_before_other_jobs(
    database: Database, settings: Callable[..., Settings], tmp_path: Path
) -> None:
    _add_worker(database)
    claim_all(database, make_job(database))
    job_id = make_job(database)
    away = settings(broker_url=f"redis+socket://{tmp_path}/no.sock")
    kind, text = _told(database, job_id, away)
    assert kind == "broker"
    assert "cannot be reached" in text
