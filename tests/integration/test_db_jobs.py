"""What people do to whole jobs: cancel, pause, resume, retry, and finding the one they mean."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from textmill.core.errors import JobConflictError, JobNotFoundError
from textmill.db.chunks import LeaseLostError
from textmill.db.dead_loads import abandon_load, remove_dead_loads
from textmill.db.jobs import cancel_job, fail_job, get_job, pause_job, resume_job
from textmill.db.loading import NewChunk, add_chunks, finish_loading
from textmill.db.models import jobs, label_counts, payloads, results
from textmill.db.payloads import encode_payload
from textmill.db.retry import retry_job
from textmill.db.session import Database
from textmill.db.sweep import release_stalled, tidy_ended_jobs

from .. import builders
from ..builders import (
    claim,
    claim_all,
    complete,
    count,
    dispatch,
    job_of,
    make_job,
    put,
    record,
    snapshot,
    statuses,
    waiting_records,
)

# Fixtures; imported by name, they would be redefined by every test's parameter.
tables_url = builders.tables_url
postgresql = builders.postgresql
database = builders.database


def indexes(database: Database, job_id: str, *where: object) -> list[int]:
    """The record indexes that have a result row."""
    with database.read() as connection:
        query = select(results.c.record_index).where(results.c.job_id == job_id, *where)  # type: ignore[arg-type]
        return sorted(connection.scalars(query))


# --- cancel, pause, resume


def test_cancel_keeps_results_and_removes_the_texts_that_wait(database: Database) -> None:
    job_id, other = make_job(database, (2, 1, 1, 1)), make_job(database)
    first, second = (claim(database, message) for message in dispatch(database, job_id, 2))
    assert first is not None
    assert second is not None
    complete(database, first, window=1)
    assert statuses(database, job_id) == ["done", "running", "dispatched", "pending"]
    database.transact(cancel_job, job_id)
    job = job_of(database, job_id)
    assert (job.status, job.done_records) == ("cancelled", 2)
    assert job.finished_at is not None
    assert statuses(database, job_id) == ["done", "cancelled", "cancelled", "cancelled"]
    assert indexes(database, job_id) == [0, 1]
    assert waiting_records(database, job_id) == []
    assert waiting_records(database, other) == [0]
    with pytest.raises(LeaseLostError):
        complete(database, second)


def test_a_job_cancelled_while_it_loads_takes_no_more_records(database: Database) -> None:
    job_id = make_job(database, (2,), bad=1, finish=False, key="k")
    database.transact(cancel_job, job_id)
    more = [NewChunk(1, encode_payload([record(9)]))]
    before = snapshot(database)
    with pytest.raises(JobConflictError, match=f"{job_id} was cancelled"):
        database.transact(add_chunks, job_id, more, load_seconds=60)
    with pytest.raises(JobConflictError, match=f"{job_id} was cancelled"):
        database.transact(finish_loading, job_id, total=3, errors=1, input_hash=b"hash")
    abandon_load(database, job_id)
    assert remove_dead_loads(database) == []
    assert snapshot(database) == before
    job = job_of(database, job_id)
    assert (job.status, job.load_expires_at, job.key) == ("cancelled", None, "k")
    assert (job.error_records, job.total_records) == (1, 1)  # the row it keeps
    assert count(database, payloads) == 0


def test_a_paused_job_goes_on_where_it_stood(database: Database) -> None:
    for started, resumed in ((False, "queued"), (True, "running")):
        job_id = make_job(database, (1, 1, 1))
        messages = dispatch(database, job_id, 2)
        if started:
            assert claim(database, messages[0]) is not None
        database.transact(pause_job, job_id)
        held = "running" if started else "pending"
        assert statuses(database, job_id) == [held, "pending", "pending"]
        assert dispatch(database, job_id) == []
        database.transact(resume_job, job_id)
        assert job_of(database, job_id).status == resumed
        assert len(dispatch(database, job_id)) == (2 if started else 3)


def test_failing_keeps_rows_and_texts_and_says_why(database: Database) -> None:
    job_id = make_job(database, (1, 2, 1))
    first, _ = (claim(database, message) for message in dispatch(database, job_id, 2))
    assert first is not None
    complete(database, first, window=0)
    assert database.transact(fail_job, job_id, "no model")
    job = job_of(database, job_id)
    assert (job.status, job.error, job.done_records) == ("failed", "no model", 1)
    assert job.finished_at is not None
    assert statuses(database, job_id) == ["done", "running", "failed"]
    assert indexes(database, job_id) == [0]
    assert waiting_records(database, job_id) == [1, 2, 3]
    assert not database.transact(fail_job, job_id, "another reason")
    assert job_of(database, job_id) == job


def test_a_change_of_a_job_that_is_not_there_says_so(database: Database) -> None:
    for change in (cancel_job, pause_job, resume_job, retry_job, get_job):
        with pytest.raises(JobNotFoundError, match="no job 'nothing'"):
            database.transact(change, "nothing")


# --- retry


def test_retry_runs_the_error_records_again_and_only_those(database: Database) -> None:
    job_id = make_job(database, (3, 2), bad=1)
    for claimed in claim_all(database, job_id):
        complete(database, claimed, {0, 2, 4})
    assert job_of(database, job_id).status == "completed_with_errors"
    started = job_of(database, job_id).started_at

    assert database.transact(retry_job, job_id) == 3

    job = job_of(database, job_id)
    assert (job.status, job.done_records, job.error_records) == ("queued", 2, 1)
    assert (job.finished_at, job.started_at) == (None, started)
    # The row that could not be read has no input to run again, and stays.
    assert indexes(database, job_id) == [1, 3, 5]
    assert indexes(database, job_id, results.c.error_code == "bad_row") == [5]
    assert waiting_records(database, job_id) == [0, 2, 4]
    assert statuses(database, job_id) == ["done", "done", "pending", "pending"]

    for claimed in claim_all(database, job_id):
        complete(database, claimed, {4})
    job = job_of(database, job_id)
    assert (job.status, job.done_records, job.error_records) == ("completed_with_errors", 4, 2)
    assert indexes(database, job_id) == [0, 1, 2, 3, 4, 5]
    assert database.transact(retry_job, job_id) == 1
    (last,) = claim_all(database, job_id)
    assert [one.index for one in last.records] == [4]
    complete(database, last)
    job = job_of(database, job_id)
    assert (job.status, job.done_records, job.error_records) == ("completed_with_errors", 5, 1)
    assert count(database, payloads) == 0
    with database.read() as connection:
        assert connection.scalar(select(label_counts.c.records)) == 5


def test_retry_of_more_error_records_than_one_statement_takes(database: Database) -> None:
    job_id = make_job(database, (1203,))
    (claimed,) = claim_all(database, job_id)
    complete(database, claimed, range(1, 1203))
    assert database.transact(retry_job, job_id) == 1202
    assert indexes(database, job_id) == [0]
    assert len(waiting_records(database, job_id)) == 1202


def test_retry_touches_no_other_job(database: Database) -> None:
    job_id, other = make_job(database), make_job(database)
    for one in (job_id, other):
        (claimed,) = claim_all(database, one)
        complete(database, claimed, {0})
    before = job_of(database, other), indexes(database, other)
    database.transact(retry_job, job_id)
    assert (job_of(database, other), indexes(database, other)) == before
    assert count(database, payloads) == 2


def test_retry_with_nothing_to_run_again_changes_nothing(database: Database) -> None:
    unreadable = make_job(database, (1,), bad=2)
    (claimed,) = claim_all(database, unreadable)
    complete(database, claimed)
    before = snapshot(database)
    with pytest.raises(JobConflictError, match="could not be read"):
        database.transact(retry_job, unreadable)
    assert snapshot(database) == before


def test_retry_of_a_failed_job_whose_last_records_are_in_work_says_so(database: Database) -> None:
    job_id = make_job(database, (3,))
    (claimed,) = claim_all(database, job_id)
    assert database.transact(fail_job, job_id, "no model")
    with pytest.raises(JobConflictError, match="3 records in work"):
        database.transact(retry_job, job_id)
    complete(database, claimed)
    with pytest.raises(JobConflictError, match="a result for every record"):
        database.transact(retry_job, job_id)


def test_retry_of_a_job_without_errors_says_that_there_are_none(database: Database) -> None:
    job_id = make_job(database)
    (claimed,) = claim_all(database, job_id)
    complete(database, claimed)
    with pytest.raises(JobConflictError, match="is completed: it has no error records"):
        database.transact(retry_job, job_id)


def test_retry_lets_a_failed_job_go_on_with_what_it_had_left(database: Database) -> None:
    job_id = make_job(database, (2, 1, 2))
    first, running = (claim(database, message) for message in dispatch(database, job_id, 2))
    assert first is not None
    assert running is not None
    complete(database, first, {1}, window=0)
    put(database, jobs, jobs.c.id == job_id, load_failures=["a cpu"])
    database.transact(fail_job, job_id, "no model")
    assert database.transact(retry_job, job_id) == 3
    job = job_of(database, job_id)
    assert (job.status, job.error, job.finished_at, job.load_failures) == (
        "queued",
        None,
        None,
        None,
    )
    assert (job.done_records, job.error_records) == (1, 0)
    assert statuses(database, job_id) == ["done", "running", "pending", "pending"]
    complete(database, running, window=0)  # it never stopped
    for claimed in claim_all(database, job_id):
        complete(database, claimed)
    job = job_of(database, job_id)
    assert (job.status, job.done_records, job.error_records) == ("completed", 5, 0)
    assert indexes(database, job_id) == [0, 1, 2, 3, 4]


def test_a_chunk_that_stalled_as_its_job_failed_runs_after_retry(database: Database) -> None:
    job_id = make_job(database, (1, 1))
    claim(database, dispatch(database, job_id, 1)[0], lease=-1)
    database.transact(fail_job, job_id, "no model")
    database.transact(release_stalled)
    assert database.transact(tidy_ended_jobs) == 1
    assert database.transact(retry_job, job_id) == 2
    for claimed in claim_all(database, job_id):
        complete(database, claimed)
    assert job_of(database, job_id).status == "completed"
