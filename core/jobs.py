"""What a job, a record and a chunk are: their fields, their statuses and the legal transitions.

Knows nothing of SQL, Celery or models; every other module builds on these words.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from textmill.core.stored_texts import StoreText

CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"


class JobStatus(StrEnum):
    """Where a job stands; the comment beside each says what it promises."""

    LOADING = "loading"  # its producer is writing records; not dispatched yet
    QUEUED = "queued"  # accepted: all records are in SQL, no chunk was claimed yet
    RUNNING = "running"  # at least one chunk was claimed
    PAUSED = "paused"  # nothing new is claimed; what is running finishes
    COMPLETED = "completed"  # every record has an output
    COMPLETED_WITH_ERRORS = "completed_with_errors"  # every record has a row, some are errors
    FAILED = "failed"  # could not go on; rows and payloads are kept, `retry` continues it
    CANCELLED = "cancelled"  # stopped by a person; keeps the results it has


class ChunkStatus(StrEnum):
    """Where a chunk stands."""

    PENDING = "pending"  # waits in SQL for a place in its job's window
    DISPATCHED = "dispatched"  # a message for it was (or is about to be) published
    RUNNING = "running"  # claimed: a worker holds its lease
    DONE = "done"  # its results are written, its payload is gone
    SPLIT = "split"  # replaced by two smaller chunks
    FAILED = "failed"  # its job failed before it ran
    CANCELLED = "cancelled"  # its job was cancelled


class Priority(StrEnum):
    """Which of a queue's three lists a job's messages go to; consumed in this order."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


_J, _C = JobStatus, ChunkStatus

JOB_TRANSITIONS: dict[JobStatus, frozenset[JobStatus]] = {
    _J.LOADING: frozenset({_J.QUEUED, _J.COMPLETED_WITH_ERRORS, _J.CANCELLED}),
    _J.QUEUED: frozenset({_J.RUNNING, _J.PAUSED, _J.FAILED, _J.CANCELLED}),
    _J.RUNNING: frozenset(
        {_J.COMPLETED, _J.COMPLETED_WITH_ERRORS, _J.FAILED, _J.CANCELLED, _J.PAUSED}
    ),
    _J.PAUSED: frozenset(
        {_J.QUEUED, _J.RUNNING, _J.COMPLETED, _J.COMPLETED_WITH_ERRORS, _J.FAILED, _J.CANCELLED}
    ),
    _J.COMPLETED: frozenset({_J.QUEUED}),  # retry --all
    _J.COMPLETED_WITH_ERRORS: frozenset({_J.QUEUED}),  # retry
    _J.FAILED: frozenset({_J.QUEUED}),  # retry
    _J.CANCELLED: frozenset(),
}

CHUNK_TRANSITIONS: dict[ChunkStatus, frozenset[ChunkStatus]] = {
    _C.PENDING: frozenset({_C.DISPATCHED, _C.FAILED, _C.CANCELLED}),
    _C.DISPATCHED: frozenset({_C.RUNNING, _C.PENDING, _C.FAILED, _C.CANCELLED}),
    _C.RUNNING: frozenset({_C.DONE, _C.PENDING, _C.SPLIT, _C.FAILED, _C.CANCELLED}),
    _C.DONE: frozenset(),
    _C.SPLIT: frozenset(),
    _C.FAILED: frozenset({_C.PENDING, _C.CANCELLED}),
    _C.CANCELLED: frozenset(),
}

ENDED = frozenset({_J.COMPLETED, _J.COMPLETED_WITH_ERRORS, _J.FAILED, _J.CANCELLED})
"""Statuses in which nothing more happens until a person acts."""


def sources_of(target: JobStatus) -> list[JobStatus]:
    """All statuses from which a job may move to ``target``; used as the guard of an UPDATE."""
    return [source for source, targets in JOB_TRANSITIONS.items() if target in targets]


def whats_possible(job_id: str, status: JobStatus) -> str:
    """What a person can do with a job of this status: commands, for messages."""
    change = {"cancel": "ends it", "pause": "holds it back", "resume": "lets it go on"}
    change |= {"retry": "runs its error records again", "retry --all": "runs every record again"}
    can = {
        _J.LOADING: ["cancel"],
        _J.QUEUED: ["pause", "cancel"],
        _J.RUNNING: ["pause", "cancel"],
        _J.PAUSED: ["resume", "cancel"],
        _J.COMPLETED: ["retry --all"],
        _J.COMPLETED_WITH_ERRORS: ["retry", "retry --all"],
        _J.FAILED: ["retry", "retry --all"],
        _J.CANCELLED: [],
    }[status]
    if not can:
        return "submit its input again for a new job"
    return ", ".join(f"`textmill {word} {job_id}` {change[word]}" for word in can)


def refusal(job_id: str, status: JobStatus, wanted: str) -> str:
    """Why a job cannot be ``wanted`` (such as ``paused``), and what can be done with it instead."""
    if wanted == status or (wanted == "resumed" and status in (_J.QUEUED, _J.RUNNING)):
        problem = f"is already {status}"
    elif status in ENDED:
        problem = f"has ended ({status}) and cannot be {wanted}"
    else:
        problem = f"is {status} and cannot be {wanted}"
    return f"job {job_id} {problem}; {whats_possible(job_id, status)}"


def not_ended(job_id: str, status: JobStatus, wanted: str) -> str:
    """Why a job cannot be ``wanted`` (such as ``purged``) yet: no pause helps, only its end."""
    return (
        f"job {job_id} is {status} and cannot be {wanted} before its end; "
        f"`textmill cancel {job_id}` ends it now"
    )


def purge_day(purged_at: float) -> str:
    """The day, in UTC, on which a job was purged."""
    return datetime.fromtimestamp(purged_at, UTC).date().isoformat()


def new_job_id() -> str:
    """A 16-character id that sorts by time: 52 bits of Unix microseconds, then 28 random bits.

    The encoding is Crockford's base 32 in lower case (https://www.crockford.com/base32.html).
    """
    value = (time.time_ns() // 1_000) << 28 | secrets.randbits(28)
    return "".join(CROCKFORD[value >> shift & 31] for shift in range(75, -1, -5))


@dataclass(frozen=True, slots=True)
class Record:
    """One input row.

    ``index`` is its position in the job, 0-based and unique; ``record_id`` is the user's own id or
    the index as text. ``inputs`` holds what the task reads, keyed by the task's field names
    (``{"text": …}`` for classification); ``params`` are the record's own parameters, if any;
    ``extra`` are the other columns, kept and given back with the result.
    """

    index: int
    record_id: str
    inputs: dict[str, Any]
    params: dict[str, Any] | None = None
    extra: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class BadRecord:
    """An input row that cannot be processed; it becomes an error row as soon as it is read."""

    index: int
    record_id: str
    code: str
    message: str
    extra: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """One submission, as the person stated it, without its records."""

    task: str
    model: str
    params: dict[str, Any] = field(default_factory=dict)
    revision: str | None = None
    dtype: str = "auto"
    model_version: str | None = None  # the commit it means now, where that is known
    chunk_records: int | None = None  # a chunk ends at this many; None: as the task says
    allow_pickle: bool = False
    trust_remote_code: bool = False
    name: str | None = None
    queue: str = "default"
    priority: Priority = Priority.NORMAL
    key: str | None = None  # idempotency key
    max_error_rate: float | None = None  # share of records, 0..1; above it the job fails
    full_text: bool = True  # the words of texts and outputs are indexed, for --search
    index_columns: tuple[str, ...] = ()  # other columns that are indexed, for --where
    store_text: StoreText = StoreText.FULL  # what rows keep of a text
    hash_key_id: str | None = None  # of the key of their hashes
    reuse: bool = False  # records are answered from earlier results where there are any
