"""Rows by their score, the highest first: one index, asked label by label, and merged."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from itertools import islice
from typing import Any

from sqlalchemy import Connection, Row, and_, not_, select

from textmill.db.filters import ResultFilter
from textmill.db.models import results
from textmill.db.session import Database
from textmill.db.sources import first_labels, has_label, score_range

MERGED_LABELS = 64  # of a job with more labels, the rows are sorted by the database

Place = tuple[float, int]  # a score and a record's index


def iter_by_score(
    database: Database, job: Row[Any], wanted: ResultFilter, page_rows: int
) -> Iterator[list[Place]]:
    """Score and index of the rows in this order, page by page; only scores and labels count."""
    after = wanted.position() if wanted.after is not None else None
    with database.read() as connection:
        labels = first_labels(connection, job, wanted.label)
    if len(labels) > MERGED_LABELS:
        streams = [_stream(database, job, wanted, [], after, page_rows)]
    else:
        streams = [
            _stream(database, job, wanted, [has_label(label)], after, page_rows) for label in labels
        ]
    merged = heapq.merge(*streams, key=lambda place: (-place[0], place[1]))
    while page := list(islice(merged, page_rows)):
        yield page


def _stream(
    database: Database,
    job: Row[Any],
    wanted: ResultFilter,
    conditions: list[Any],
    after: Place | None,
    page_rows: int,
) -> Iterator[Place]:
    while True:
        with database.read() as connection:
            page = _page(connection, job, wanted, conditions, after, page_rows)
        yield from page
        if len(page) < page_rows:
            return
        after = page[-1]


def _page(
    connection: Connection,
    job: Row[Any],
    wanted: ResultFilter,
    conditions: list[Any],
    after: Place | None,
    page_rows: int,
) -> list[Place]:
    score, index = results.c.score, results.c.record_index
    query = select(score, index).where(
        results.c.job_id == job.id, *score_range(wanted), *conditions
    )
    if after is not None:
        last_score, last_index = after
        query = query.where(
            score <= last_score, not_(and_(score == last_score, index <= last_index))
        )
    rows = connection.execute(query.order_by(score.desc(), index).limit(page_rows))
    return [(found, at) for found, at in rows]
