"""State changes of one chunk: claim, renew, complete, give back. Every UPDATE is guarded.

The guard is the attempt: a worker may write only while the chunk still carries the attempt of its
own claim. Lock order everywhere: chunks by id, then the job.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Float,
    Row,
    Select,
    case,
    cast,
    delete,
    literal,
    select,
    true,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from textmill.core.errors import RetryableError
from textmill.core.jobs import ChunkStatus, JobStatus, Record
from textmill.core.messages import ChunkMessage
from textmill.core.stored_texts import StoreText
from textmill.db.clock import now
from textmill.db.dispatch import fill_window
from textmill.db.indexing import Entries
from textmill.db.jobs import closing_status, fail_job
from textmill.db.models import chunks, jobs, label_counts, payloads
from textmill.db.payloads import decode_payload, encode_payload
from textmill.db.results import NO_ENTRIES, ResultRow, write_results
from textmill.db.reuse import keep_answers

CLAIMABLE = (JobStatus.QUEUED.value, JobStatus.RUNNING.value)
MAX_FAILURES = 3
MIN_ERROR_SAMPLE = 100  # a rate over fewer records says little


class LeaseLostError(RetryableError):
    """The chunk is no longer this worker's: its lease ended, or its job was cancelled."""


@dataclass(frozen=True)
class Claim:
    """A chunk that this worker holds, with what is needed to process it."""

    chunk_id: int
    attempt: int
    worker_id: str
    crashes: int
    job: Row[Any]
    payload: bytes

    @cached_property
    def records(self) -> list[Record]:
        """The chunk's records."""
        return decode_payload(self.payload)


@dataclass(slots=True)
class ChunkOutcome:
    """All that a processed chunk writes: its rows with what finds them, the inputs of its error
    rows, and the counts."""

    rows: list[ResultRow]
    errors: list[Record]
    labels: Mapping[str, int]
    entries: Entries = NO_ENTRIES
    input_tokens: int = 0
    output_tokens: int = 0
    device_seconds: float = 0.0
    reused: int = 0  # how many of the rows were answered from earlier results
    answers: Mapping[bytes, int] = field(
        default_factory=dict
    )  # reuse keys of computed rows, and their indexes


def claim_chunk(
    connection: Connection,
    chunk_id: int,
    attempt: int,
    *,
    worker_id: str,
    lease_seconds: float,
    alone: bool = False,
) -> Claim | None:
    """Take a dispatched chunk for a lease; None if the message is late, doubled or overtaken.

    A chunk that has seen a crash is given only to a worker that will run it ``alone``.
    """
    claimed = connection.execute(
        update(chunks)
        .where(
            chunks.c.id == chunk_id,
            chunks.c.attempt == attempt,
            chunks.c.status == ChunkStatus.DISPATCHED.value,
            true() if alone else chunks.c.crashes == 0,
            select(literal(1))
            .where(jobs.c.id == chunks.c.job_id, jobs.c.status.in_(CLAIMABLE))
            .exists(),
        )
        .values(
            status=ChunkStatus.RUNNING.value,
            attempt=chunks.c.attempt + 1,
            lease_owner=worker_id,
            lease_expires_at=now() + lease_seconds,
            dispatches=0,
        )
        .returning(chunks.c.job_id, chunks.c.attempt, chunks.c.crashes)
    ).one_or_none()
    if claimed is None:
        return None
    _start_job(connection, claimed.job_id)
    job = connection.execute(select(jobs).where(jobs.c.id == claimed.job_id)).one()
    payload = connection.scalar(select(payloads.c.data).where(payloads.c.chunk_id == chunk_id))
    if payload is None:
        raise RetryableError(f"chunk {chunk_id} of job {job.id} has no payload")
    return Claim(chunk_id, claimed.attempt, worker_id, claimed.crashes, job, payload)


def _start_job(connection: Connection, job_id: str) -> None:
    connection.execute(
        update(jobs)
        .where(jobs.c.id == job_id, jobs.c.status == JobStatus.QUEUED.value)
        .values(
            status=JobStatus.RUNNING.value,
            started_at=case((jobs.c.started_at.is_(None), now()), else_=jobs.c.started_at),
        )
    )


def renew_leases(
    connection: Connection,
    worker_id: str,
    held: Collection[tuple[int, int]],
    *,
    lease_seconds: float,
) -> set[tuple[int, int]]:
    """Renew this worker's leases of the (chunk id, attempt) pairs it holds; returns those it keeps.

    Only those: a claim whose commit was answered by a broken connection belongs to this worker in
    SQL and is worked on by nobody. Its lease has to end.
    """
    mine = (
        tuple_(chunks.c.id, chunks.c.attempt).in_(held),
        chunks.c.lease_owner == worker_id,
        chunks.c.status == ChunkStatus.RUNNING.value,
    )
    locked = select(chunks.c.id).where(*mine).order_by(chunks.c.id).with_for_update()
    renewed = connection.execute(
        update(chunks)
        .where(chunks.c.id.in_(locked), *mine)
        .values(lease_expires_at=now() + lease_seconds)
        .returning(chunks.c.id, chunks.c.attempt)
    )
    return {(row.id, row.attempt) for row in renewed}


def complete_chunk(
    connection: Connection, claim: Claim, outcome: ChunkOutcome, *, window: int
) -> list[ChunkMessage]:
    """Write a processed chunk in one transaction and return what to publish after its commit.

    Order: the fence, the results, the payload, the job's counters and closing, the label counts,
    the job's window. Raises LeaseLostError, and so writes nothing, if the fence does not hold.
    """
    _pass_fence(connection, claim)
    write_results(connection, claim.job.id, outcome.rows, outcome.entries)
    _keep_error_inputs(connection, claim, outcome.errors)
    keep_answers(connection, claim.job.id, outcome.answers)
    job = _count_records(connection, claim, outcome)
    count_labels_of(connection, claim.job.id, outcome.labels)
    if _too_many_errors(job):
        fail_job(connection, job.id, _error_rate_reason(job))
        return []
    return fill_window(connection, job.id, window)


def still_ours(claim: Claim) -> tuple[ColumnElement[bool], ...]:
    """The fence: true of the chunk's row while this claim is the last one."""
    return (
        chunks.c.id == claim.chunk_id,
        chunks.c.attempt == claim.attempt,
        chunks.c.status == ChunkStatus.RUNNING.value,
    )


def _pass_fence(connection: Connection, claim: Claim) -> None:
    passed = connection.execute(
        update(chunks)
        .where(*still_ours(claim))
        .values(status=ChunkStatus.DONE.value, lease_owner=None, lease_expires_at=None)
    )
    if passed.rowcount != 1:
        raise LeaseLostError(why_lost(connection, claim))


def why_lost(connection: Connection, claim: Claim) -> str:
    """In words, why a claim is no longer its chunk's last one."""
    status = connection.scalar(select(jobs.c.status).where(jobs.c.id == claim.job.id))
    overtaken = f"attempt {claim.attempt} was overtaken"
    return f"job {claim.job.id} was cancelled" if status == JobStatus.CANCELLED else overtaken


def _keep_error_inputs(connection: Connection, claim: Claim, errors: Sequence[Record]) -> None:
    """The payload goes; only the inputs of error records stay, for ``retry``, if any may."""
    own = payloads.c.chunk_id == claim.chunk_id
    if errors and claim.job.store_text != StoreText.NONE:
        connection.execute(update(payloads).where(own).values(data=encode_payload(errors)))
    else:
        connection.execute(delete(payloads).where(own))


def _count_records(connection: Connection, claim: Claim, outcome: ChunkOutcome) -> Row[Any]:
    """Add to the job's counters and, in the same UPDATE, close it if this was the last chunk.

    A last chunk that takes the job over its error rate leaves it open, to be failed.
    """
    done = jobs.c.done_records + len(outcome.rows) - len(outcome.errors)
    errors = jobs.c.error_records + len(outcome.errors)
    within_limit = jobs.c.max_error_rate.is_(None) | (
        cast(errors, Float) / jobs.c.total_records <= jobs.c.max_error_rate
    )
    closable = (jobs.c.status != JobStatus.FAILED.value) & within_limit
    is_last = (done + errors == jobs.c.total_records) & closable
    job = connection.execute(
        update(jobs)
        .where(jobs.c.id == claim.job.id, jobs.c.status != JobStatus.CANCELLED.value)
        .values(
            done_records=done,
            error_records=errors,
            input_tokens=jobs.c.input_tokens + outcome.input_tokens,
            output_tokens=jobs.c.output_tokens + outcome.output_tokens,
            device_seconds=jobs.c.device_seconds + outcome.device_seconds,
            reused_records=jobs.c.reused_records + outcome.reused,
            status=case((is_last, closing_status(errors)), else_=jobs.c.status),
            finished_at=case((is_last, now()), else_=jobs.c.finished_at),
        )
        .returning(jobs)
    ).one_or_none()
    if job is None:
        raise LeaseLostError(why_lost(connection, claim))
    return job


def count_labels_of(connection: Connection, job_id: str, labels: Mapping[str, int]) -> None:
    """Add to the job's counts by label."""
    if not labels:
        return
    sqlite = connection.dialect.name == "sqlite"
    upsert = sqlite_insert(label_counts) if sqlite else postgresql_insert(label_counts)
    connection.execute(
        upsert.on_conflict_do_update(
            index_elements=["job_id", "label"],
            set_={"records": label_counts.c.records + upsert.excluded.records},
        ),
        [{"job_id": job_id, "label": label, "records": n} for label, n in labels.items()],
    )


def _too_many_errors(job: Row[Any]) -> bool:
    if job.max_error_rate is None:
        return False
    processed = job.done_records + job.error_records
    sample = max(processed, min(job.total_records, MIN_ERROR_SAMPLE))
    # A quotient is exact at the limit, where 0.29 * 200 is less than 58.
    return bool(job.error_records / sample > job.max_error_rate)


def _error_rate_reason(job: Row[Any]) -> str:
    processed = job.done_records + job.error_records
    return (
        f"{job.error_records:,} of the first {processed:,} records are errors, "
        f"over the limit of {job.max_error_rate:.1%} (--max-error-rate)"
    )


def give_back(connection: Connection, worker_id: str, *, crashed: bool) -> int:
    """Return every chunk of a worker that stopped or died to pending; how many there were.

    ``crashed`` counts a crash on each: its process is known to have died by itself.
    """
    held = _held_by(worker_id)
    returned = connection.execute(
        update(chunks)
        .where(chunks.c.id.in_(held), chunks.c.lease_owner == worker_id)
        .values(
            status=ChunkStatus.PENDING.value,
            lease_owner=None,
            lease_expires_at=None,
            crashes=chunks.c.crashes + int(crashed),
            error="its worker died" if crashed else "its worker stopped",
        )
    )
    return returned.rowcount


def _held_by(worker_id: str) -> Select[tuple[int]]:
    """The ids of a worker's running chunks, locked in their order."""
    return (
        select(chunks.c.id)
        .where(chunks.c.lease_owner == worker_id, chunks.c.status == ChunkStatus.RUNNING.value)
        .order_by(chunks.c.id)
        .with_for_update()
    )


def give_back_chunk(
    connection: Connection, claim: Claim, reason: str, *, failed: bool
) -> str | None:
    """Return one claimed chunk to pending; nothing happens if it is no longer held.

    ``failed`` counts a failure of the system. A chunk that failed MAX_FAILURES times fails its job,
    so that what no retry mends does not run for ever; returns the job's id if that happened.
    """
    returned = connection.execute(
        update(chunks)
        .where(*still_ours(claim))
        .values(
            status=ChunkStatus.PENDING.value,
            lease_owner=None,
            lease_expires_at=None,
            failures=chunks.c.failures + int(failed),
            error=reason,
        )
        .returning(chunks.c.job_id, chunks.c.failures)
    ).one_or_none()
    if returned is None or returned.failures < MAX_FAILURES:
        return None
    why = f"chunk {claim.chunk_id} failed {returned.failures} times, the last time with: {reason}"
    return returned.job_id if fail_job(connection, returned.job_id, why) else None
