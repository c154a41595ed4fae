"""Sweep: one worker at a time repairs what crashed, vanished or was lost, and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from sqlalchemy import literal, select, text, update
from sqlalchemy.exc import DBAPIError

from textmill.core.broker import Publisher, queue_lengths
from textmill.core.errors import ServiceUnavailableError
from textmill.core.jobs import JobStatus, Priority
from textmill.core.messages import ChunkMessage, queue_name
from textmill.core.settings import Settings, load_settings
from textmill.db import sweep
from textmill.db.chunks import still_ours
from textmill.db.clock import now, read_clock
from textmill.db.jobs import pause_job
from textmill.db.models import chunks, jobs, sweeps, workers
from textmill.db.session import Database
from textmill.db.sweep import (
    SweepReport,
    end_stuck_sessions,
    release_stalled,
    sweep_and_publish,
    sweep_once,
    take_turn,
)
from textmill.db.workers import FORGET_SECONDS, WorkerInfo, register_worker

from .. import builders
from ..builders import (
    at_once,
    claim,
    claim_all,
    count,
    dispatch,
    job_of,
    make_job,
    open_database,
    put,
    put_job,
    snapshot,
    statuses,
)
from ..servers import free_port, wait_until
from ..submissions import Outbox

MakeSettings = Callable[..., Settings]
NORMAL = {("default", "normal")}
GRACE = 10.0


# Fixtures; imported by name, they would be redefined by every test's parameter.
tables_url = builders.tables_url
postgresql = builders.postgresql
database = builders.database


def repair(
    database: Database, *, idle_queues: set[tuple[str, str]], grace_seconds: float
) -> SweepReport:
    report = SweepReport()
    sweep_once(database, report, idle_queues=idle_queues, grace_seconds=grace_seconds)
    return report


def test_of_many_workers_one_sweeps_per_interval(database: Database) -> None:
    for _ in range(5):
        turns = at_once(*[lambda: database.transact(take_turn, 60)] * 6)
        assert sorted(turns) == [False] * 5 + [True]
        assert not database.transact(take_turn, 60)
        put(database, sweeps, sweeps.c.name == "sweep", swept_at=now() - 61)


def test_a_clock_that_was_set_back_does_not_stop_the_sweeping(database: Database) -> None:
    put(database, sweeps, sweeps.c.name == "sweep", swept_at=now() + 86400)
    turns = at_once(*[lambda: database.transact(take_turn, 60)] * 6)
    assert sorted(turns) == [False] * 5 + [True]
    assert not database.transact(take_turn, 60)


def test_nothing_is_swept_where_nothing_is_wrong(database: Database) -> None:
    job_id = make_job(database, (1, 1))
    dispatch(database, job_id)
    make_job(database, finish=False)
    before = snapshot(database)
    report = repair(database, idle_queues=NORMAL, grace_seconds=GRACE)
    assert report == SweepReport()
    assert snapshot(database) == before


def test_a_stalled_chunk_is_dispatched_again_in_the_same_round(database: Database) -> None:
    job_id = make_job(database)
    (held,) = claim_all(database, job_id, lease=-1)
    report = repair(database, idle_queues=set(), grace_seconds=GRACE)
    assert report.stalled == 1
    assert report.messages == [ChunkMessage(held.chunk_id, 1, "default", "normal")]
    assert statuses(database, job_id) == ["dispatched"]


def test_a_window_that_a_dead_process_left_empty_is_filled(database: Database) -> None:
    job_id, paused = make_job(database, [1] * 6), make_job(database)
    database.transact(pause_job, paused)
    report = repair(database, idle_queues=set(), grace_seconds=GRACE)
    assert len(report.messages) == 4
    assert statuses(database, job_id) == ["dispatched"] * 4 + ["pending"] * 2
    assert statuses(database, paused) == ["pending"]


@pytest.mark.parametrize("status", [JobStatus.RUNNING])
@pytest.mark.parametrize(("errors", "closed"), [(0, "completed"), (1, "completed_with_errors")])
def test_a_job_whose_counters_are_full_is_closed(
    database: Database, status: JobStatus, errors: int, closed: str
) -> None:
    job_id, paused, other = make_job(database), make_job(database), make_job(database, (2,))
    for one in (job_id, paused, other):
        put(database, jobs, jobs.c.id == one, done_records=1 - errors, error_records=errors)
    put_job(database, job_id, status)
    put_job(database, paused, JobStatus.PAUSED)
    repair(database, idle_queues=set(), grace_seconds=GRACE)
    assert job_of(database, job_id).status == closed
    assert job_of(database, job_id).finished_at is not None
    assert job_of(database, paused).status == "paused"
    assert job_of(database, other).status == "queued"


def test_waiting_chunks_of_an_ended_job_take_its_status(database: Database) -> None:
    failed, cancelled = make_job(database, (1, 1)), make_job(database)
    dispatch(database, failed, 1)
    put_job(database, failed, JobStatus.FAILED)
    put_job(database, cancelled, JobStatus.CANCELLED)
    assert repair(database, idle_queues=set(), grace_seconds=GRACE).tidied == 3
    assert statuses(database, failed) == ["failed", "failed"]
    assert statuses(database, cancelled) == ["cancelled"]


def aged(
    database: Database, seconds: float, dispatches: int = 1, moment: float | None = None
) -> str:
    """A job whose one chunk was dispatched so long ago, or before a moment, so many times."""
    job_id = make_job(database)
    dispatch(database, job_id)
    put(
        database,
        chunks,
        chunks.c.job_id == job_id,
        dispatched_at=(now() if moment is None else moment) - seconds,
        dispatches=dispatches,
    )
    return job_id


@pytest.mark.parametrize(
    ("seconds", "dispatches", "idle", "again"),
    [
        (GRACE + 1, 1, NORMAL, True),
        (GRACE + 1, 9, NORMAL, True),
        (GRACE - 1, 1, NORMAL, False),  # still on its way
        (GRACE + 1, 1, set(), False),  # its queue holds messages: it may wait there
        (GRACE + 1, 1, {("default", "high")}, False),
        (GRACE + 1, 1, {("gpu", "normal")}, False),
        (119, 1, set(), False),
        (121, 1, set(), True),
        (239, 2, set(), False),
        (241, 2, set(), True),
        (60 * 2**10 - 1, 20, set(), False),
        (60 * 2**10 + 1, 20, set(), True),
    ],
)
def test_a_message_is_repeated_after_a_grace_in_an_empty_queue_else_ever_more_rarely(
    database: Database,
    seconds: float,
    dispatches: int,
    idle: set[tuple[str, str]],
    again: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with database.read() as connection:
        moment = read_clock(connection)
    monkeypatch.setattr(sweep, "now", lambda: literal(moment))  # a second may pass meanwhile
    aged(database, seconds, dispatches, moment)
    before = snapshot(database)
    report = repair(database, idle_queues=idle, grace_seconds=GRACE)
    assert report.republished == len(report.messages) == again
    if not again:
        assert snapshot(database) == before
        return
    assert count(database, chunks, chunks.c.dispatches == dispatches + 1) == 1
    next_round = repair(database, idle_queues=idle, grace_seconds=GRACE)
    assert next_round.republished == 0  # its grace starts anew


def test_a_repeated_message_names_its_queue_and_attempt(database: Database) -> None:
    job_id = make_job(database, queue="gpu", priority=Priority.HIGH)
    (first,) = dispatch(database, job_id)
    claim(database, first, lease=-1)
    database.transact(release_stalled)
    (second,) = dispatch(database, job_id)
    put(database, chunks, chunks.c.job_id == job_id, dispatched_at=now() - 60)
    report = repair(database, idle_queues={("gpu", "high")}, grace_seconds=GRACE)
    assert report.messages == [second] == [ChunkMessage(first.chunk_id, 1, "gpu", "high")]


@pytest.mark.parametrize("status", sorted(set(JobStatus) - {JobStatus.QUEUED, JobStatus.RUNNING}))
def test_no_message_is_repeated_for_a_job_that_is_held_or_ended(
    database: Database, status: JobStatus
) -> None:
    job_id = aged(database, 1e6)
    put_job(database, job_id, status)
    report = repair(database, idle_queues=NORMAL, grace_seconds=GRACE)
    assert (report.republished, report.messages) == (0, [])


def test_rounds_at_once_repeat_each_message_once(database: Database) -> None:
    aged(database, 60)
    reports = at_once(*[lambda: repair(database, idle_queues=NORMAL, grace_seconds=GRACE)] * 4)
    assert sum(report.republished for report in reports) == 1


def test_a_stalled_chunk_that_another_transaction_holds_is_passed_over(
    postgresql: Database, tables_url: str
) -> None:
    job_id = make_job(postgresql, (1, 1))
    first, _ = claim_all(postgresql, job_id, lease=-1)
    with (
        open_database(tables_url, transaction_seconds=2) as other,
        postgresql.write() as holder,
        other.write() as connection,
    ):
        held = chunks.c.id == first.chunk_id
        holder.execute(update(chunks).where(held).values(error="held"))
        assert release_stalled(connection) == 1
    assert statuses(postgresql, job_id) == ["running", "pending"]


def test_workers_that_vanished_long_ago_are_forgotten(database: Database) -> None:
    for name, age in (("gone", FORGET_SECONDS + 1), ("late", 60)):
        database.transact(register_worker, WorkerInfo(name, "host", 1, "cpu", 4, ("default",)))
        put(database, workers, workers.c.id == name, last_seen=now() - age)
    repair(database, idle_queues=set(), grace_seconds=GRACE)
    assert count(database, workers) == count(database, workers, workers.c.id == "late") == 1


def test_a_lost_message_is_published_again_and_one_that_waits_is_not(
    database: Database, settings: MakeSettings, broker_url: str
) -> None:
    mine = settings(broker_url=broker_url)
    publisher = Publisher(mine)
    queue = queue_name("default", "normal")
    aged(database, GRACE + 1)
    assert sweep_and_publish(database, mine, publisher).republished == 1
    assert queue_lengths(mine, [queue]) == {queue: 1}
    put(database, chunks, chunks.c.status == "dispatched", dispatched_at=now() - GRACE - 1)
    assert sweep_and_publish(database, mine, publisher).republished == 0
    assert queue_lengths(mine, [queue]) == {queue: 1}
    publisher.close()


def test_without_a_broker_sql_is_repaired_all_the_same(
    database: Database, settings: MakeSettings
) -> None:
    away = settings(broker_url=f"redis://127.0.0.1:{free_port()}/0")
    job_id = aged(database, GRACE + 1)
    publisher = Publisher(away)
    assert sweep_and_publish(database, away, publisher).messages == []  # nothing is known of it
    put(database, chunks, chunks.c.job_id == job_id, dispatched_at=now() - 1e6)
    dead = make_job(database, finish=False, load_seconds=-1)
    report = sweep_and_publish(database, away, publisher)
    assert report.messages
    assert "cannot be reached" in str(report.unpublished)
    assert count(database, jobs, jobs.c.id == dead) == 0
    publisher.close()


def test_a_job_that_another_transaction_holds_keeps_no_other_job_waiting(
    tables_url: str, postgresql: Database
) -> None:
    """A command that was stopped in the middle of its change, say."""
    held, other = make_job(postgresql), make_job(postgresql)
    with (
        open_database(tables_url, transaction_seconds=0.5) as worker,
        postgresql.write() as command,
    ):
        command.execute(select(jobs).where(jobs.c.id == held).with_for_update())
        report = repair(worker, idle_queues=set(), grace_seconds=GRACE)
    assert len(report.messages) == 1
    assert statuses(postgresql, other) == ["dispatched"]
    assert statuses(postgresql, held) == ["pending"]
    assert len(repair(postgresql, idle_queues=set(), grace_seconds=GRACE).messages) == 1


REFUSE = {
    "sqlite": [
        "CREATE TRIGGER refuse BEFORE UPDATE ON jobs WHEN NEW.id = '{job}' "
        "BEGIN SELECT RAISE(ABORT, 'refused'); END"
    ],
    "postgresql": [
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'refused'; END $$",
        "CREATE TRIGGER refuse BEFORE UPDATE ON jobs FOR EACH ROW WHEN (NEW.id = '{job}') "
        "EXECUTE FUNCTION refuse()",
    ],
}


def test_a_round_that_fails_in_its_middle_publishes_what_it_had_dispatched(
    database: Database,
) -> None:
    """Else no job's messages would ever be sent while one job cannot be mended."""
    first, broken = make_job(database), make_job(database)
    put_job(database, broken, JobStatus.RUNNING)
    put(database, jobs, jobs.c.id == broken, done_records=1)  # to be closed
    with database.write() as connection:
        for statement in REFUSE[database.engine.dialect.name]:
            connection.execute(text(statement.format(job=broken)))
    outbox = Outbox()
    try:
        with pytest.raises(DBAPIError, match="refused"):
            sweep_and_publish(database, load_settings(), outbox)
    finally:
        with database.write() as connection:
            on_jobs = "" if database.is_sqlite else " ON jobs"
            connection.execute(text(f"DROP TRIGGER refuse{on_jobs}"))
    assert statuses(database, first) == ["dispatched"]
    assert len(outbox.messages) == 1


def test_a_worker_that_stands_still_inside_a_copy_does_not_hold_its_chunk(
    tables_url: str, postgresql: Database
) -> None:
    """No time limit of PostgreSQL reaches a COPY that waits for its client's next row."""
    job_id = make_job(postgresql)
    (held,) = claim_all(postgresql, job_id, lease=-1)
    inside, go_on = threading.Event(), threading.Event()

    def stand_still() -> None:
        with open_database(tables_url, transaction_seconds=0.5) as worker, worker.write() as own:
            own.execute(update(chunks).where(*still_ours(held)).values(status="done"))
            with own.connection.cursor().copy("COPY results (record_id) FROM STDIN"):
                inside.set()
                go_on.wait(60)

    def try_it() -> None:
        with pytest.raises(ServiceUnavailableError):
            stand_still()

    thread = threading.Thread(target=try_it)
    thread.start()
    try:
        assert inside.wait(30)
        assert postgresql.transact(release_stalled) == 0  # its row is locked
        postgresql.transact(end_stuck_sessions, 3600)
        assert postgresql.transact(release_stalled) == 0  # too young to be stuck

        def released() -> bool:
            postgresql.transact(end_stuck_sessions, 0.5)
            return postgresql.transact(release_stalled) == 1

        wait_until(released, 30, what="released")
    finally:
        go_on.set()
        thread.join()
    assert statuses(postgresql, job_id) == ["pending"]
