"""Retry: the error records of a job run again, and a failed job's waiting chunks go on.

One transaction: delete the error rows, subtract the counters, insert new chunks, job → queued.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, case, delete, func, select, update

from textmill.core.errors import JobConflictError
from textmill.core.jobs import ChunkStatus, JobStatus, refusal, whats_possible
from textmill.core.stored_texts import StoreText
from textmill.db.jobs import check_not_purged, get_job
from textmill.db.loading import NewChunk, insert_chunks
from textmill.db.models import chunks, jobs, payloads, results
from textmill.db.payloads import decode_payload
from textmill.db.results import delete_results

RETRYABLE = (JobStatus.FAILED, JobStatus.COMPLETED_WITH_ERRORS)
# Of a failed job. One that ran as the job failed is pending once it was given back, until a sweep.
WAITING = (ChunkStatus.FAILED.value, ChunkStatus.PENDING.value, ChunkStatus.DISPATCHED.value)
DELETED_AT_ONCE = 500  # below the number of parameters SQLite takes in one statement


def has_retryable(connection: Connection, job_id: str) -> bool:
    """True if the job has ended in a way that ``retry_job`` can mend."""
    inputs = (
        select(payloads.c.chunk_id)
        .join(chunks, chunks.c.id == payloads.c.chunk_id)
        .join(jobs, jobs.c.id == chunks.c.job_id)
        .where(jobs.c.id == job_id, jobs.c.status.in_([status.value for status in RETRYABLE]))
        .limit(1)
    )
    return connection.scalar(inputs) is not None


def rows_taken_by_retry(connection: Connection, job_id: str) -> int:
    """How many records had a row before a retry deleted it, and have none now.

    Read off the chunks: what is done and has no row was done by an earlier run, and runs again in
    chunks that are not done. A record that was retried more than once counts once.
    """
    job = get_job(connection, job_id)
    if job.store_text == StoreText.NONE:
        return 0  # no row has what it takes to run again
    done = func.sum(case((chunks.c.status == ChunkStatus.DONE.value, chunks.c.records), else_=0))
    gone = (ChunkStatus.DONE.value, ChunkStatus.SPLIT.value)
    undone = func.sum(case((chunks.c.status.in_(gone), 0), else_=chunks.c.records))
    sums = connection.execute(select(done, undone).where(chunks.c.job_id == job_id)).one()
    unreadable = connection.scalar(
        select(func.count()).where(
            results.c.job_id == job_id,
            results.c.error_code.is_not(None),
            results.c.text.is_(None),
            results.c.text_hash.is_(None),
        )
    )
    rows = job.done_records + job.error_records - (unreadable or 0)
    return max(0, min(int(sums[0] or 0) - int(rows), int(sums[1] or 0)))


def retry_job(connection: Connection, job_id: str) -> int:
    """Queue the job again and return how many records will run.

    Raises JobConflictError if the job has not ended or nothing of it can run again.
    """
    locked = connection.execute(
        select(chunks.c.id, chunks.c.status)
        .where(chunks.c.job_id == job_id, chunks.c.status.in_([ChunkStatus.DONE.value, *WAITING]))
        .order_by(chunks.c.id)
        .with_for_update()
    ).all()
    _requeue(connection, job_id)
    waiting = _revive_waiting(connection, job_id)  # first: the chunks made next are pending too
    job = get_job(connection, job_id)
    again = sum(_retry_errors(connection, job, row.id) for row in locked if row.status == "done")
    if again + waiting == 0:
        raise JobConflictError(f"job {job_id} {_why_nothing_runs(connection, job_id)}")
    connection.execute(
        update(jobs).where(jobs.c.id == job_id).values(error_records=jobs.c.error_records - again)
    )
    return again + waiting


def _why_nothing_runs(connection: Connection, job_id: str) -> str:
    """Of a failed job, what its workers had in hand may be all that is left, or may be done."""
    running = connection.scalar(
        select(func.sum(chunks.c.records)).where(
            chunks.c.job_id == job_id, chunks.c.status == ChunkStatus.RUNNING.value
        )
    )
    if running:
        return f"has {running} records in work and no other left; retry it when they are done"
    job = get_job(connection, job_id)
    if job.error_records == 0:
        return "has a result for every record; nothing is left to run"
    if job.store_text == StoreText.NONE:
        return (
            "has no record to run again: it was submitted with --store-text none, so the inputs "
            "of its error records are not kept; submit them again"
        )
    return (
        "has no record to run again: its error rows are inputs that could not be read, "
        "which have to be mended and submitted anew"
    )


def _requeue(connection: Connection, job_id: str) -> None:
    changed = connection.execute(
        update(jobs)
        .where(
            jobs.c.id == job_id,
            jobs.c.status.in_([status.value for status in RETRYABLE]),
            jobs.c.purged_at.is_(None),
        )
        .values(
            status=JobStatus.QUEUED.value,
            finished_at=None,
            error=None,
            load_failures=None,
            reusable_at=None,
        )
    )
    if changed.rowcount == 1:
        return
    job = get_job(connection, job_id)
    check_not_purged(job)
    status = JobStatus(job.status)
    if status == JobStatus.COMPLETED:
        raise JobConflictError(
            f"job {job_id} is completed: it has no error records to retry; "
            f"{whats_possible(job_id, status)}"
        )
    raise JobConflictError(refusal(job_id, status, "retried"))


def _retry_errors(connection: Connection, job: Row[Any], chunk_id: int) -> int:
    """Turn the error inputs kept for a done chunk into a new chunk; how many there are."""
    data = connection.scalar(select(payloads.c.data).where(payloads.c.chunk_id == chunk_id))
    if data is None:
        return 0
    indexes = [record.index for record in decode_payload(data)]
    for start in range(0, len(indexes), DELETED_AT_ONCE):
        delete_results(
            connection,
            job,
            results.c.record_index.in_(indexes[start : start + DELETED_AT_ONCE]),
            results.c.error_code.is_not(None),
        )
    connection.execute(delete(payloads).where(payloads.c.chunk_id == chunk_id))
    insert_chunks(connection, job.id, [NewChunk(len(indexes), data)])
    return len(indexes)


def _revive_waiting(connection: Connection, job_id: str) -> int:
    """Make a failed job's waiting chunks pending; how many records they hold."""
    waiting = (chunks.c.job_id == job_id, chunks.c.status.in_(WAITING))
    records = connection.scalar(select(func.sum(chunks.c.records)).where(*waiting)) or 0
    connection.execute(
        update(chunks).where(*waiting).values(status=ChunkStatus.PENDING.value, failures=0)
    )
    return int(records)
