"""The book of what was removed and masked: when, of which job, how many rows, and on what terms.

No row of it holds a text or the id of a record.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from textmill.db.clock import now
from textmill.db.models import audits


def begin_audit(
    connection: Connection, action: str, job_id: str | None, detail: Mapping[str, Any]
) -> int:
    """Note that ``purge`` or ``redact`` begins; returns the note's id.

    Before the first change: what is cut off has been noted, with as many rows as it came to.
    """
    inserted = connection.execute(
        insert(audits)
        .values(at=now(), action=action, job_id=job_id, records=0, detail=dict(detail))
        .returning(audits.c.id)
    )
    return int(inserted.scalar_one())


def count_audited(connection: Connection, audit_id: int, records: int) -> None:
    """Note that so many further rows were changed, in the transaction that changes them."""
    more = audits.c.records + records
    connection.execute(update(audits).where(audits.c.id == audit_id).values(records=more))


def finish_audit(
    connection: Connection, audit_id: int, found: Mapping[str, Any] | None = None
) -> None:
    """Note that it came to its end; what was ``found`` stands beside what was asked for."""
    asked = connection.scalar(select(audits.c.detail).where(audits.c.id == audit_id))
    connection.execute(
        update(audits)
        .where(audits.c.id == audit_id)
        .values(finished_at=now(), detail={**(asked or {}), **(found or {})})
    )


def bytes_are_left(connection: Connection) -> bool:
    """Whether rows were changed since the files were last rid of what is removed."""
    left = select(audits.c.id).where(audits.c.vacuumed_at.is_(None))
    return connection.scalar(left.limit(1)) is not None


def last_audit(connection: Connection) -> int:
    """The id of the latest note, 0 if there is none."""
    latest = select(audits.c.id).order_by(audits.c.id.desc()).limit(1)
    return connection.scalar(latest) or 0


def note_vacuum(connection: Connection, last: int) -> None:
    """Note of all up to this one that the files have none of it any more."""
    connection.execute(
        update(audits)
        .where(audits.c.id <= last, audits.c.vacuumed_at.is_(None))
        .values(vacuumed_at=now())
    )


def list_audits(
    connection: Connection, *, job_id: str | None = None, limit: int = 20
) -> Sequence[Row[Any]]:
    """The latest first."""
    query = select(audits).order_by(audits.c.id.desc()).limit(limit)
    if job_id is not None:
        query = query.where(audits.c.job_id == job_id)
    return connection.execute(query).all()
