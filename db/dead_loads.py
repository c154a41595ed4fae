"""Removing loads that nobody will finish: those whose lease ended, and those that were given up.

A load is given up in one short UPDATE, which frees its key and lets its producer write no more; its
rows are deleted in parts, so that others get their turn however much it had written.
"""

from __future__ import annotations

import math
import time

from sqlalchemy import ColumnElement, Connection, delete, select, update

from textmill.core.jobs import JobStatus
from textmill.db.clock import now
from textmill.db.loading import GIVEN_UP
from textmill.db.models import chunks, jobs, payloads, result_values, results
from textmill.db.session import Database

PART_CHUNKS = 64  # deleted by one transaction, with payloads of up to a mebibyte each
PART_ROWS = 4096


def remove_dead_loads(database: Database, *, seconds: float = math.inf) -> list[str]:
    """Delete the jobs whose producer vanished while loading; returns the ids of those gone.

    Their keys are free at once. What is left after so many seconds is for the next call.
    """
    database.transact(_give_up, jobs.c.load_expires_at < now())
    return _remove(database, seconds=seconds)


def abandon_load(database: Database, job_id: str) -> None:
    """Delete a loading job whose producer gives up; nothing happens if it is past loading.

    Raises ServiceUnavailableError. If its rows cannot be deleted now, on a full disk say, it is
    given up all the same: no query shows it, and the next submission or sweep removes it.
    """
    database.transact(_give_up, jobs.c.id == job_id)
    _remove(database, jobs.c.id == job_id)


def _give_up(connection: Connection, which: ColumnElement[bool]) -> None:
    found = connection.scalars(
        select(jobs.c.id)
        .where(which, jobs.c.status == JobStatus.LOADING.value)
        .where((jobs.c.load_expires_at != GIVEN_UP) | jobs.c.key.is_not(None))
        .with_for_update(skip_locked=True)  # a producer that wakes is about to renew its lease
    ).all()
    connection.execute(
        update(jobs).where(jobs.c.id.in_(found)).values(load_expires_at=GIVEN_UP, key=None)
    )


def _remove(
    database: Database, *which: ColumnElement[bool], seconds: float = math.inf
) -> list[str]:
    deadline = time.monotonic() + seconds
    removed = []
    while (part := database.transact(_remove_part, *which)) is not None:
        job_id, is_gone = part
        if is_gone:
            removed.append(job_id)
        if time.monotonic() > deadline:
            break
    return removed


def _remove_part(connection: Connection, *which: ColumnElement[bool]) -> tuple[str, bool] | None:
    """Delete some rows of a load that was given up; its id and whether it is gone. None: no such.

    The lock of the job's row makes it serial; one that another process removes is passed over.
    """
    job_id = connection.scalar(
        select(jobs.c.id)
        .where(jobs.c.status == JobStatus.LOADING.value, jobs.c.load_expires_at == GIVEN_UP, *which)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    if job_id is None:
        return None
    some = connection.scalars(
        select(chunks.c.id).where(chunks.c.job_id == job_id).limit(PART_CHUNKS)
    ).all()
    connection.execute(delete(payloads).where(payloads.c.chunk_id.in_(some)))
    connection.execute(delete(chunks).where(chunks.c.id.in_(some)))
    rest = connection.scalar(
        select(results.c.record_index)
        .where(results.c.job_id == job_id)
        .order_by(results.c.record_index)
        .offset(PART_ROWS)
        .limit(1)
    )
    part = () if rest is None else (results.c.record_index < rest,)
    connection.execute(delete(results).where(results.c.job_id == job_id, *part))
    is_gone = rest is None and len(some) < PART_CHUNKS
    if is_gone:
        connection.execute(delete(result_values).where(result_values.c.job_id == job_id))
        connection.execute(delete(jobs).where(jobs.c.id == job_id))
    return job_id, is_gone
