"""Rows by their score, the highest first: one index, asked label by label, and merged.

Where another index knows that few rows are wanted, these are sorted.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from itertools import islice
from typing import Any

from sqlalchemy import Connection, Row, and_, not_, select

from textmill.db.filters import ResultFilter, among
from textmill.db.models import results
from textmill.db.session import Database
from textmill.db.sources import ALL, choose_source, first_labels, has_label, score_range

SORTED = 10_000  # rows that are sorted, at most
MERGED_LABELS = 1000  # of a job with more labels, the rows are sorted by the database
MIN_PAGE_ROWS = 10

Place = tuple[float, int]  # a score and a record's index


def iter_by_score(
    database: Database, job: Row[Any], wanted: ResultFilter, page_rows: int
) -> Iterator[list[Place]]:
    """Score and index of the rows in this order, page by page; only scores and labels count."""
    after = wanted.position() if wanted.after is not None else None
    few = _few(database, job, wanted)
    places = _merged(database, job, wanted, after, page_rows) if few is None else iter(few)
    if few is not None and after is not None:
        places = (place for place in few if _rank(place) > _rank(after))
    while page := list(islice(places, page_rows)):
        yield page


def _rank(place: Place) -> tuple[float, int]:
    score, index = place
    return -score, index


def _few(database: Database, job: Row[Any], wanted: ResultFilter) -> list[Place] | None:
    """The rows of other conditions than scores and labels in order, if an index knows all."""
    if not (wanted.search or wanted.where or wanted.record_id):
        return None
    # Of more than this, a page is filled sooner by looking at the highest scores first.
    first = job.total_records if wanted.limit is None else wanted.limit
    most = min(SORTED, math.isqrt(first * job.total_records))
    with database.read() as connection:
        source = choose_source(connection, job, wanted)
        if source is None:
            return None
        indexes = source.find(connection, -1, ALL, most + 1)
        if len(indexes) > most:
            return None
        row, sqlite = results.c, connection.dialect.name == "sqlite"
        own = (row.job_id == job.id, among(row.record_index, indexes, sqlite=sqlite))
        query = select(row.score, row.record_index).where(*own, *score_range(wanted))
        places = [(found, at) for found, at in connection.execute(query)]
    return sorted(places, key=_rank)


def _merged(
    database: Database, job: Row[Any], wanted: ResultFilter, after: Place | None, page_rows: int
) -> Iterator[Place]:
    with database.read() as connection:
        labels = first_labels(connection, job, wanted.label)
    if len(labels) > MERGED_LABELS:
        return _stream(database, job, wanted, [], after, page_rows)
    size = max(MIN_PAGE_ROWS, page_rows // len(labels))
    streams = [_stream(database, job, wanted, [has_label(label)], after, size) for label in labels]
    return heapq.merge(*streams, key=_rank)


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
