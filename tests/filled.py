"""Jobs that have ended with rows of a test's own, found by all that a worker would have written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import orjson
from sqlalchemy import Connection, Row, insert, update

from textmill.db.indexing import make_entries
from textmill.db.jobs import get_job
from textmill.db.loading import create_job
from textmill.db.models import jobs, label_counts
from textmill.db.results import ResultRow, write_results
from textmill.db.session import Database

from .builders import LEASE, spec


def filled_job(
    database: Database,
    rows: Sequence[ResultRow],
    *,
    extra_columns: Sequence[str] = (),
    **fields: Any,
) -> Row[Any]:
    """A job of these rows that has ended."""
    return database.transact(fill, rows, extra_columns, fields)


def fill(
    connection: Connection,
    rows: Sequence[ResultRow],
    extra_columns: Sequence[str],
    fields: dict[str, Any],
) -> Row[Any]:
    job_id = create_job(connection, spec(**fields), extra_columns=extra_columns, load_seconds=LEASE)
    connection.execute(
        update(jobs)
        .where(jobs.c.id == job_id)
        .values(status="completed", load_expires_at=None, total_records=0)
    )
    add_rows(connection, job_id, rows)
    labels = Counter(label for row in rows for label in labels_of(row))
    for label, records in labels.items():
        connection.execute(insert(label_counts).values(job_id=job_id, label=label, records=records))
    return get_job(connection, job_id)


def add_rows(connection: Connection, job_id: str, rows: Sequence[ResultRow]) -> None:
    """Write rows that the job has not yet, with their entries and in its counters."""
    job = get_job(connection, job_id)
    sqlite = connection.dialect.name == "sqlite"
    write_results(connection, job_id, rows, make_entries(job, rows, sqlite=sqlite))
    errors = sum(row.error_code is not None for row in rows)
    last = max((row.record_index for row in rows), default=-1)
    connection.execute(
        update(jobs)
        .where(jobs.c.id == job_id)
        .values(
            total_records=max(job.total_records, last + 1),
            done_records=jobs.c.done_records + len(rows) - errors,
            error_records=jobs.c.error_records + errors,
        )
    )


def labels_of(row: ResultRow) -> list[str]:
    """Every label that a record counts for."""
    if row.label is None:
        return []
    detail = orjson.loads(row.detail or "{}")
    return list(detail.get("labels") or [row.label])
