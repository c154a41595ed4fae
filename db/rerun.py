"""Rerun, ``retry --all``: every record of an ended job runs again, from the inputs still in SQL.

A chunk's payload goes when the chunk is done, so its inputs are rebuilt from the result rows, page
by page: memory does not grow with the job. It is one transaction, in which no row is lost if one
input turns out to be missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

from sqlalchemy import Connection, Row, delete, func, select, update

from textmill.core.errors import JobConflictError
from textmill.core.jobs import ChunkStatus, JobStatus, Record, whats_possible
from textmill.core.stored_texts import StoreText
from textmill.core.tasks import get_task, read_own_params, validate_params
from textmill.db.jobs import check_not_purged, get_job
from textmill.db.loading import ChunkCutter, NewChunk, insert_chunks
from textmill.db.models import chunks, jobs, label_counts, payloads, results
from textmill.db.payloads import decode_payload, encode_record
from textmill.db.purge import PURGED, PURGED_ID
from textmill.db.results import delete_results
from textmill.db.reuse import forget_answers

RERUNNABLE = (
    JobStatus.COMPLETED.value,
    JobStatus.COMPLETED_WITH_ERRORS.value,
    JobStatus.FAILED.value,
)
UNDONE = (ChunkStatus.PENDING, ChunkStatus.DISPATCHED, ChunkStatus.RUNNING, ChunkStatus.FAILED)
PAGE_ROWS = 1000


def rerun_job(connection: Connection, job_id: str) -> int:
    """Queue every record of the job again and return how many will run; its results go.

    Rows of inputs that could not be read stay. Raises JobConflictError, and changes nothing, if the
    job has not ended, was cancelled, or an input is not stored.
    """
    job = get_job(connection, job_id)
    check_not_purged(job)
    if job.status not in RERUNNABLE:
        raise _not_ended(job)
    waiting = _take_back(connection, job_id)
    _queue_anew(connection, job)
    _check_inputs(connection, job)
    _end_purged(connection, job_id)
    again = 0
    for chunk in _cut(_take_inputs(connection, job), _chunk_records(connection, job)):
        insert_chunks(connection, job_id, [chunk])
        again += chunk.records
    unreadable = job.total_records - waiting - again
    _check_rows(connection, job, unreadable)
    if waiting + again == 0:
        raise JobConflictError(
            f"job {job_id} has no record to run again: its rows are inputs that could not be "
            "read, which have to be mended and submitted anew"
        )
    connection.execute(update(jobs).where(jobs.c.id == job_id).values(error_records=unreadable))
    return waiting + again


def _not_ended(job: Row[Any]) -> JobConflictError:
    if job.status == JobStatus.CANCELLED:
        return JobConflictError(
            f"job {job.id} is cancelled, and the inputs of what had not run are gone with that; "
            "submit its input again"
        )
    status = JobStatus(job.status)
    return JobConflictError(
        f"job {job.id} is {status}; only a job that has ended can run again as a whole; "
        f"{whats_possible(job.id, status)}"
    )


def _take_back(connection: Connection, job_id: str) -> int:
    """Make a failed job's undone chunks pending; how many records they hold.

    One that still runs is taken from its worker: all records of the new run run in it.
    """
    undone = (
        select(chunks.c.id)
        .where(chunks.c.job_id == job_id, chunks.c.status.in_([s.value for s in UNDONE]))
        .order_by(chunks.c.id)
        .with_for_update()
    )
    taken = connection.scalars(
        update(chunks)
        .where(chunks.c.id.in_(undone))
        .values(
            status=ChunkStatus.PENDING.value, failures=0, lease_owner=None, lease_expires_at=None
        )
        .returning(chunks.c.records)
    )
    return sum(taken)


def _queue_anew(connection: Connection, job: Row[Any]) -> None:
    """Guarded, so that of two retries one wins. All figures are of the rows there will be.

    Device seconds too: left as they are, tokens per second would be of two runs' time. And the
    model is what its name means now: as all rows go, none of another version is left beside them,
    and no key by which a row of the new version would answer for the old one.
    """
    changed = connection.execute(
        update(jobs)
        .where(jobs.c.id == job.id, jobs.c.status.in_(RERUNNABLE), jobs.c.purged_at.is_(None))
        .values(
            status=JobStatus.QUEUED.value,
            done_records=0,
            input_tokens=0,
            output_tokens=0,
            device_seconds=0,
            started_at=None,
            finished_at=None,
            error=None,
            load_failures=None,
            model_version=None,
            reused_records=0,
            reusable_at=None,
        )
    )
    if changed.rowcount != 1:
        found = get_job(connection, job.id)
        check_not_purged(found)
        raise _not_ended(found)
    connection.execute(delete(label_counts).where(label_counts.c.job_id == job.id))
    forget_answers(connection, job)


def _check_inputs(connection: Connection, job: Row[Any]) -> None:
    """Refuse a job whose rows cannot give its inputs back; drop the inputs kept of error records.

    This and ``_take_inputs`` are the whole rule: the task's records hold what a row keeps, every
    row has it, and a record's own options are in columns that the job names and rows keep.
    """
    params = validate_params(get_task(job.task), job.params)
    fields = (params.text_field(),) if params.composition() is not None else params.fields()
    unstored = [name for name in fields if name != params.text_field()]
    if unstored:
        raise _input_missing(
            job, f"task {job.task!r} reads {', '.join(unstored)}, which no row has"
        )
    done = (chunks.c.job_id == job.id, chunks.c.status == ChunkStatus.DONE.value)
    ran = connection.scalar(select(chunks.c.id).where(*done).limit(1)) is not None
    if ran and job.store_text != StoreText.FULL:
        raise _input_missing(job, f"it was submitted with --store-text {job.store_text}")
    kept = select(chunks.c.id).where(*done).join(payloads, payloads.c.chunk_id == chunks.c.id)
    for chunk_id in connection.scalars(kept).all():
        own = payloads.c.chunk_id == chunk_id
        data = connection.scalar(select(payloads.c.data).where(own)) or b""
        for record in decode_payload(data):
            if record.params and not params.reads_own:
                raise _input_missing(job, f"record {record.record_id!r} has parameters of its own")
        connection.execute(delete(payloads).where(own))


def _end_purged(connection: Connection, job_id: str) -> None:
    """Records that were purged do not run again: their rows say so, and count as errors."""
    own = (results.c.job_id == job_id, results.c.record_id == PURGED_ID)
    gone: dict[str, Any] = dict.fromkeys(("label", "score", "input_tokens", "output_tokens"))
    connection.execute(update(results).where(*own).values(error_code=PURGED, **gone))


def _input_missing(job: Row[Any], what: str) -> JobConflictError:
    return JobConflictError(
        f"job {job.id} cannot run again as a whole, because not all its inputs are stored: {what}; "
        "submit them again"
    )


def _take_inputs(connection: Connection, job: Row[Any]) -> Iterator[Record]:
    """The records of the job's rows in the order of their indexes; their rows are deleted.

    An input that could not be read has neither text nor hash; an error of a run has its text.
    """
    task = get_task(job.task)
    params = validate_params(task, job.params)
    own = partial(read_own_params, task, params) if params.reads_own else lambda extra: None
    row = results.c
    field = params.text_field()
    page = (
        select(row.record_index, row.record_id, row.text, row.extra, row.error_code, row.text_hash)
        .where(row.job_id == job.id)
        .order_by(row.record_index)
        .limit(PAGE_ROWS)
    )
    last = -1
    while rows := connection.execute(page.where(row.record_index > last)).all():
        # Unpacked: asking each row for its columns by name costs more than all the encoding.
        for index, record_id, text, extra, error_code, text_hash in rows:
            if text is not None:
                yield Record(index, record_id, {field: text}, own(extra or {}), extra)
            elif error_code is None or text_hash is not None:
                raise _input_missing(job, f"the row of record {record_id!r} has no text")
        span = row.record_index.between(last + 1, rows[-1].record_index)
        delete_results(connection, job, span, row.text.is_not(None))
        last = rows[-1].record_index


def _chunk_records(connection: Connection, job: Row[Any]) -> int:
    """As the job was cut before: by its model, which only its submission looked into."""
    of_task = get_task(job.task).chunk_records
    largest = select(func.max(chunks.c.records)).where(chunks.c.job_id == job.id)
    return min(of_task, connection.scalar(largest) or of_task)


def _cut(records: Iterable[Record], chunk_records: int) -> Iterator[NewChunk]:
    cutter = ChunkCutter(chunk_records)
    for record in records:
        if chunk := cutter.add(encode_record(record)):
            yield chunk
    if rest := cutter.end():
        yield rest


def _check_rows(connection: Connection, job: Row[Any], unreadable: int) -> None:
    """Every record that does not run again must have kept its row; a purged job has none."""
    found = connection.scalar(select(func.count()).where(results.c.job_id == job.id)) or 0
    if found != unreadable:
        raise _input_missing(job, f"{unreadable - found:,} of its records have no row")
