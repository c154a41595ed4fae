"""Purge of single records: what is known by certain ids, in the jobs that have it.

Their rows lose what rows of a purged job lose. A record of a failed job that has not run yet has
no row: it gets an error row, so that the job can still end with one for every record.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from textmill.core.errors import JobConflictError
from textmill.core.jobs import ENDED, ChunkStatus, JobStatus, Record, not_ended
from textmill.db.audits import begin_audit, count_audited, finish_audit
from textmill.db.jobs import lock_ended
from textmill.db.models import chunks, jobs, payloads, results
from textmill.db.payloads import decode_payload, encode_payload
from textmill.db.purge import PURGED, PURGED_ID, blank_rows, erase_deleted
from textmill.db.results import INDEXED
from textmill.db.session import Database

IDS_AT_ONCE = 500  # below the number of parameters SQLite takes in one statement
PAYLOADS_AT_ONCE = 20  # of one short read; each is at most some MiB


@dataclass(frozen=True, slots=True)
class Found:
    """A job that has wanted records: places of their rows, and chunks whose payloads have some."""

    job: Row[Any]
    rows: Sequence[int]
    waiting: Mapping[int, Sequence[int]]  # chunk id to the places of those in its payload

    @property
    def records(self) -> int:
        """How many rows there will be without a text.

        A place may be in both: an error row's input is kept, and a chunk may be done meanwhile.
        """
        return len(set(self.rows).union(*self.waiting.values()))


def find_records(
    database: Database, ids: Collection[str], job_id: str | None = None
) -> list[Found]:
    """Where the records of these ids are, in one job or in all, the oldest first.

    Payloads are looked into too, those of jobs that have not ended as well.
    """
    query = select(jobs).where(jobs.c.purged_at.is_(None)).order_by(jobs.c.id)
    if job_id is not None:
        query = query.where(jobs.c.id == job_id)
    with database.read() as connection:
        candidates = connection.execute(query).all()
    found = [_find_in(database, job, ids) for job in candidates]
    return [one for one in found if one is not None]


def _find_in(database: Database, job: Row[Any], ids: Collection[str]) -> Found | None:
    # Payloads first: when a worker completes a chunk between the two, its records are in both. The
    # other way round they would be in neither.
    waiting = dict(_payloads_of(database, job.id, ids))
    with database.read() as connection:
        rows = _rows_of(connection, job.id, ids)
    return Found(job, rows, waiting) if rows or waiting else None


def _rows_of(connection: Connection, job_id: str, ids: Collection[str]) -> list[int]:
    given = list(ids)
    rows: list[int] = []
    for start in range(0, len(given), IDS_AT_ONCE):
        some = given[start : start + IDS_AT_ONCE]
        own = (results.c.job_id == job_id, results.c.record_id.in_(some))
        rows += connection.scalars(select(results.c.record_index).where(*own)).all()
    return sorted(rows)


def _payloads_of(
    database: Database, job_id: str, ids: Collection[str]
) -> Iterator[tuple[int, list[int]]]:
    last = 0
    while True:
        page = (
            select(payloads.c.chunk_id, payloads.c.data)
            .join(chunks, chunks.c.id == payloads.c.chunk_id)
            .where(chunks.c.job_id == job_id, chunks.c.id > last)
            .order_by(chunks.c.id)
            .limit(PAYLOADS_AT_ONCE)
        )
        with database.read() as connection:
            rows = connection.execute(page).all()
        for chunk_id, data in rows:
            records = decode_payload(data)
            if wanted := [record.index for record in records if record.record_id in ids]:
                yield chunk_id, wanted
        if len(rows) < PAYLOADS_AT_ONCE:
            return
        last = rows[-1].chunk_id


def check_ended(job: Row[Any]) -> None:
    """Raise JobConflictError for a job that may have such a record and has not ended."""
    status = JobStatus(job.status)
    if status not in ENDED:
        why = not_ended(job.id, status, "purged")
        raise JobConflictError(f"the record is in a job that has not ended: {why}")


def purge_records(
    database: Database, found: Found, ids: Collection[str], asked: Mapping[str, Any]
) -> int:
    """Purge the records that were found in one job; returns how many rows that changed or made.

    Looks again until there are none: what a worker had in hand as its job failed may be a row by
    now, or in another chunk. Raises JobConflictError if the job has not ended, or workers have one
    of them in hand.
    """
    wanted = frozenset(ids)
    audit_id = database.transact(begin_audit, "purge", found.job.id, asked)
    purged = 0
    left: Found | None = found
    while left is not None:
        purged += _purge_found(database, left, wanted, audit_id)
        left = _find_in(database, found.job, wanted)
    database.transact(finish_audit, audit_id)
    return purged


def _purge_found(database: Database, found: Found, ids: frozenset[str], audit_id: int) -> int:
    purged = sum(
        database.transact(_purge_waiting, found.job, chunk_id, ids, audit_id)
        for chunk_id in sorted(found.waiting)
    )
    for start in range(0, len(found.rows), IDS_AT_ONCE):
        some = found.rows[start : start + IDS_AT_ONCE]
        purged += database.transact(_purge_rows, found.job, some, ids, audit_id)
    return purged


def _purge_rows(
    connection: Connection,
    job: Row[Any],
    indexes: Sequence[int],
    ids: frozenset[str],
    audit_id: int,
) -> int:
    lock_ended(connection, job)
    own = (results.c.job_id == job.id, results.c.record_index.in_(indexes))
    columns: list[Any] = [*INDEXED, results.c.record_id]
    query = select(*columns).where(*own).order_by(results.c.record_index)
    rows = [row for row in connection.execute(query).all() if row.record_id in ids]
    if rows:
        blank_rows(connection, job, rows)
        count_audited(connection, audit_id, len(rows))
    return len(rows)


def _purge_waiting(
    connection: Connection, job: Row[Any], chunk_id: int, ids: frozenset[str], audit_id: int
) -> int:
    """Take the records out of a payload; returns how many of them got a row by that."""
    query = select(chunks).where(chunks.c.id == chunk_id).with_for_update()
    chunk = connection.execute(query).one_or_none()
    lock_ended(connection, job)
    data = connection.scalar(select(payloads.c.data).where(payloads.c.chunk_id == chunk_id))
    if chunk is None or data is None:
        return 0
    records = decode_payload(data)
    kept = [record for record in records if record.record_id not in ids]
    taken = [record for record in records if record.record_id in ids]
    if chunk.status == ChunkStatus.RUNNING.value and taken:
        raise JobConflictError(
            f"a worker has the record of job {job.id} in hand, though the job is {job.status}; "
            "purge it when that is done, which is a lease at most; if none runs, after a "
            "`textmill sweep`"
        )
    erase_deleted(connection)
    _write_payload(connection, chunk_id, kept)
    if chunk.status == ChunkStatus.DONE.value:
        return 0  # these were the inputs of error rows, which are purged as rows
    _end_unrun(connection, chunk, taken)
    count_audited(connection, audit_id, len(taken))
    return len(taken)


def _write_payload(connection: Connection, chunk_id: int, records: Sequence[Record]) -> None:
    own = payloads.c.chunk_id == chunk_id
    if records:
        connection.execute(update(payloads).where(own).values(data=encode_payload(records)))
    else:
        connection.execute(delete(payloads).where(own))


def _end_unrun(connection: Connection, chunk: Row[Any], taken: Sequence[Record]) -> None:
    """Give records that will never run the row that each record of a job ends with."""
    if not taken:
        return
    left = chunk.records - len(taken)
    status = chunk.status if left else ChunkStatus.CANCELLED.value
    connection.execute(
        update(chunks).where(chunks.c.id == chunk.id).values(records=left, status=status)
    )
    rows = [
        {
            "job_id": chunk.job_id,
            "record_index": record.index,
            "record_id": PURGED_ID,
            "error_code": PURGED,
        }
        for record in taken
    ]
    connection.execute(insert(results), rows)
    more = jobs.c.error_records + len(rows)
    connection.execute(update(jobs).where(jobs.c.id == chunk.job_id).values(error_records=more))
