"""Completing chunks: one row per record, exact counts, and a job that closes exactly once."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

import pytest
from sqlalchemy import event, select, update
from sqlalchemy.exc import IntegrityError

from textmill.core.errors import JobConflictError
from textmill.core.jobs import JobStatus, Priority
from textmill.core.messages import ChunkMessage
from textmill.db.chunks import LeaseLostError, complete_chunk
from textmill.db.dispatch import MIN_WINDOW, fill_window, window_size
from textmill.db.jobs import cancel_job, fail_job, pause_job
from textmill.db.models import chunks, label_counts, payloads, results, workers
from textmill.db.payloads import decode_payload
from textmill.db.session import Database
from textmill.db.sweep import tidy_ended_jobs
from textmill.db.workers import LIVE_SECONDS, WorkerInfo, register_worker

from ..builders import (
    at_once,
    claim,
    claim_all,
    complete,
    count,
    dispatch,
    job_of,
    make_job,
    open_database,
    outcome,
    put,
    put_job,
    record,
    snapshot,
    statuses,
    with_tables,
)
from ..servers import wait_until


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    yield from with_tables(database_url)


@pytest.fixture
def postgresql(postgres_url: str) -> Iterator[Database]:
    yield from with_tables(postgres_url)


def counts(database: Database, job_id: str) -> tuple[str, int, int]:
    job = job_of(database, job_id)
    return job.status, job.done_records, job.error_records


def test_a_completed_chunk_leaves_one_row_per_record_and_exact_counts(database: Database) -> None:
    job_id = make_job(database, (3, 2))
    first, second = claim_all(database, job_id)
    complete(database, first, {1})
    assert counts(database, job_id) == ("running", 2, 1)
    complete(database, second)
    job = job_of(database, job_id)
    assert counts(database, job_id) == ("completed_with_errors", 4, 1)
    assert (job.input_tokens, job.output_tokens, job.device_seconds) == (20, 8, 1.0)
    assert job.finished_at >= job.started_at
    with database.read() as connection:
        rows = connection.execute(select(results).order_by(results.c.record_index)).all()
        labels = connection.execute(select(label_counts)).all()
        left = connection.execute(select(payloads)).all()
    assert [(row.record_index, row.record_id, row.text) for row in rows] == [
        (n, f"id{n}", f"text {n}") for n in range(5)
    ]
    assert [row.error_code for row in rows] == [None, "too_long", None, None, None]
    assert [row.extra for row in rows] == [{"n": n} for n in range(5)]
    assert labels == [(job_id, "ham", 4)]
    # Only the input of the error record is kept, for retry.
    assert [(row.chunk_id, decode_payload(row.data)) for row in left] == [
        (first.chunk_id, [record(1)])
    ]
    assert statuses(database, job_id) == ["done", "done"]


def test_labels_add_up_over_chunks_and_stay_apart_by_job(database: Database) -> None:
    job_id, other = make_job(database, (2, 3, 1)), make_job(database)
    first, second, third = claim_all(database, job_id)
    for claimed, label in ((first, "spam"), (second, "spam"), (third, "ham")):
        database.transact(complete_chunk, claimed, outcome(claimed, label=label), window=0)
    (alone,) = claim_all(database, other)
    complete(database, alone)
    with database.read() as connection:
        found = set(connection.execute(select(label_counts)).all())
    assert found == {(job_id, "spam", 5), (job_id, "ham", 1), (other, "ham", 1)}


@pytest.mark.parametrize(
    ("bad", "errors", "status"),
    [(0, (), "completed"), (0, {0}, "completed_with_errors"), (1, (), "completed_with_errors")],
)
def test_the_last_chunk_closes_the_job(
    database: Database, bad: int, errors: Collection[int], status: str
) -> None:
    job_id = make_job(database, (1, 1), bad=bad)
    first, last = claim_all(database, job_id)
    complete(database, first, errors)
    assert job_of(database, job_id).status == "running"
    assert job_of(database, job_id).finished_at is None
    complete(database, last)
    assert job_of(database, job_id).status == status
    assert job_of(database, job_id).finished_at is not None


def test_what_runs_when_the_job_is_paused_finishes_and_may_close_it(database: Database) -> None:
    job_id = make_job(database, (1, 1))
    first, last = claim_all(database, job_id)
    database.transact(pause_job, job_id)
    complete(database, first)
    assert counts(database, job_id) == ("paused", 1, 0)
    complete(database, last)
    assert counts(database, job_id) == ("completed", 2, 0)


def test_a_paused_jobs_window_is_not_filled(database: Database) -> None:
    job_id = make_job(database, (1, 1, 1))
    first, *_ = [claim(database, message) for message in dispatch(database, job_id, 1)]
    database.transact(pause_job, job_id)
    assert first is not None
    assert complete(database, first) == []
    assert statuses(database, job_id) == ["done", "pending", "pending"]


def test_what_runs_when_the_job_fails_is_counted_and_does_not_revive_it(database: Database) -> None:
    job_id = make_job(database, (1, 1))
    first, last = claim_all(database, job_id)
    database.transact(fail_job, job_id, "no model")
    complete(database, first)
    complete(database, last)
    assert counts(database, job_id) == ("failed", 2, 0)
    assert job_of(database, job_id).error == "no model"


def test_a_chunk_is_completed_once(database: Database) -> None:
    (claimed, _) = claim_all(database, make_job(database, (2, 1)))
    complete(database, claimed)
    before = snapshot(database)
    with pytest.raises(LeaseLostError):
        complete(database, claimed)
    assert snapshot(database) == before


def test_a_chunk_completed_by_many_threads_at_once_is_written_once(database: Database) -> None:
    job_id = make_job(database, (2, 1))
    (claimed, _) = claim_all(database, job_id)
    raised = at_once(*[lambda: complete(database, claimed)] * 5)
    assert [one for one in raised if not isinstance(one, LeaseLostError)] == [[]]
    assert counts(database, job_id) == ("running", 2, 0)


def test_a_second_row_for_a_record_is_refused_and_nothing_is_written(database: Database) -> None:
    job_id = make_job(database, (2, 2))
    first, second = claim_all(database, job_id)
    complete(database, first)
    twice = outcome(second)
    twice.rows[1] = outcome(first).rows[0]
    before = snapshot(database)
    with pytest.raises(IntegrityError):
        database.transact(complete_chunk, second, twice, window=4)
    assert snapshot(database) == before


def test_the_same_record_index_in_two_jobs_is_no_conflict(database: Database) -> None:
    for _ in range(2):
        (claimed,) = claim_all(database, make_job(database))
        complete(database, claimed)
    assert count(database, results) == 2


def test_a_cancelled_jobs_chunk_cannot_complete(database: Database) -> None:
    job_id = make_job(database, (2, 1))
    claimed, _ = claim_all(database, job_id)
    database.transact(cancel_job, job_id)
    before = snapshot(database)
    with pytest.raises(LeaseLostError):
        complete(database, claimed, {1})
    assert snapshot(database) == before


def test_a_chunk_that_slipped_past_its_jobs_cancelling_cannot_complete(database: Database) -> None:
    job_id = make_job(database, (2,))
    (claimed,) = claim_all(database, job_id)
    put_job(database, job_id, JobStatus.CANCELLED)
    before = snapshot(database)
    with pytest.raises(LeaseLostError, match="was cancelled"):
        complete(database, claimed)
    assert snapshot(database) == before


def test_last_chunks_completed_at_once_close_the_job(database: Database) -> None:
    for _ in range(12):
        job_id = make_job(database, (1, 1, 1))
        claims = claim_all(database, job_id)
        assert at_once(*[lambda it=it: complete(database, it) for it in claims]) == [[], [], []]
        assert counts(database, job_id) == ("completed", 3, 0)


def test_two_last_completions_that_overlap_close_the_job_exactly_once(
    postgresql: Database,
) -> None:
    """Both transactions are open at once, and neither sees the other's chunk done."""
    job_id = make_job(postgresql, (1, 1))
    first, last = claim_all(postgresql, job_id)
    with ThreadPoolExecutor(1) as pool:
        with postgresql.write() as connection:
            complete_chunk(connection, first, outcome(first), window=4)
            waits = waiting_for_lock(postgresql)
            other = pool.submit(complete, postgresql, last)
            wait_for_lock(postgresql, waits)
            assert counts(postgresql, job_id) == ("running", 0, 0)
        assert other.result(20) == []
    assert counts(postgresql, job_id) == ("completed", 2, 0)


def waiting_for_lock(database: Database) -> int:
    with database.read() as connection:
        query = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        return int(connection.exec_driver_sql(query).scalar() or 0)


def wait_for_lock(database: Database, before: int) -> None:
    wait_until(lambda: waiting_for_lock(database) > before, what="waiting for the lock")


# --- the share of errors above which a job fails


def complete_in_turn(database: Database, job_id: str, errors: Collection[int]) -> list[str]:
    """Complete the chunks one by one until the job ends; its status after each."""
    seen = []
    for message in dispatch(database, job_id):
        claimed = claim(database, message)
        if claimed is None:
            break
        complete(database, claimed, errors)
        seen.append(job_of(database, job_id).status)
    return seen


@pytest.mark.parametrize(
    ("rate", "errors", "status"),
    [
        (0.05, 10, "running"),  # exactly at the limit: 10 of 200
        (0.05, 11, "failed"),
        (0.29, 58, "running"),  # 0.29 * 200 is less than 58 in floating point
        (0.29, 59, "failed"),
        (0.0, 0, "running"),
        (0.0, 1, "failed"),
        (1.0, 200, "running"),
        (None, 200, "running"),
    ],
)
def test_a_job_fails_above_its_error_rate_and_not_at_it(
    database: Database, rate: float | None, errors: int, status: str
) -> None:
    job_id = make_job(database, (200, 1), max_error_rate=rate)
    assert complete_in_turn(database, job_id, range(errors))[0] == status


def test_the_rate_is_taken_over_at_least_100_records(database: Database) -> None:
    job_id = make_job(database, (10, 80, 1, 109), max_error_rate=0.05)
    first, second, third, _ = claim_all(database, job_id)
    complete(database, first, range(5))  # half of them, but only 5 of the first 100
    assert job_of(database, job_id).status == "running"
    complete(database, second)
    assert job_of(database, job_id).status == "running"
    complete(database, third, {90})
    job = job_of(database, job_id)
    assert job.status == "failed"
    assert "6 of the first 91 records are errors, over the limit of 5.0%" in job.error


def test_a_job_smaller_than_the_sample_is_measured_by_its_own_size(database: Database) -> None:
    for errors, status in ((2, "running"), (3, "failed")):
        job_id = make_job(database, (10, 10), max_error_rate=0.1)
        assert complete_in_turn(database, job_id, range(errors))[0] == status


@pytest.mark.parametrize(("errors", "status"), [(1, "completed_with_errors"), (2, "failed")])
def test_the_rate_holds_for_a_jobs_last_chunk_too(
    database: Database, errors: int, status: str
) -> None:
    job_id = make_job(database, (10,), max_error_rate=0.1)
    assert complete_in_turn(database, job_id, range(errors)) == [status]
    assert counts(database, job_id) == (status, 10 - errors, errors)


def test_rows_that_could_not_be_read_count_towards_the_rate(database: Database) -> None:
    job_id = make_job(database, (6, 1), bad=3, max_error_rate=0.2)
    assert complete_in_turn(database, job_id, ()) == ["failed"]


def test_a_job_that_fails_by_its_rate_keeps_what_retry_needs(database: Database) -> None:
    job_id = make_job(database, (2, 1, 1), max_error_rate=0.0)
    first, _ = [claim(database, message) for message in dispatch(database, job_id, 2)]
    assert first is not None
    assert complete(database, first, {0}) == []
    assert statuses(database, job_id) == ["done", "running", "failed"]
    assert count(database, payloads) == 3


# --- the window


def test_the_window_holds_so_many_dispatched_chunks_and_each_completion_tops_it_up(
    database: Database,
) -> None:
    job_id = make_job(database, [1] * 6, queue="gpu", priority=Priority.HIGH)
    messages = dispatch(database, job_id, 2)
    with database.read() as connection:
        ids = connection.scalars(select(chunks.c.id).order_by(chunks.c.id)).all()
    assert messages == [ChunkMessage(one, 0, "gpu", "high") for one in ids[:2]]
    assert dispatch(database, job_id, 2) == []
    claimed = claim(database, messages[0])
    assert claimed is not None
    new = complete(database, claimed, window=2)
    assert new == [ChunkMessage(ids[2], 0, "gpu", "high")]
    dispatched = chunks.c.status == "dispatched"
    assert count(database, chunks, dispatched, chunks.c.dispatched_at.is_not(None)) == 2
    assert count(database, chunks, chunks.c.dispatches == 1) == 2


def test_top_ups_at_once_never_go_over_the_window(database: Database) -> None:
    for _ in range(5):
        job_id = make_job(database, [1] * 20)
        found = at_once(*[lambda it=job_id: dispatch(database, it, 4)] * 5)
        assert sum(map(len, found)) == 4
        assert statuses(database, job_id).count("dispatched") == 4


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
def test_a_window_over_a_small_analysed_table_is_not_exceeded(
    postgresql: Database, size: int
) -> None:
    """UPDATE … IN (SELECT … LIMIT … FOR UPDATE) must not run its subquery once per row."""
    for setting in ("enable_hashjoin", "enable_hashagg", "enable_sort"):
        job_id = make_job(postgresql, [1] * size)
        with postgresql.write() as connection:
            connection.exec_driver_sql("ANALYZE chunks")
            connection.exec_driver_sql(f"SET LOCAL {setting} = off")
            fill_window(connection, job_id, 1)
        assert statuses(postgresql, job_id).count("dispatched") == 1


def test_completers_at_once_keep_the_window_and_finish_the_job(database: Database) -> None:
    window, workers_there = 3, 4
    job_id = make_job(database, [1] * 24)
    queue: SimpleQueue[ChunkMessage | None] = SimpleQueue()
    most = []
    for message in dispatch(database, job_id, window):
        queue.put(message)

    def work() -> None:
        while (message := queue.get(timeout=30)) is not None:
            claimed = claim(database, message, threading.current_thread().name)
            assert claimed is not None
            new = complete(database, claimed, window=window)
            most.append(statuses(database, job_id).count("dispatched"))
            for one in new:
                queue.put(one)
            if len(most) == 24:
                for _ in range(workers_there):
                    queue.put(None)

    assert at_once(*[work] * workers_there) == [None] * workers_there
    assert max(most) <= window
    assert counts(database, job_id) == ("completed", 24, 0)


def test_a_top_up_passes_over_a_chunk_that_another_transaction_holds(postgres_url: str) -> None:
    for database in with_tables(postgres_url):
        job_id = make_job(database, (1, 1, 1))
        claimed = claim(database, dispatch(database, job_id, 1)[0])
        assert claimed is not None
        with (
            database.write() as connection,
            open_database(postgres_url, transaction_seconds=2) as other,
        ):
            next_one = chunks.c.id == claimed.chunk_id + 1
            connection.execute(update(chunks).where(next_one).values(error="held"))
            with other.write() as completing:
                (message,) = complete_chunk(completing, claimed, outcome(claimed), window=1)
        assert message.chunk_id == claimed.chunk_id + 2


def test_the_window_is_twice_the_live_slots_of_the_queue_and_at_least_four(
    database: Database,
) -> None:
    def size(queue: str) -> int:
        with database.read() as connection:
            return window_size(connection, queue)

    assert size("default") == MIN_WINDOW == 4
    for name, queues in (("a", ("default",)), ("b", ("default", "gpu")), ("c", ("gpu",))):
        database.transact(register_worker, WorkerInfo(name, "host", 1, "cpu", 3, queues))
    assert (size("default"), size("gpu"), size("other")) == (12, 12, 4)
    lost = workers.c.last_seen - LIVE_SECONDS - 1
    put(database, workers, workers.c.id == "b", last_seen=lost)
    assert (size("default"), size("gpu")) == (6, 6)


# --- complete against cancel


def test_completing_and_cancelling_at_once_never_deadlocks_and_stays_consistent(
    postgresql: Database,
) -> None:
    deadlocks = []

    def note(context: Any) -> None:
        if getattr(context.original_exception, "sqlstate", None) == "40P01":
            deadlocks.append(context.statement)

    event.listen(postgresql.engine, "handle_error", note)
    ended = set()
    for _ in range(25):
        job_id = make_job(postgresql, [2] * 5)
        claimed = [claim(postgresql, it) for it in dispatch(postgresql, job_id, 3)]
        claims = [one for one in claimed if one is not None]
        calls = [
            lambda it=it: complete(postgresql, it, {it.records[0].index}, window=3)
            for it in reversed(claims)
        ]
        cancelled, *raised = at_once(lambda it=job_id: postgresql.transact(cancel_job, it), *calls)
        assert cancelled is None or isinstance(cancelled, JobConflictError)
        assert all(isinstance(one, (list, LeaseLostError)) for one in raised), raised
        job = job_of(postgresql, job_id)
        ended.add(job.status)
        own = results.c.job_id == job_id
        assert count(postgresql, results, own) == job.done_records + job.error_records
        assert count(postgresql, results, own, results.c.error_code.is_not(None)) == (
            job.error_records
        )
        written = sum(isinstance(one, list) for one in raised)
        assert job.done_records + job.error_records == 2 * written
        assert statuses(postgresql, job_id).count("done") == written
    assert ended == {"cancelled"}
    assert deadlocks == []


def test_the_last_chunk_against_cancel_ends_the_job_one_way_or_the_other(
    database: Database,
) -> None:
    for _ in range(12):
        job_id = make_job(database)
        (claimed,) = claim_all(database, job_id)
        completed, cancelled = at_once(
            lambda it=claimed: complete(database, it),
            lambda it=job_id: database.transact(cancel_job, it),
        )
        if completed == []:
            assert isinstance(cancelled, JobConflictError)
            assert counts(database, job_id) == ("completed", 1, 0)
        else:
            assert isinstance(completed, LeaseLostError)
            assert cancelled is None
            assert counts(database, job_id) == ("cancelled", 0, 0)
        assert count(database, results, results.c.job_id == job_id) == (completed == [])
        assert count(database, payloads) == 0


def test_failing_a_job_waits_for_no_chunk_that_another_holds_and_sweep_tidies_it(
    postgres_url: str,
) -> None:
    for database in with_tables(postgres_url):
        job_id = make_job(database, (1, 1))
        first = dispatch(database, job_id)[0].chunk_id
        with (
            database.write() as connection,
            open_database(postgres_url, transaction_seconds=2) as other,
        ):
            connection.execute(update(chunks).where(chunks.c.id == first).values(error="held"))
            assert other.transact(fail_job, job_id, "no model")
        assert statuses(database, job_id) == ["dispatched", "failed"]
        assert claim(database, ChunkMessage(first, 0, "default", "normal")) is None
        assert database.transact(tidy_ended_jobs) == 1
        assert statuses(database, job_id) == ["failed", "failed"]
