"""Completing chunks: one row per record, exact counts, and a job that closes exactly once."""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from sqlalchemy import event, select
from sqlalchemy.exc import IntegrityError

from textmill.core.errors import JobConflictError
from textmill.core.jobs import JobStatus
from textmill.db.chunks import LeaseLostError, complete_chunk
from textmill.db.jobs import cancel_job, fail_job, pause_job
from textmill.db.models import label_counts, payloads, results
from textmill.db.payloads import decode_payload
from textmill.db.session import Database

from .. import builders
from ..builders import (
    at_once,
    claim,
    claim_all,
    complete,
    count,
    counts,
    dispatch,
    indexed,
    job_of,
    make_job,
    outcome,
    put_job,
    record,
    snapshot,
    statuses,
)
from ..servers import wait_until

# Fixtures; imported by name, they would be redefined by every test's parameter.
tables_url = builders.tables_url
postgresql = builders.postgresql
database = builders.database


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
        complete(database, claimed, label=label, window=0)
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
    indexed(database, second, twice)
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
            partial(complete, postgresql, it, {it.records[0].index}, window=3)
            for it in reversed(claims)
        ]
        cancelled, *raised = at_once(partial(postgresql.transact, cancel_job, job_id), *calls)
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
            partial(complete, database, claimed),
            partial(database.transact, cancel_job, job_id),
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
