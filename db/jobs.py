"""State changes of whole jobs: loading, cancel, pause, resume, retry, fail.

Each function takes an open write transaction and keeps the lock order: chunks by id, then the job.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    case,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from textmill.core.errors import JobConflictError, JobNotFoundError
from textmill.core.jobs import (
    ENDED,
    ChunkStatus,
    JobSpec,
    JobStatus,
    new_job_id,
    sources_of,
)
from textmill.db.clock import now
from textmill.db.models import chunks, jobs, label_counts, payloads, results


@dataclass(frozen=True, slots=True)
class NewChunk:
    """A chunk ready to be written: how many records it holds and their payload."""

    records: int
    payload: bytes


def absolute_model(model: str) -> str:
    """A local folder or file as an absolute path, so that every worker means the same one."""
    path = Path(model).expanduser()
    # abspath removes "..", as resolve() does, but keeps links: a link may be the stable name.
    return os.path.abspath(path) if path.exists() else model  # noqa: PTH100


def create_job(
    connection: Connection,
    spec: JobSpec,
    *,
    extra_columns: Sequence[str] = (),
    load_seconds: float,
) -> str:
    """Insert the job as ``loading`` and return its id.

    The key goes in with this first row: a second submission with the same key fails here, with
    IntegrityError, before either has read its input.
    """
    job_id = new_job_id()
    connection.execute(
        insert(jobs).values(
            id=job_id,
            name=spec.name,
            task=spec.task,
            model=absolute_model(spec.model),
            revision=spec.revision,
            dtype=spec.dtype,
            params=spec.params,
            extra_columns=list(extra_columns),
            queue=spec.queue,
            priority=spec.priority.value,
            status=JobStatus.LOADING.value,
            max_error_rate=spec.max_error_rate,
            created_at=now(),
            load_expires_at=now() + load_seconds,
            key=spec.key,
        )
    )
    return job_id


def is_key_conflict(error: IntegrityError) -> bool:
    """True if an insert failed because another job holds the key."""
    # SQLite names table and column, PostgreSQL its constraint. (A doubled id is a conflict of
    # "jobs_pkey", and "duplicate key" is in the text of every one.)
    reason = str(error.orig)
    return "jobs.key" in reason or "jobs_key_key" in reason


def add_chunks(
    connection: Connection, job_id: str, new: Sequence[NewChunk], *, load_seconds: float
) -> None:
    """Write chunks of a loading job and renew its load lease.

    Raises JobConflictError if the job is no longer loading (cancelled, or its lease ended).
    """
    renewed = connection.execute(
        update(jobs)
        .where(jobs.c.id == job_id, jobs.c.status == JobStatus.LOADING.value)
        .values(load_expires_at=now() + load_seconds)
    )
    if renewed.rowcount != 1:
        raise JobConflictError(f"job {job_id} was cancelled while it was being loaded")
    insert_chunks(connection, job_id, new)


def insert_chunks(connection: Connection, job_id: str, new: Sequence[NewChunk]) -> list[int]:
    """Write pending chunks with their payloads; returns their ids in the order given."""
    if not new:
        return []
    rows = [
        {"job_id": job_id, "status": ChunkStatus.PENDING.value, "records": chunk.records}
        for chunk in new
    ]
    ids = connection.scalars(
        insert(chunks).returning(chunks.c.id, sort_by_parameter_order=True), rows
    ).all()
    connection.execute(
        insert(payloads),
        [
            {"chunk_id": chunk_id, "data": chunk.payload}
            for chunk_id, chunk in zip(ids, new, strict=True)
        ],
    )
    return list(ids)


def finish_loading(
    connection: Connection, job_id: str, *, total: int, errors: int, input_hash: bytes
) -> JobStatus:
    """Accept the job: ``loading → queued``, or ended at once if no record can be processed.

    Guarded, so a cancel during loading wins: then JobConflictError.
    """
    ended = total == errors
    status = JobStatus.COMPLETED_WITH_ERRORS if ended else JobStatus.QUEUED
    changed = connection.execute(
        update(jobs)
        .where(jobs.c.id == job_id, jobs.c.status == JobStatus.LOADING.value)
        .values(
            status=status.value,
            total_records=total,
            error_records=errors,
            input_hash=input_hash,
            queued_at=now(),
            finished_at=now() if ended else None,
            load_expires_at=None,
        )
    )
    if changed.rowcount != 1:
        raise JobConflictError(f"job {job_id} was cancelled while it was being loaded")
    return status


def expire_load(connection: Connection, job_id: str) -> None:
    """End the lease of a loading job whose rows cannot be deleted now, on a full disk say.

    It is then a dead load: no query shows it, and the next submission or sweep removes it.
    """
    connection.execute(
        update(jobs)
        .where(jobs.c.id == job_id, jobs.c.status == JobStatus.LOADING.value)
        .values(load_expires_at=0)
    )


def remove_dead_loads(connection: Connection) -> list[str]:
    """Delete the jobs whose producer vanished while loading; their keys are free again."""
    dead = connection.scalars(
        select(jobs.c.id)
        .where(jobs.c.status == JobStatus.LOADING.value, jobs.c.load_expires_at < now())
        .with_for_update(skip_locked=True)
    ).all()
    return [job_id for job_id in dead if delete_job(connection, job_id, expected=JobStatus.LOADING)]


def _visible() -> ColumnElement[bool]:
    """Every job but the dead loads."""
    return or_(jobs.c.status != JobStatus.LOADING.value, jobs.c.load_expires_at >= now())


def delete_job(connection: Connection, job_id: str, *, expected: JobStatus) -> bool:
    """Remove a job and all it wrote, if it still has the expected status; frees its key."""
    removed = connection.execute(
        delete(jobs).where(jobs.c.id == job_id, jobs.c.status == expected.value)
    )
    if removed.rowcount != 1:
        return False
    own_chunks = select(chunks.c.id).where(chunks.c.job_id == job_id)
    connection.execute(delete(payloads).where(payloads.c.chunk_id.in_(own_chunks)))
    for table in (chunks, results, label_counts):
        connection.execute(delete(table).where(table.c.job_id == job_id))
    return True


def _lock_chunks(connection: Connection, job_id: str, statuses: Sequence[ChunkStatus]) -> list[int]:
    """Lock the job's chunks of these statuses in the order of their ids."""
    return list(
        connection.scalars(
            select(chunks.c.id)
            .where(chunks.c.job_id == job_id, chunks.c.status.in_([s.value for s in statuses]))
            .order_by(chunks.c.id)
            .with_for_update()
        )
    )


def _move_job(connection: Connection, job_id: str, target: JobStatus, **values: Any) -> None:
    """Guarded status change; raises JobConflictError that says what the job is."""
    changed = connection.execute(
        update(jobs)
        .where(jobs.c.id == job_id, jobs.c.status.in_([s.value for s in sources_of(target)]))
        .values(status=target.value, **values)
    )
    if changed.rowcount != 1:
        status = get_job(connection, job_id).status
        raise JobConflictError(f"job {job_id} is {status} and cannot become {target.value}")


def _set_chunks(
    connection: Connection, job_id: str, statuses: Sequence[ChunkStatus], target: ChunkStatus
) -> None:
    connection.execute(
        update(chunks)
        .where(chunks.c.job_id == job_id, chunks.c.status.in_([s.value for s in statuses]))
        .values(status=target.value, lease_owner=None, lease_expires_at=None)
    )


WAITING = (ChunkStatus.PENDING, ChunkStatus.DISPATCHED)
UNFINISHED = (*WAITING, ChunkStatus.RUNNING)


def cancel_job(connection: Connection, job_id: str) -> None:
    """End the job now; running chunks lose their claim, the results there are stay."""
    _lock_chunks(connection, job_id, (*UNFINISHED, ChunkStatus.FAILED))
    _move_job(connection, job_id, JobStatus.CANCELLED, finished_at=now(), load_expires_at=None)
    own = select(chunks.c.id).where(
        chunks.c.job_id == job_id, chunks.c.status != ChunkStatus.DONE.value
    )
    connection.execute(delete(payloads).where(payloads.c.chunk_id.in_(own)))
    _set_chunks(connection, job_id, (*UNFINISHED, ChunkStatus.FAILED), ChunkStatus.CANCELLED)


def pause_job(connection: Connection, job_id: str) -> None:
    """Hold back everything that is not claimed; what is running finishes."""
    _lock_chunks(connection, job_id, WAITING)
    _move_job(connection, job_id, JobStatus.PAUSED)
    _set_chunks(connection, job_id, (ChunkStatus.DISPATCHED,), ChunkStatus.PENDING)


def resume_job(connection: Connection, job_id: str) -> None:
    """Let a paused job go on; the caller dispatches afterwards."""
    started = connection.scalar(select(jobs.c.started_at).where(jobs.c.id == job_id))
    target = JobStatus.QUEUED if started is None else JobStatus.RUNNING
    changed = connection.execute(
        update(jobs)
        .where(jobs.c.id == job_id, jobs.c.status == JobStatus.PAUSED.value)
        .values(status=target.value)
    )
    if changed.rowcount != 1:
        status = get_job(connection, job_id).status
        raise JobConflictError(f"job {job_id} is {status}; only a paused job can be resumed")


def fail_job(connection: Connection, job_id: str, reason: str) -> bool:
    """End the job as failed, keeping rows and payloads for ``retry``; False if it had ended.

    Called by a worker that holds its own chunk, and maybe the job: it therefore never waits for
    another chunk (SKIP LOCKED). One that slips through is not claimed, and sweep tidies it.
    """
    changed = connection.execute(
        update(jobs)
        .where(
            jobs.c.id == job_id,
            jobs.c.status.in_([s.value for s in sources_of(JobStatus.FAILED)]),
        )
        .values(status=JobStatus.FAILED.value, error=reason, finished_at=now())
    )
    if changed.rowcount != 1:
        return False
    waiting = (
        select(chunks.c.id)
        .where(chunks.c.job_id == job_id, chunks.c.status.in_([s.value for s in WAITING]))
        .with_for_update(skip_locked=True)
    )
    connection.execute(
        update(chunks).where(chunks.c.id.in_(waiting)).values(status=ChunkStatus.FAILED.value)
    )
    return True


def close_if_complete(connection: Connection, job_id: str) -> None:
    """Close a job whose counters say that every record has its row (sweep's safety net)."""
    connection.execute(
        update(jobs)
        .where(
            jobs.c.id == job_id,
            jobs.c.status.in_([s.value for s in sources_of(JobStatus.COMPLETED)]),
            jobs.c.done_records + jobs.c.error_records == jobs.c.total_records,
        )
        .values(status=closing_status(jobs.c.error_records), finished_at=now())
    )


def closing_status(error_records: Any) -> Any:
    """SQL for the status of a job that has a row for every record."""
    return case(
        (error_records > 0, JobStatus.COMPLETED_WITH_ERRORS.value),
        else_=JobStatus.COMPLETED.value,
    )


def get_job(connection: Connection, job_id: str) -> Row[Any]:
    """The job's row; raises JobNotFoundError."""
    row = connection.execute(select(jobs).where(jobs.c.id == job_id)).one_or_none()
    if row is None:
        raise JobNotFoundError(f"no job {job_id!r}; `textmill jobs` lists them")
    return row


def find_job_by_key(connection: Connection, key: str) -> Row[Any] | None:
    """The job that holds this idempotency key, or None."""
    return connection.execute(select(jobs).where(jobs.c.key == key)).one_or_none()


def find_job(connection: Connection, reference: str) -> Row[Any]:
    """The job a person means: its id, a unique start of its id, its key, or ``last``.

    Raises JobNotFoundError that offers the latest ids.
    """
    if reference == "last":
        newest = select(jobs).where(_visible()).order_by(jobs.c.id.desc())
        found = connection.execute(newest.limit(1)).all()
    else:
        found = _matching(connection, reference)
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(row.id for row in found)
        raise JobNotFoundError(
            f"{reference!r} is the start of several jobs: {ids}; give more of it"
        )
    latest = connection.scalars(
        select(jobs.c.id).where(_visible()).order_by(jobs.c.id.desc()).limit(3)
    ).all()
    hint = f"the latest are {', '.join(latest)}" if latest else "there are no jobs yet"
    raise JobNotFoundError(f"no job {reference!r}; {hint}")


def _matching(connection: Connection, reference: str) -> Sequence[Row[Any]]:
    """The one job with exactly this id or key, else up to three whose ids start like this."""
    named = (jobs.c.id == reference) | (jobs.c.key == reference)
    exact = connection.execute(select(jobs).where(named).limit(1)).all()
    if exact or not reference:
        return exact
    starts = jobs.c.id.startswith(reference, autoescape=True)
    return connection.execute(select(jobs).where(starts).limit(3)).all()


def list_jobs(
    connection: Connection, *, limit: int = 20, status: str | None = None
) -> Sequence[Row[Any]]:
    """The latest jobs first."""
    query = select(jobs).where(_visible()).order_by(jobs.c.id.desc()).limit(limit)
    if status is not None:
        query = query.where(jobs.c.status == status)
    return connection.execute(query).all()


def count_unfinished(connection: Connection) -> int:
    """How many jobs have not ended."""
    ended = [status.value for status in ENDED]
    return connection.scalar(select(func.count()).where(jobs.c.status.not_in(ended))) or 0
