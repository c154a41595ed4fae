"""Sources of records: what one index knows of a filter, as record indexes in input order.

Each answers at once wherever a page begins, however many rows the job has. The other conditions of
a filter are looked at in the rows themselves (``queries.py``).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import Connection, Row, func, select, text

from textmill.core.search import Search
from textmill.db.extra_values import WantedValue
from textmill.db.filters import ResultFilter
from textmill.db.indexing import FURTHER_LABEL
from textmill.db.label_groups import each_label, has_label, label_groups, label_values
from textmill.db.models import (
    ID_BLOCK,
    ID_BLOCK_BITS,
    SCORE_BLOCK,
    SCORE_BLOCK_BITS,
    jobs,
    label_counts,
    result_values,
    results,
)
from textmill.db.word_search import find_words

COLLECTED = 5_000  # records with scores in a range are collected and sorted, if they are no more
ALL = 1 << 40  # more than any job has records
MERGED = 500_000  # labels times blocks: of more, not each is asked for
PROBED = 2_000  # a count is asked for as far as this
BLOCK_GROWTH = 8  # so many times as many blocks are asked for at once where little is found

Find = Callable[[Connection, int, int, int], Sequence[int]]
"""Of an open connection, the index ``after`` which, ``end`` before which, and the most wanted."""


@dataclass(frozen=True, slots=True)
class Source:
    """One index's answer: about how many records there are, and the next of them in input order."""

    records: int
    find: Find


@dataclass(frozen=True, slots=True)
class BlockIndex:
    """An index of ``results`` by blocks of a job's records (see ``models``), and its SQL.

    SQLite takes it because it is told to, PostgreSQL because no other index knows the block.
    """

    name: str
    block: str
    bits: int

    def blocks(self, connection: Connection, job_id: str, after: int = -1, end: int = ALL) -> range:
        """The blocks in which rows of the job lie, behind one record and before another."""
        greatest = select(func.max(results.c.record_index)).where(results.c.job_id == job_id)
        last = connection.scalar(greatest)
        if last is None:
            return range(0)
        return range((after + 1) >> self.bits, (min(last, end - 1) >> self.bits) + 1)

    def table(self, connection: Connection) -> str:
        """``results``, by this index."""
        return f"results INDEXED BY {self.name}" if is_sqlite(connection) else "results"

    def among(self, connection: Connection) -> str:
        """The rows in ``:blocks``, which ``numbers`` gives."""
        if is_sqlite(connection):
            return f"{self.block} IN (SELECT value FROM json_each(:blocks))"
        return f"{self.block} = ANY(CAST(:blocks AS bigint[]))"


def numbers(connection: Connection, blocks: Iterable[int]) -> str | list[int]:
    """Blocks as one parameter."""
    return str(list(blocks)) if is_sqlite(connection) else list(blocks)


def is_sqlite(connection: Connection) -> bool:
    return connection.dialect.name == "sqlite"


BY_SCORE = BlockIndex("ix_results_score", SCORE_BLOCK, SCORE_BLOCK_BITS)
BY_ID = BlockIndex("ix_results_record_id", ID_BLOCK, ID_BLOCK_BITS)


def choose_source(connection: Connection, job: Row[Any], wanted: ResultFilter) -> Source | None:
    """The source with the fewest records; None if the rows are best read one after the other."""
    sources = [
        source
        for source in (
            _by_id(job, wanted.record_id),
            _by_error(connection, job, wanted),
            _by_label(connection, job, wanted.label),
            *(_by_value(connection, job, *pair) for pair in wanted.wanted_values.items()),
            _by_words(connection, job, wanted.wanted_words),
            _by_score(connection, job, wanted),
        )
        if source is not None
    ]
    return min(sources, key=lambda source: source.records, default=None)


def _by_id(job: Row[Any], record_id: str | None) -> Source | None:
    if record_id is None:
        return None
    return Source(1, partial(_in_blocks, job, BY_ID, "record_id", record_id))


def _by_error(connection: Connection, job: Row[Any], wanted: ResultFilter) -> Source | None:
    if wanted.error_code is not None:
        codes = [wanted.error_code]
    elif wanted.errors:
        codes = error_codes(connection, job.id)
    else:
        return None
    streams = [partial(_errors, job, code) for code in codes]
    return Source(job.error_records, partial(_merged, streams))


def error_codes(connection: Connection, job_id: str) -> list[str]:
    """The codes of the job's error rows: each is found behind the one before."""
    codes: list[str] = []
    following = select(func.min(results.c.error_code)).where(
        results.c.job_id == job_id, results.c.error_code.is_not(None)
    )
    query = following
    while (code := connection.scalar(query)) is not None:
        codes.append(code)
        query = following.where(results.c.error_code > code)
    return codes


def _by_label(connection: Connection, job: Row[Any], label: str | None) -> Source | None:
    if label is None:
        return None
    counted = select(label_counts.c.records).where(
        label_counts.c.job_id == job.id, label_counts.c.label == label
    )
    records = connection.scalar(counted) or 0
    if records * 4 > job.total_records:
        return None  # most rows have it: as quick to look at each
    first = partial(_in_blocks, job, BY_SCORE, "label", label)
    further = partial(_values, job, FURTHER_LABEL, label)
    return Source(records, partial(_merged, [first, further]))


def _by_value(connection: Connection, job: Row[Any], name: str, value: str) -> Source | None:
    if name not in (job.index_columns or ()):
        return None
    streams = [partial(_values, job, name, entry) for entry in WantedValue(value).entries]
    find = partial(_merged, streams)
    return Source(len(find(connection, -1, job.total_records, PROBED)), find)


def _by_words(connection: Connection, job: Row[Any], search: Search | None) -> Source | None:
    if search is None or not job.full_text:
        return None

    def find(connection: Connection, after: int, end: int, limit: int) -> Sequence[int]:
        end = min(end, job.total_records)
        return find_words(connection, job, search, after=after, end=end, limit=limit)

    return Source(PROBED + 1, find)


def _by_score(connection: Connection, job: Row[Any], wanted: ResultFilter) -> Source | None:
    """Scores lie in another order than records: a few are sorted, many are looked for in rows."""
    if wanted.min_score is None and wanted.max_score is None:
        return None
    labels = first_labels(connection, job, wanted.label)
    asked = BY_SCORE.blocks(connection, job.id)
    if len(labels) * len(asked) > MERGED:
        return None
    least, most = score_range(wanted)
    values = {"blocks": numbers(connection, asked), "job": job.id, "least": least, "most": most}
    found: list[int] = []
    for group in label_groups(labels):
        query = _scored(connection, group)
        left = COLLECTED + 1 - len(found)
        own = {**values, **label_values(connection, group), "limit": left}
        # Counted first: of too many, none is needed.
        if connection.scalar(text(f"SELECT count(*) FROM ({query}) AS found"), own) == left:
            return None
        found += connection.scalars(text(query), own)
        if len(found) > COLLECTED:  # of a job that runs there may be more by now
            return None
    found.sort()

    def find(connection: Connection, after: int, end: int, limit: int) -> Sequence[int]:
        return [index for index in found if after < index < end][:limit]

    return Source(len(found), find)


def _scored(connection: Connection, group: Sequence[str | None]) -> str:
    """SQL for rows of these labels, in these blocks, with scores in this range."""
    found = f"SELECT record_index FROM {BY_SCORE.table(connection)} WHERE job_id = :job"
    limited = "AND score BETWEEN :least AND :most LIMIT :limit"
    if len(group) == 1:
        return f"{found} AND {BY_SCORE.among(connection)} AND {has_label(group[0])} {limited}"
    if is_sqlite(connection):
        labels = f"label IN (SELECT value FROM {each_label(connection)})"
        return f"{found} AND {BY_SCORE.among(connection)} AND {labels} {limited}"
    # Given label = ANY(…), PostgreSQL looks at every row of the blocks.
    return (
        f"SELECT record_index FROM {each_label(connection)} "
        "CROSS JOIN unnest(CAST(:blocks AS bigint[])) AS each(value) "
        f"CROSS JOIN LATERAL ({found} AND {BY_SCORE.block} = each.value "
        f"AND label = named.value {limited}) AS one LIMIT :limit"
    )


def labels_of(connection: Connection, job_id: str) -> list[str | None]:
    """Every label that a row of the job with a score may have as its first; None for no label."""
    counted = select(label_counts.c.label, label_counts.c.records).where(
        label_counts.c.job_id == job_id
    )
    found = {row.label: row.records for row in connection.execute(counted)}
    done = connection.scalar(select(jobs.c.done_records).where(jobs.c.id == job_id))
    further = select(result_values.c.value).where(
        result_values.c.job_id == job_id, result_values.c.name == FURTHER_LABEL
    )
    each = found and sum(found.values()) == done
    if each and connection.execute(further.limit(1)).first() is None:
        return [*found]
    return [*found, None]


def first_labels(connection: Connection, job: Row[Any], wanted: str | None) -> Sequence[str | None]:
    """The first labels that rows of the wanted one have: itself, unless it may be a further one."""
    if wanted is None or is_further_label(connection, job, wanted):
        return labels_of(connection, job.id)
    return [wanted]


def is_further_label(connection: Connection, job: Row[Any], label: str) -> bool:
    """True if a record has the label behind its first one."""
    return bool(_values(job, FURTHER_LABEL, label, connection, -1, ALL, 1))


def score_range(wanted: ResultFilter) -> tuple[float, float]:
    """The least and the greatest score that is wanted."""
    least = -math.inf if wanted.min_score is None else wanted.min_score
    return least, math.inf if wanted.max_score is None else wanted.max_score


def _errors(
    job: Row[Any], code: str, connection: Connection, after: int, end: int, limit: int
) -> Sequence[int]:
    index = results.c.record_index
    query = select(index).where(
        results.c.job_id == job.id, results.c.error_code == code, index > after, index < end
    )
    return connection.scalars(query.order_by(index).limit(limit)).all()


def _in_blocks(
    job: Row[Any],
    index: BlockIndex,
    column: str,
    value: str,
    connection: Connection,
    after: int,
    end: int,
    limit: int,
) -> Sequence[int]:
    """Ask block by block, and for more of them at once as long as little is found."""
    query = text(  # in an order that only a sort gives: for another the primary key would be read
        f"SELECT record_index FROM {index.table(connection)} WHERE {index.among(connection)} "
        f"AND job_id = :job AND {column} = :value AND record_index > :after "
        "AND record_index < :end ORDER BY record_index + 0 LIMIT :limit"
    )
    values = {"job": job.id, "value": value, "after": after, "end": end}
    blocks = index.blocks(connection, job.id, after, end)
    found: list[int] = []
    step = 1
    while blocks and len(found) < limit:
        asked = numbers(connection, blocks[:step])
        left = limit - len(found)
        page = connection.scalars(query, {**values, "blocks": asked, "limit": left}).all()
        found += page
        blocks = blocks[step:]
        if len(page) * 4 < limit:
            step *= BLOCK_GROWTH
    return found


def _values(
    job: Row[Any],
    name: str,
    value: str,
    connection: Connection,
    after: int,
    end: int,
    limit: int,
) -> Sequence[int]:
    row = result_values.c
    query = select(row.record_index).where(
        row.job_id == job.id,
        row.name == name,
        row.value == value,
        row.record_index > after,
        row.record_index < end,
    )
    return connection.scalars(query.order_by(row.record_index).limit(limit)).all()


def _merged(
    streams: Sequence[Find], connection: Connection, after: int, end: int, limit: int
) -> Sequence[int]:
    """The first of several streams together, each record once."""
    pages = [stream(connection, after, end, limit) for stream in streams]
    return list(dict.fromkeys(heapq.merge(*pages)))[:limit]
