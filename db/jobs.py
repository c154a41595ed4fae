"""State changes of whole jobs (cancel, pause, resume, fail, close), and finding them.

Each function takes an open write transaction and keeps the lock order: chunks by id, then the job.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    case,
    delete,
    func,
    or_,
    select,
    update,
)

from textmill.core.errors import JobConflictError, JobNotFoundError, PurgedJobError
from textmill.core.jobs import (
    ENDED,
    ChunkStatus,
    JobStatus,
    purge_day,
    refusal,
    sources_of,
)
from textmill.core.storable import require_storable
from textmill.db.clock import now
from textmill.db.models import chunks, jobs, payloads, results

HINTED_JOBS = 1000  # the latest, among which a mistyped one is looked for
NEAR = 0.75  # of 80 ids of one minute no two were more alike than 0.7; one wrong letter is 0.94


def _visible() -> ColumnElement[bool]:
    """Every job but the dead loads."""
    return or_(jobs.c.status != JobStatus.LOADING.value, jobs.c.load_expires_at >= now())


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
        status = JobStatus(get_job(connection, job_id).status)
        raise JobConflictError(refusal(job_id, status, target.value))


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
    _count_unloaded(connection, job_id)


def _count_unloaded(connection: Connection, job_id: str) -> None:
    """A job cancelled while it was loaded has rows only of inputs that could not be read."""
    rows = select(func.count()).where(results.c.job_id == job_id).scalar_subquery()
    connection.execute(
        update(jobs)
        .where(jobs.c.id == job_id, jobs.c.queued_at.is_(None))
        .values(error_records=rows, total_records=rows)
    )


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
        status = JobStatus(get_job(connection, job_id).status)
        raise JobConflictError(refusal(job_id, status, "resumed"))


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


def lock_ended(connection: Connection, job: Row[Any]) -> None:
    """Hold an ended job as it was read: nothing of it changes in this transaction.

    The digest of its input goes: by it a guess of what is removed could be confirmed. Raises
    JobConflictError if the job runs again, or has meanwhile, PurgedJobError if it was purged.
    """
    held = (
        jobs.c.id == job.id,
        jobs.c.status.in_([status.value for status in ENDED]),
        jobs.c.finished_at == job.finished_at,
        jobs.c.purged_at.is_(None),
    )
    changed = connection.execute(update(jobs).where(*held).values(input_hash=None))
    if changed.rowcount != 1:
        found = get_job(connection, job.id)
        check_not_purged(found)
        status = JobStatus(found.status)
        if status not in ENDED:
            raise JobConflictError(refusal(job.id, status, "changed"))
        raise JobConflictError(f"job {job.id} ran again meanwhile; give the command again")


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


def pin_model(connection: Connection, job_id: str, version: str) -> str:
    """Note what the job's model is, unless that is noted already; returns what is noted.

    Guarded, so that the first of several workers decides for all: what the hub calls ``main``, or
    what lies in a folder, may change while the job runs.
    """
    connection.execute(
        update(jobs)
        .where(jobs.c.id == job_id, jobs.c.model_version.is_(None))
        .values(model_version=version)
    )
    return connection.scalar(select(jobs.c.model_version).where(jobs.c.id == job_id)) or version


def get_job(connection: Connection, job_id: str) -> Row[Any]:
    """The job's row; raises JobNotFoundError."""
    row = connection.execute(select(jobs).where(jobs.c.id == job_id)).one_or_none()
    if row is None:
        raise JobNotFoundError(f"no job {job_id!r}; `textmill jobs` lists them")
    return row


def check_not_purged(job: Row[Any]) -> None:
    """Raise PurgedJobError for a job whose texts and outputs were removed."""
    if job.purged_at is not None:
        raise PurgedJobError(
            f"job {job.id} was purged on {purge_day(job.purged_at)}; its texts are gone: submit "
            "its input again for a new job"
        )


def find_job_by_key(connection: Connection, key: str) -> Row[Any] | None:
    """The job that holds this idempotency key, or None."""
    return connection.execute(select(jobs).where(jobs.c.key == key)).one_or_none()


def find_job(connection: Connection, reference: str) -> Row[Any]:
    """The job a person means: its id, a unique start of its id, its key, or ``last``.

    Raises JobNotFoundError that offers what is nearest, or else the latest ids; InvalidJobError
    for what cannot be any of these.
    """
    require_storable("the job", reference, "its id, the start of its id, its key, or 'last'")
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
    raise JobNotFoundError(f"no job {reference!r}; {_hint(connection, reference)}")


def _hint(connection: Connection, reference: str) -> str:
    """Ids, keys and names that are nearly what was given, or the latest ids."""
    columns = (jobs.c.id, jobs.c.key, jobs.c.name)
    latest = select(*columns).where(_visible()).order_by(jobs.c.id.desc()).limit(HINTED_JOBS)
    rows = connection.execute(latest).all()
    if not rows:
        return "there are no jobs yet"
    # A name is no reference; of several jobs of one name the latest is meant.
    meant = {row.name: f"{row.id} ({row.name})" for row in reversed(rows) if row.name}
    meant |= {one: one for row in rows for one in (row.id, row.key) if one}
    if near := difflib.get_close_matches(reference, meant, cutoff=NEAR):
        return f"did you mean {' or '.join(meant[one] for one in near)}?"
    return f"the latest are {', '.join(row.id for row in rows[:3])}"


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


def find_unended(connection: Connection, seconds: float) -> Sequence[Row[Any]]:
    """The jobs that were submitted longer ago and have not ended, the oldest first."""
    old = (
        jobs.c.status.not_in([status.value for status in ENDED]),
        jobs.c.created_at < now() - seconds,
    )
    return connection.execute(select(jobs).where(*old, _visible()).order_by(jobs.c.id)).all()
