"""Dispatch: which pending chunks get a message next. SQL first; the caller publishes after commit.

A job has at most W messages in Redis (W = 2 × live worker slots of its queue, at least 4), so jobs
share the workers fairly and Redis does not grow with a job's size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sqlalchemy import Connection, func, select, tuple_, update

from textmill.core.errors import ServiceUnavailableError
from textmill.core.jobs import ChunkStatus, JobStatus
from textmill.core.messages import ChunkMessage
from textmill.db.clock import now
from textmill.db.models import chunks, jobs
from textmill.db.session import Database
from textmill.db.workers import live_slots

if TYPE_CHECKING:
    from textmill.core.broker import Publisher

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


def publish(database: Database, publisher: Publisher, messages: Sequence[ChunkMessage]) -> None:
    """Send messages whose chunks were marked dispatched by a transaction that is committed.

    Raises ServiceUnavailableError if the broker is away. The chunks are then pending again, for
    whoever reaches the broker next: a worker that is cut off from it must not keep others waiting.
    """
    try:
        publisher.publish(messages)
    except ServiceUnavailableError:
        database.transact(take_back, messages)
        raise


def take_back(connection: Connection, messages: Sequence[ChunkMessage]) -> None:
    """Make the chunks of unsent messages pending, but for those that were claimed after all."""
    waiting = (
        tuple_(chunks.c.id, chunks.c.attempt).in_(
            [(one.chunk_id, one.attempt) for one in messages]
        ),
        chunks.c.status == ChunkStatus.DISPATCHED.value,
    )
    locked = select(chunks.c.id).where(*waiting).order_by(chunks.c.id).with_for_update()
    connection.execute(
        update(chunks)
        .where(chunks.c.id.in_(locked), *waiting)
        .values(status=ChunkStatus.PENDING.value, dispatches=chunks.c.dispatches - 1)
    )
