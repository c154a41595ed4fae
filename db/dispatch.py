"""Dispatch: which pending chunks get a message next. SQL first; the caller publishes after commit.

A job has at most W messages in Redis (W = 2 × live worker slots of its queue, at least 4), so jobs
share the workers fairly and Redis does not grow with a job's size.
"""

from __future__ import annotations

from sqlalchemy import Connection, func, select, update

from textmill.core.jobs import ChunkStatus, JobStatus
from textmill.core.messages import ChunkMessage
from textmill.db.clock import now
from textmill.db.models import chunks, jobs
from textmill.db.workers import live_slots

MIN_WINDOW = 4
DISPATCHABLE = (JobStatus.QUEUED.value, JobStatus.RUNNING.value)


def window_size(connection: Connection, queue: str) -> int:
    """W for jobs of this queue, from the workers seen lately."""
    return max(MIN_WINDOW, 2 * live_slots(connection, queue))


def fill_window(connection: Connection, job_id: str, window: int) -> list[ChunkMessage]:
    """Mark pending chunks dispatched until the job has ``window`` of them; returns the new ones.

    The job's row lock makes top-ups serial; chunks are picked with SKIP LOCKED, so this never
    waits for a chunk while it holds the job.
    """
    job = connection.execute(
        select(jobs.c.queue, jobs.c.priority)
        .where(jobs.c.id == job_id, jobs.c.status.in_(DISPATCHABLE))
        .with_for_update()
    ).one_or_none()
    if job is None:
        return []
    dispatched = (chunks.c.job_id == job_id, chunks.c.status == ChunkStatus.DISPATCHED.value)
    free = window - (connection.scalar(select(func.count()).where(*dispatched)) or 0)
    if free <= 0:
        return []
    # Two statements: PostgreSQL may run a sub-select with a LIMIT again for each row it updates.
    chosen = connection.scalars(
        select(chunks.c.id)
        .where(chunks.c.job_id == job_id, chunks.c.status == ChunkStatus.PENDING.value)
        .order_by(chunks.c.id)
        .limit(free)
        .with_for_update(skip_locked=True)
    ).all()
    rows = connection.execute(
        update(chunks)
        .where(chunks.c.id.in_(chosen))
        .values(
            status=ChunkStatus.DISPATCHED.value,
            dispatched_at=now(),
            dispatches=chunks.c.dispatches + 1,
        )
        .returning(chunks.c.id, chunks.c.attempt)
    ).all()
    return [ChunkMessage(row.id, row.attempt, job.queue, job.priority) for row in sorted(rows)]
