"""Loading a job: its row, its chunks with their payloads, and its acceptance.

Each function takes an open write transaction. A loading job has a lease; one whose lease ended is
a dead load, which no query shows and the next submission or sweep removes (``dead_loads.py``).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from textmill.core.errors import JobConflictError
from textmill.core.jobs import ChunkStatus, JobSpec, JobStatus, new_job_id
from textmill.db.clock import now
from textmill.db.models import chunks, jobs, payloads, results
from textmill.db.payloads import compress

MAX_CHUNK_BYTES = 1 << 20  # of encoded records
GIVEN_UP = 0.0  # the end of the lease of a load that is being removed


@dataclass(frozen=True, slots=True)
class NewChunk:
    """A chunk ready to be written: how many records it holds and their payload."""

    records: int
    payload: bytes


class ChunkCutter:
    """Cuts encoded records into chunks of at most ``max_records``; long texts make short chunks."""

    def __init__(self, max_records: int) -> None:
        self._max_records = max_records
        self._lines: list[bytes] = []
        self._bytes = 0

    def add(self, line: bytes) -> NewChunk | None:
        """Take one more record (see ``encode_record``); the chunk that it completes, if it does."""
        self._lines.append(line)
        self._bytes += len(line)
        full = len(self._lines) >= self._max_records or self._bytes >= MAX_CHUNK_BYTES
        return self.end() if full else None

    def end(self) -> NewChunk | None:
        """The chunk of what is left, if anything is."""
        lines, self._lines, self._bytes = self._lines, [], 0
        return NewChunk(len(lines), compress(lines)) if lines else None


def absolute_model(model: str) -> str:
    """A local folder or file as an absolute path, so that every worker means the same one."""
    path = Path(model).expanduser()
    # abspath removes "..", as resolve() does, but keeps links: a link may be the stable name.
    return os.path.abspath(path) if path.exists() else model  # noqa: PTH100


def permits_of(spec: JobSpec) -> list[str] | None:
    """What the job lets a worker do with the model's files, as the column ``permits`` has it."""
    asked = {"pickle": spec.allow_pickle, "remote_code": spec.trust_remote_code}
    return [name for name, given in asked.items() if given] or None


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
            model_version=spec.model_version,
            permits=permits_of(spec),
            dtype=spec.dtype,
            params=spec.params,
            extra_columns=list(extra_columns),
            queue=spec.queue,
            priority=spec.priority.value,
            status=JobStatus.LOADING.value,
            max_error_rate=spec.max_error_rate,
            store_text=spec.store_text.value,
            hash_key_id=spec.hash_key_id,
            full_text=spec.full_text,
            index_columns=list(spec.index_columns) or None,
            reuse=spec.reuse,
            reusable_at=now() if spec.reuse else None,  # its results get keys as they are written
            number=_next_number(connection),
            created_at=now(),
            load_expires_at=now() + load_seconds,
            key=spec.key,
        )
    )
    return job_id


def _next_number(connection: Connection) -> Any:
    """One that no job ever had: words of a job that was removed by SQL may lie under its number.

    PostgreSQL counts beside the transactions. SQLite, which has one writer at a time, keeps the
    last number in its file's header, where it outlives the job that had it:
    https://www.sqlite.org/pragma.html#pragma_user_version
    """
    if connection.dialect.name != "sqlite":
        return func.nextval("job_numbers")
    noted = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
    largest = connection.scalar(select(func.max(jobs.c.number)))  # of a file of before, or a dump
    number = max(noted, largest or 0) + 1
    connection.exec_driver_sql(f"PRAGMA user_version = {number}")
    return number


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
        update(jobs).where(*_still_loading(job_id)).values(load_expires_at=now() + load_seconds)
    )
    if renewed.rowcount != 1:
        raise _not_loading(connection, job_id)
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
        .where(*_still_loading(job_id))
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
        raise _not_loading(connection, job_id)
    return status


def _still_loading(job_id: str) -> tuple[ColumnElement[bool], ...]:
    return (
        jobs.c.id == job_id,
        jobs.c.status == JobStatus.LOADING.value,
        jobs.c.load_expires_at.is_distinct_from(GIVEN_UP),
    )


def _not_loading(connection: Connection, job_id: str) -> JobConflictError:
    status = connection.scalar(select(jobs.c.status).where(jobs.c.id == job_id))
    if status in (None, JobStatus.LOADING):
        return JobConflictError(
            f"job {job_id} was given up, because nothing of it reached the database for the "
            "length of its load lease; submit it again"
        )
    return JobConflictError(f"job {job_id} was cancelled while it was being loaded")


def accepted_status(connection: Connection, job_id: str) -> JobStatus | None:
    """The status of a job that was accepted; None for one that still loads, or is gone."""
    accepted = (jobs.c.id == job_id, jobs.c.queued_at.is_not(None))
    status = connection.scalar(select(jobs.c.status).where(*accepted))
    return None if status is None else JobStatus(status)


def count_loaded(connection: Connection, job_id: str) -> tuple[int, int]:
    """How many chunks and how many error rows of a loading job are written."""
    written = [
        connection.scalar(select(func.count()).where(table.c.job_id == job_id)) or 0
        for table in (chunks, results)
    ]
    return written[0], written[1]
