"""The book of what was removed and masked: when, of which job, how many rows, and on what terms.

No row of it holds a text or the id of a record.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Float,
    Row,
    bindparam,
    func,
    insert,
    or_,
    select,
    update,
)

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
    connection.execute(
        update(audits)
        .where(audits.c.id == audit_id)
        # The files may have been rewritten since it began: they hold what is removed just now.
        .values(records=audits.c.records + records, vacuumed_at=None)
    )


def finish_audit(
    connection: Connection, audit_id: int, found: Mapping[str, Any] | None = None
) -> None:
    """Note that it came to its end; what was ``found`` stands beside what was asked for."""
    asked = connection.scalar(select(audits.c.detail).where(audits.c.id == audit_id))
    connection.execute(
        update(audits)
        .where(audits.c.id == audit_id)
        .values(finished_at=now(), detail={**(asked or {}), **(found or {})}, vacuumed_at=None)
    )


def bytes_are_left(connection: Connection) -> bool:
    """Whether rows were changed since the files were last rid of what is removed."""
    left = select(audits.c.id).where(audits.c.vacuumed_at.is_(None), may_have_changed_files())
    return connection.scalar(left.limit(1)) is not None


def may_have_changed_files() -> ColumnElement[bool]:
    """Whether what a note tells of may have: not a redaction that came to its end with nothing."""
    masked = func.coalesce(audits.c.detail["masked"].as_string(), "")
    return or_(audits.c.action != "redact", audits.c.finished_at.is_(None), masked != "{}")


def find_unrid(connection: Connection) -> Sequence[Row[Any]]:
    """The notes of which the files may still hold something, as they are before a vacuum."""
    columns: list[Any] = [audits.c.id, audits.c.records, audits.c.finished_at]
    return connection.execute(select(*columns).where(audits.c.vacuumed_at.is_(None))).all()


def note_vacuum(connection: Connection, unrid: Sequence[Row[Any]]) -> None:
    """Note that the files have nothing any more of what these notes told before the vacuum.

    Not of one that has changed since: what it removed meanwhile may lie in a file that had been
    rewritten already.
    """
    as_before = (
        audits.c.id == bindparam("of"),
        audits.c.records == bindparam("told"),
        audits.c.finished_at.is_not_distinct_from(bindparam("ended", type_=Float)),
    )
    noted = update(audits).where(*as_before).values(vacuumed_at=now())
    for row in unrid:
        connection.execute(noted, {"of": row.id, "told": row.records, "ended": row.finished_at})


def list_audits(
    connection: Connection, *, job_id: str | None = None, limit: int = 20
) -> Sequence[Row[Any]]:
    """The latest first."""
    query = select(audits).order_by(audits.c.id.desc()).limit(limit)
    if job_id is not None:
        query = query.where(audits.c.job_id == job_id)
    return connection.execute(query).all()
