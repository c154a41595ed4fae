"""Purge: the texts of whole jobs go, and all that was made of them but the counts.

A row stays, with its place in the input, label, score, error code and tokens, so that every count
stays right; what tells whose it was, and what was said, goes. In short transactions, each of which
may be the last: a purge that was cut off goes on when it is asked for again. What the files still
hold of it afterwards is ``vacuum.py``'s; single records are ``record_purge.py``'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, Select, Table, delete, func, null, or_, select, update

from textmill.core.errors import JobConflictError
from textmill.core.jobs import ENDED, ChunkStatus, JobStatus, not_ended
from textmill.core.tasks import options_from_inputs
from textmill.db.audits import begin_audit, count_audited, finish_audit
from textmill.db.clock import now
from textmill.db.indexing import make_entries, remove_entries
from textmill.db.jobs import get_job
from textmill.db.models import audits, chunks, jobs, payloads, result_values, results, reuse_keys
from textmill.db.pace import Pace
from textmill.db.results import INDEXED
from textmill.db.reuse import forget_answers
from textmill.db.session import Database

PURGED_ID = ""  # no record that is read has it
PURGED = "purged"  # the error code of a record that was purged before it ran
# What a row loses. JSON's own null would be a value.
BLANK: dict[str, Any] = {
    "record_id": PURGED_ID,
    **dict.fromkeys(
        ("text", "text_hash", "output", "vector", "detail", "error_message", "extra"), null()
    ),
}
FIRST_ROWS, MOST_ROWS = 50, 1000  # of one transaction
FIRST_PAYLOADS, MOST_PAYLOADS = 4, 500

Report = Callable[[int], None]
"""Told of each transaction how many records it purged."""


@dataclass(frozen=True, slots=True)
class Purgeable:
    """A job that can be purged, and how many records it has that are not."""

    job: Row[Any]
    records: int


def find_old(connection: Connection, seconds: float) -> list[Purgeable]:
    """The jobs that ended longer ago and hold anything to purge, the oldest first."""
    old = _unpurged().where(
        jobs.c.status.in_([status.value for status in ENDED]),
        jobs.c.finished_at < now() - seconds,
    )
    found = connection.execute(old.order_by(jobs.c.id)).all()
    return [Purgeable(job, count_left(connection, job)) for job in found]


def _unpurged() -> Select[Any]:
    """The jobs of which no purge as a whole has come to its end; read off the audits.

    To look for what is left would read all rows of every job that was ever purged. Purges of its
    records began before the job's ``purged_at``: none comes to its end after that.
    """
    ended = (
        select(audits.c.job_id, func.max(audits.c.at).label("began_at"))
        .where(audits.c.action == "purge", audits.c.finished_at.is_not(None))
        .group_by(audits.c.job_id)
        .subquery()
    )
    return (
        select(jobs)
        .outerjoin(ended, ended.c.job_id == jobs.c.id)
        .where(
            or_(
                jobs.c.purged_at.is_(None),
                ended.c.began_at.is_(None),
                ended.c.began_at < jobs.c.purged_at,
            )
        )
    )


def count_left(connection: Connection, job: Row[Any]) -> int:
    """How many rows of the job are not purged."""
    of_job = results.c.job_id == job.id
    if job.purged_at is not None:
        left = select(func.count()).where(of_job, results.c.record_id > PURGED_ID)
        return connection.scalar(left) or 0
    gone = select(func.count()).where(of_job, results.c.record_id == PURGED_ID)
    return int(job.done_records + job.error_records) - (connection.scalar(gone) or 0)


def is_purged(connection: Connection, job: Row[Any]) -> bool:
    """Whether nothing of the job is left to purge."""
    return connection.execute(_unpurged().where(jobs.c.id == job.id)).first() is None


def check_purgeable(connection: Connection, job: Row[Any]) -> None:
    """Raise JobConflictError for a job that has not ended, or that workers still have in hand."""
    status = JobStatus(job.status)
    if status not in ENDED:
        raise JobConflictError(not_ended(job.id, status, "purged"))
    running = connection.scalar(
        select(func.sum(chunks.c.records)).where(
            chunks.c.job_id == job.id, chunks.c.status == ChunkStatus.RUNNING.value
        )
    )
    if running:
        raise JobConflictError(
            f"job {job.id} is {status}, and workers still have {running} of its records in hand; "
            "purge it when they are done, which is a lease at most; if none runs, after a "
            "`textmill sweep`"
        )


def purge_job(
    database: Database,
    job_id: str,
    asked: Mapping[str, Any],
    report: Report = lambda records: None,
) -> int:
    """Remove the job's texts and all that was made of them; returns how many rows that changed.

    ``asked`` is what the audit keeps of the request. Raises JobConflictError as
    ``check_purgeable`` does. Nothing can bring the job back to life once this has begun.
    """
    audit_id = database.transact(_begin, job_id, asked)
    _drop_payloads(database, job_id)
    with database.read() as connection:
        job = get_job(connection, job_id)
    purged = _blank_rows(database, job, audit_id, report)
    database.transact(_finish, job, audit_id)
    return purged


def _begin(connection: Connection, job_id: str, asked: Mapping[str, Any]) -> int:
    """Mark the job first: from here on nothing reads its rows, and no retry revives it."""
    told = (chunks.c.job_id == job_id, chunks.c.error.is_not(None))
    locked = select(chunks.c.id).where(*told).order_by(chunks.c.id).with_for_update()
    connection.execute(update(chunks).where(chunks.c.id.in_(locked)).values(error=None))
    job = connection.execute(select(jobs).where(jobs.c.id == job_id).with_for_update()).one()
    check_purgeable(connection, job)
    connection.execute(
        update(jobs)
        .where(jobs.c.id == job_id)
        .values(
            purged_at=func.coalesce(jobs.c.purged_at, now()),
            input_hash=None,
            error=None,
            params=_without_inputs(job),
        )
    )
    return begin_audit(connection, "purge", job_id, asked)


def _without_inputs(job: Row[Any]) -> dict[str, Any]:
    inputs = options_from_inputs(job.task, job.params)
    return {name: value for name, value in job.params.items() if name not in inputs}


def _drop_payloads(database: Database, job_id: str) -> None:
    pace = Pace(FIRST_PAYLOADS, MOST_PAYLOADS)

    def drop(connection: Connection) -> int:
        erase_deleted(connection)
        with pace.piece(pace.size):
            page = (
                select(payloads.c.chunk_id)
                .join(chunks, chunks.c.id == payloads.c.chunk_id)
                .where(chunks.c.job_id == job_id)
                .limit(pace.size)
            )
            ids = connection.scalars(page).all()
            connection.execute(delete(payloads).where(payloads.c.chunk_id.in_(ids)))
        return len(ids)

    while database.transact(drop):
        pass


def _blank_rows(database: Database, job: Row[Any], audit_id: int, report: Report) -> int:
    pace = Pace(FIRST_ROWS, MOST_ROWS)
    last, purged = -1, 0
    while True:
        # Read and cut into words outside of the transaction that writes: nothing changes the rows
        # of a job that is marked as purged.
        with database.read() as connection:
            rows = _next_rows(connection, job.id, last, pace.size)
        if not rows:
            return purged

        def blank(connection: Connection, rows: Sequence[Row[Any]] = rows) -> bool:
            if not _are_there(connection, job.id, rows):
                return False
            with pace.piece(len(rows)):
                blank_rows(connection, job, rows)
                count_audited(connection, audit_id, len(rows))
            return True

        if database.transact(blank):
            purged += len(rows)
            report(len(rows))
            last = rows[-1].record_index


def _are_there(connection: Connection, job_id: str, rows: Sequence[Row[Any]]) -> bool:
    """Whether no other purge had them first: what finds a row may be removed once only."""
    connection.execute(select(jobs.c.id).where(jobs.c.id == job_id).with_for_update())
    first, last = rows[0].record_index, rows[-1].record_index
    own = (results.c.job_id == job_id, results.c.record_index.between(first, last))
    unpurged = select(func.count()).where(*own, results.c.record_id != PURGED_ID)
    return connection.scalar(unpurged) == len(rows)


def _next_rows(connection: Connection, job_id: str, last: int, size: int) -> Sequence[Row[Any]]:
    page = (
        select(*INDEXED)
        .where(
            results.c.job_id == job_id,
            results.c.record_index > last,
            results.c.record_id != PURGED_ID,
        )
        .order_by(results.c.record_index)
        .limit(size)
    )
    return connection.execute(page).all()


def blank_rows(connection: Connection, job: Row[Any], rows: Sequence[Row[Any]]) -> None:
    """Take from these rows of a job all that is purged, with what finds them.

    They are as they were read, in the order of their indexes.
    """
    erase_deleted(connection)
    entries = make_entries(job, rows, sqlite=connection.dialect.name == "sqlite")
    remove_entries(connection, job.id, entries)
    span = (rows[0].record_index, rows[-1].record_index)
    each = [row.record_index for row in rows]
    dense = span[1] - span[0] < len(rows)  # no others lie between them

    def these(table: Table) -> tuple[Any, Any]:
        index = table.c.record_index
        return table.c.job_id == job.id, index.between(*span) if dense else index.in_(each)

    forget_answers(connection, job, these(reuse_keys)[1])
    connection.execute(update(results).where(*these(results)).values(**BLANK))


def erase_deleted(connection: Connection) -> None:
    """Have SQLite write zeros over what this connection deletes, whatever it was built with."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("PRAGMA secure_delete = ON")


def _finish(connection: Connection, job: Row[Any], audit_id: int) -> None:
    """What no row led to goes too."""
    connection.execute(delete(result_values).where(result_values.c.job_id == job.id))
    forget_answers(connection, job)
    finish_audit(connection, audit_id)
