"""Rows by their score, the highest first: one index, asked by label and block, and merged.

Where another index knows that few rows are wanted, these are sorted.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from sqlalchemy import Connection, Row, and_, not_, select, text

from textmill.db.filters import ResultFilter, among
from textmill.db.label_groups import each_label, has_label, label_groups, label_values
from textmill.db.models import results
from textmill.db.session import Database
from textmill.db.sources import (
    ALL,
    BY_SCORE,
    MERGED,
    Source,
    choose_source,
    first_labels,
    is_sqlite,
    numbers,
    score_range,
)

SORTED = 10_000  # rows that are sorted, at most
PLACES, CLOSE = 8, 32  # where, and how many rows of a condition tell how many there are of all
FEWEST_OPENED, MOST_OPENED = 16, 64  # streams that are opened at once, by the size of a page
FEWEST_ROWS, MOST_ROWS = 8, 256  # of a stream that are read at once

Place = tuple[float, int]  # a score and a record's index


def iter_by_score(
    database: Database, job: Row[Any], wanted: ResultFilter, page_rows: int, most_rows: int = 0
) -> Iterator[list[Place]]:
    """Score and index of the rows in this order, page by page; only scores and labels count.

    Pages grow up to ``most_rows``, for callers that want few of them.
    """
    after = wanted.position() if wanted.after is not None else None
    few = _few(database, job, wanted)
    places = _merged(database, job, wanted, after, page_rows) if few is None else iter(few)
    if few is not None and after is not None:
        places = (place for place in few if _rank(place) > _rank(after))
    while page := list(islice(places, page_rows)):
        yield page
        page_rows = max(page_rows, min(most_rows, page_rows * 2))


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
        if _seem_many(connection, source, most, job.total_records):
            return None
        indexes = source.find(connection, -1, ALL, most + 1)
        if len(indexes) > most:
            return None
        row, sqlite = results.c, is_sqlite(connection)
        lowest, highest = score_range(wanted)
        own = (row.job_id == job.id, among(row.record_index, indexes, sqlite=sqlite))
        scores = (row.score >= lowest, row.score <= highest)
        query = select(row.score, row.record_index).where(*own, *scores)
        places = [(found, at) for found, at in connection.execute(query)]
    return sorted(places, key=_rank)


def _seem_many(connection: Connection, source: Source, most: int, total: int) -> bool:
    """Whether its records are far more, as told by how close they lie at some places of the job.

    In the middle of each part: a sorted input may begin with the few that there are. Where they are
    far more, CLOSE of them lie within ``looked_at`` rows.
    """
    part, far_more = total // PLACES, 4 * max(most, 1)
    looked_at = min(part, total * CLOSE // far_more)
    if looked_at == 0:
        return False
    expected = 0.0
    for place in range(part // 2, total, part):
        found = source.find(connection, place, place + looked_at, CLOSE)
        among = found[-1] - place if len(found) == CLOSE else looked_at
        expected += part * len(found) / among
    return expected > far_more


def _merged(
    database: Database, job: Row[Any], wanted: ResultFilter, after: Place | None, page_rows: int
) -> Iterator[Place]:
    """The rows of each label in each block are a stream, opened when its highest score is due."""
    with database.read() as connection:
        labels = first_labels(connection, job, wanted.label)
        blocks = BY_SCORE.blocks(connection, job.id)
        many = len(labels) * len(blocks) > MERGED  # such rows are sorted by the database
        heads = [] if many else _find_heads(connection, job, wanted, labels, blocks, after)
    if many:
        yield from _sorted_by_database(database, job, wanted, after, page_rows)
        return
    heads.sort(key=lambda head: _rank(head.first), reverse=True)
    # Each has its share of a page, as scores lie in no order; one that has more is read on.
    share = page_rows // max(1, len(heads))
    first_rows = min(max(share, FEWEST_ROWS), page_rows, MOST_ROWS)
    at_once = min(MOST_OPENED, max(FEWEST_OPENED, page_rows // 2))
    opened: list[tuple[tuple[float, int], Iterator[Place]]] = []
    while heads or opened:
        while heads and (not opened or _rank(heads[-1].first) <= opened[0][0]):
            due = [heads.pop() for _ in range(min(at_once, len(heads)))]
            for stream in _open(database, job, wanted, due, after, first_rows):
                if (place := next(stream, None)) is not None:
                    heapq.heappush(opened, (_rank(place), stream))
        if opened:
            (score, index), stream = opened[0]
            yield -score, index
            if (following := next(stream, None)) is None:
                heapq.heappop(opened)
            else:
                heapq.heapreplace(opened, (_rank(following), stream))


@dataclass(frozen=True, slots=True)
class Head:
    """A label's rows in a block, and a place before which none lies of those that are left."""

    label: str | None
    block: int
    first: Place


def _find_heads(
    connection: Connection,
    job: Row[Any],
    wanted: ResultFilter,
    labels: Sequence[str | None],
    blocks: range,
    after: Place | None,
) -> list[Head]:
    """Of each label and block that has rows left: their highest score."""
    least, most, index = _bounds(wanted, after)
    values: dict[str, Any] = {"job": job.id, "least": least, "most": most}
    values |= {"blocks": numbers(connection, blocks)}
    # Blocks before the last place have had all rows of its score.
    values |= {"last": (index + 1) >> BY_SCORE.bits, "below": math.nextafter(most, -math.inf)}
    return [
        Head(label, block, (score, block << BY_SCORE.bits))
        for group in label_groups(labels)
        for label, block, score in _highest_scores(connection, group, values)
        if score is not None
    ]


def _highest_scores(
    connection: Connection, group: Sequence[str | None], values: dict[str, Any]
) -> Iterator[tuple[str | None, int, float | None]]:
    """Of each label of the group in each block."""
    each = "json_each(:blocks) AS each"
    if not is_sqlite(connection):
        each = "unnest(CAST(:blocks AS bigint[])) AS each(value)"
    name, condition = "NULL", has_label(group[0])
    if len(group) > 1:
        each = f"{each_label(connection)} CROSS JOIN {each}"
        name, condition = "named.value", "label = named.value"
    query = text(
        f"SELECT {name}, each.value, (SELECT score FROM {BY_SCORE.table(connection)} "
        f"WHERE {BY_SCORE.block} = each.value AND job_id = :job AND {condition} "
        "AND score >= :least "
        "AND score <= CASE WHEN each.value < :last THEN :below ELSE :most END "
        f"ORDER BY score DESC LIMIT 1) FROM {each}"
    )
    own = {**values, **label_values(connection, group)}
    for label, block, score in connection.execute(query, own):
        yield label if len(group) > 1 else group[0], block, score


def _bounds(wanted: ResultFilter, after: Place | None) -> tuple[float, float, int]:
    """The least and the greatest score of rows that are left; of the greatest, behind which row."""
    least, most = score_range(wanted)
    if after is None or after[0] > most:
        return least, most, -1
    return least, *after


def _open(
    database: Database,
    job: Row[Any],
    wanted: ResultFilter,
    heads: Sequence[Head],
    after: Place | None,
    size: int,
) -> Iterator[Iterator[Place]]:
    """A stream of each head; the first pages of all, of this size, are read at once."""
    with database.read() as connection:
        pages = _read(connection, job, wanted, heads, after, size)
    for head in heads:
        yield _stream(database, job, wanted, head, pages[head], size)


def _stream(
    database: Database,
    job: Row[Any],
    wanted: ResultFilter,
    head: Head,
    page: list[Place],
    size: int,
) -> Iterator[Place]:
    yield from page
    while len(page) == size:
        size = min(size * 4, MOST_ROWS)
        with database.read() as connection:
            page = _read(connection, job, wanted, [head], page[-1], size)[head]
        yield from page


def _read(
    connection: Connection,
    job: Row[Any],
    wanted: ResultFilter,
    heads: Sequence[Head],
    after: Place | None,
    size: int,
) -> dict[Head, list[Place]]:
    """The next places of each."""
    least, most, index = _bounds(wanted, after)
    values: dict[str, Any] = {"job": job.id, "least": least, "most": most, "index": index}
    values |= {"size": size}
    each = _each_for_itself if is_sqlite(connection) else _each_in_a_loop
    pages: dict[Head, list[Place]] = {head: [] for head in heads}
    for query, own in each(heads):
        for number, score, at in connection.execute(text(query), {**values, **own}):
            pages[heads[number]].append((score, at))
    for page in pages.values():
        page.sort(key=_rank)  # each was in order; of all together nothing is promised
    return pages


LEFT = (
    "score >= :least AND score <= :most AND NOT (score = :most AND record_index <= :index) "
    "ORDER BY score DESC, record_index LIMIT :size"
)


def _each_for_itself(heads: Sequence[Head]) -> Iterator[tuple[str, dict[str, Any]]]:
    """For SQLite, which knows no LATERAL, and plans any statement at once."""
    parts, labels = [], {}
    for number, head in enumerate(heads):
        parts.append(
            f"SELECT * FROM (SELECT {number}, score, record_index "
            f"FROM results INDEXED BY {BY_SCORE.name} WHERE {BY_SCORE.block} = {head.block} "
            f"AND job_id = :job AND {has_label(head.label, f'label{number}')} AND {LEFT})"
        )
        if head.label is not None:
            labels[f"label{number}"] = head.label
    yield " UNION ALL ".join(parts), labels


def _each_in_a_loop(heads: Sequence[Head]) -> Iterator[tuple[str, dict[str, Any]]]:
    """For PostgreSQL, whose planner takes longer for many parts than the reading."""
    for condition, chosen in (
        ("label = head.label", [at for at, head in enumerate(heads) if head.label is not None]),
        ("label IS NULL", [at for at, head in enumerate(heads) if head.label is None]),
    ):
        if chosen:
            yield (
                (
                    "SELECT head.number, one.score, one.record_index FROM unnest(CAST(:numbers AS "
                    "int[]), CAST(:blocks AS bigint[]), CAST(:labels AS text[])) "
                    "AS head(number, block, label) CROSS JOIN LATERAL (SELECT score, record_index "
                    f"FROM results WHERE {BY_SCORE.block} = head.block AND job_id = :job "
                    f"AND {condition} AND {LEFT}) AS one"
                ),
                {
                    "numbers": chosen,
                    "blocks": [heads[at].block for at in chosen],
                    "labels": [heads[at].label for at in chosen],
                },
            )


def _sorted_by_database(
    database: Database, job: Row[Any], wanted: ResultFilter, after: Place | None, page_rows: int
) -> Iterator[Place]:
    score, index = results.c.score, results.c.record_index
    while True:
        least, most, last = _bounds(wanted, after)
        query = (
            select(score, index)
            .where(results.c.job_id == job.id, score >= least, score <= most)
            .where(not_(and_(score == most, index <= last)))
            .order_by(score.desc(), index)
            .limit(page_rows)
        )
        with database.read() as connection:
            page = [(found, at) for found, at in connection.execute(query)]
        yield from page
        if len(page) < page_rows:
            return
        after = page[-1]
