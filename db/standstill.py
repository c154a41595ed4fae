"""What an unfinished job's chunks are doing while nothing of it gets done, for those who watch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, func, select

from textmill.core.jobs import ChunkStatus
from textmill.db.models import chunks
from textmill.db.workers import live_workers

UNFINISHED = (ChunkStatus.PENDING, ChunkStatus.DISPATCHED, ChunkStatus.RUNNING)


@dataclass(frozen=True, slots=True)
class Standstill:
    """How many chunks wait for what."""

    running: int  # claimed by workers that live
    orphaned: int  # claimed by workers that were not seen lately
    other_chunks: int  # of other jobs, in work at the workers of this job's queue
    other_jobs: int
    crashes: int  # the most that an unfinished chunk has seen
    failures: int  # the same of failures of the system
    error: str | None  # what the chunk that failed or crashed most often says


def look_at_standstill(connection: Connection, job: Row[Any]) -> Standstill:
    """What the job's chunks wait for at this moment; counts only what is unfinished."""
    live = [worker.id for worker in live_workers(connection, job.queue)]
    own = chunks.c.job_id == job.id
    running = chunks.c.status == ChunkStatus.RUNNING.value
    at_live = chunks.c.lease_owner.in_(live)
    others = connection.execute(
        select(func.count(), func.count(chunks.c.job_id.distinct())).where(~own, running, at_live)
    ).one()
    worst = connection.execute(
        select(chunks.c.crashes, chunks.c.failures, chunks.c.error)
        .where(own, chunks.c.status.in_([status.value for status in UNFINISHED]))
        .order_by((chunks.c.crashes + chunks.c.failures).desc(), chunks.c.error.is_(None))
        .limit(1)
    ).one_or_none()
    return Standstill(
        running=_count(connection, own, running, at_live),
        orphaned=_count(connection, own, running, ~at_live),
        other_chunks=others[0],
        other_jobs=others[1],
        crashes=worst.crashes if worst else 0,
        failures=worst.failures if worst else 0,
        error=worst.error if worst else None,
    )


def _count(connection: Connection, *where: ColumnElement[bool]) -> int:
    return connection.scalar(select(func.count()).select_from(chunks).where(*where)) or 0
