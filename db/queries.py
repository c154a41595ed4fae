"""Questions to the results: rows page by page, vectors, counts by label and by error.

A page is one short read, which ends early where rows are large; the next page continues after its
last row's key, so a long export holds no transaction open and a page costs the same at the start
and at the end of ten million rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from sqlalchemy import Connection, Row, func, select

from textmill.core.search import Search, matches, words_of_row
from textmill.db.filters import (
    ResultFilter,
    among,
    check_columns,
    conditions_of,
    place_after,
    undeclared,
)
from textmill.db.jobs import check_not_purged
from textmill.db.models import jobs, label_counts, results
from textmill.db.portions import Portions
from textmill.db.result_rows import Result, ResultReader
from textmill.db.score_order import iter_by_score
from textmill.db.session import Database
from textmill.db.sources import ALL, choose_source
from textmill.db.word_search import have_words

PAGE_ROWS = 2000
MAX_LOOKUPS = 10_000  # rows looked up at once that an index names
MAX_WINDOW = 65_536  # rows looked at in one read where a condition has no index
OUTPUT_HEAD = 400  # characters of an output that stands as an example


@dataclass(frozen=True, slots=True)
class Page:
    """Rows of a job, and where the next page begins; None after the last."""

    rows: list[Result]
    after: str | None


def iter_results(
    database: Database, job: Row[Any], wanted: ResultFilter, *, page_rows: int = PAGE_ROWS
) -> Iterator[Result]:
    """Every matching row of the job, read page by page; raises InvalidJobError.

    Of a job that still runs: the rows there are, those of a page as they were at one moment.
    """
    for page in iter_pages(database, job, wanted, page_rows=page_rows):
        yield from page


def read_page(database: Database, job: Row[Any], wanted: ResultFilter, rows: int) -> Page:
    """The first rows that match, and what ``ResultFilter.after`` is for the next page."""
    found: list[Result] = []
    more = rows + 1  # to know whether there is a next one
    limit = more if wanted.limit is None else min(more, wanted.limit)
    for page in iter_pages(database, job, replace(wanted, limit=limit), page_rows=more):
        found += page
    if len(found) <= rows:
        return Page(found, None)
    last = found[rows - 1]
    return Page(found[:rows], place_after(wanted, last.record_index, last.score))


def iter_pages(
    database: Database, job: Row[Any], wanted: ResultFilter, *, page_rows: int = PAGE_ROWS
) -> Iterator[list[Result]]:
    """The rows of ``iter_results`` in pages of at most ``page_rows``, none of them empty."""
    check_not_purged(job)
    check_columns(job, wanted)
    left = wanted.limit
    pages = _by_score if wanted.order == "score" else _by_index
    for page in pages(database, job, wanted, page_rows):
        if left is not None:
            page = page[:left]
            left -= len(page)
        if page:
            yield page
        if left == 0:
            return


def _as_dict(wanted: ResultFilter) -> dict[str, Any]:
    return {field.name: getattr(wanted, field.name) for field in fields(ResultFilter)}


def is_streamed(database: Database, job: Row[Any], wanted: ResultFilter) -> str | None:
    """Why each row is looked at: the condition that no index knows; None if one leads to rows.

    Raises InvalidJobError for a column that the job does not have.
    """
    check_columns(job, wanted)
    with database.read() as connection:
        if choose_source(connection, job, wanted) is not None:
            return None
    if columns := undeclared(job, wanted):
        return f"column {columns[0]!r} has no index (submit --index-column {columns[0]})"
    if wanted.search is not None:
        return "the words of this job have no index (submit without --no-full-text)"
    return None


def _by_score(
    database: Database, job: Row[Any], wanted: ResultFilter, page_rows: int
) -> Iterator[list[Result]]:
    size, most = page_rows, 0
    if not _given(wanted) <= {"label", "min_score", "max_score"}:
        size, most = page_rows * 4, MAX_LOOKUPS // 10
    lookup = Lookup(database, job, wanted)
    portions = Portions(max(size, most))
    for places in iter_by_score(database, job, wanted, size, most):
        for asked, found in portions.read([index for _, index in places], lookup.read):
            rows = {row.record_index: row for row in _with_words(wanted.wanted_words, found)}
            page = [rows[index] for index in asked if index in rows]
            yield from _cut(page, page_rows)


class Lookup:
    """Reads the rows of given indexes that fulfil every condition; words are for the caller."""

    def __init__(self, database: Database, job: Row[Any], wanted: ResultFilter) -> None:
        self._database = database
        self._job = job
        self._indexed_words = wanted.wanted_words if job.full_text else None
        self._reader = ResultReader(database)
        self._query = select(results.c.record_index).where(
            *conditions_of(job, wanted, sqlite=database.is_sqlite)
        )

    def read(self, indexes: Sequence[int]) -> tuple[list[Result], int, int, bool]:
        """The rows, how many and how many bytes they are, and whether they are all."""
        with self._database.read() as connection:
            if self._indexed_words is not None:  # rows without them need not be read
                indexes = have_words(connection, self._job, self._indexed_words, indexes)
            rows, complete = self.read_on(connection, indexes)
        return rows, len(rows), self._reader.held_bytes, complete

    def read_on(self, connection: Connection, indexes: Sequence[int]) -> tuple[list[Result], bool]:
        """The rows, and whether they are all: else further ones follow behind the last."""
        chosen = among(results.c.record_index, indexes, sqlite=self._database.is_sqlite)
        return self._reader.read(connection, self._query.where(chosen))


def _cut(page: Sequence[Result], rows: int) -> Iterator[list[Result]]:
    for start in range(0, len(page), rows):
        yield list(page[start : start + rows])


def _given(wanted: ResultFilter) -> set[str]:
    """The names of the conditions that are asked for."""
    names = {name for name, value in _as_dict(wanted).items() if value not in (None, {})}
    return names - {"limit", "order", "after"}


def _by_index(
    database: Database, job: Row[Any], wanted: ResultFilter, page_rows: int
) -> Iterator[list[Result]]:
    with database.read() as connection:
        source = choose_source(connection, job, wanted)
    after = wanted.position()[1] if wanted.after is not None else -1
    if source is None:
        yield from _by_looking(database, job, wanted, page_rows, after)
        return
    lookup = Lookup(database, job, wanted)
    size = page_rows
    while True:
        with database.read() as connection:
            indexes = source.find(connection, after, ALL, size)
            found, complete = lookup.read_on(connection, indexes) if indexes else ([], True)
        page = _with_words(wanted.wanted_words, found)
        yield from _cut(page, page_rows)
        if not complete:
            after = found[-1].record_index
            continue
        if len(indexes) < size:
            return
        after = indexes[-1]
        if len(page) * 4 < size:  # most rows of the index are not wanted: look at more at once
            size = min(MAX_LOOKUPS, size * 4)


def _by_looking(
    database: Database, job: Row[Any], wanted: ResultFilter, page_rows: int, after: int
) -> Iterator[list[Result]]:
    """Row after row; in windows that grow while little is found, each a short read."""
    index = results.c.record_index
    conditions = conditions_of(job, wanted, sqlite=database.is_sqlite)
    reader = ResultReader(database)
    window = page_rows * 4
    while True:
        query = select(index).where(*conditions, index > after, index <= after + window)
        with database.read() as connection:
            end = _end(connection, job)
            page, complete = reader.read(connection, query.limit(page_rows))
        more = not complete or len(page) == page_rows
        after = page[-1].record_index if more else after + window
        if complete and len(page) * 4 < page_rows:
            window = min(MAX_WINDOW, window * 2)
        yield _with_words(wanted.wanted_words, page)
        if after >= end - 1:
            return


def _end(connection: Connection, job: Row[Any]) -> int:
    """Before which index all rows of the job lie."""
    total = connection.scalar(select(jobs.c.total_records).where(jobs.c.id == job.id))
    if total:
        return int(total)
    own = results.c.job_id == job.id  # it is being loaded: its rows are bad inputs
    return (connection.scalar(select(func.max(results.c.record_index)).where(own)) or 0) + 1


def _with_words(search: Search | None, rows: list[Result]) -> list[Result]:
    """Words are compared here: quicker for a page of rows than to ask for each by itself."""
    if search is None:
        return rows
    return [row for row in rows if matches(search, words_of_row(row.text, row.output))]


def iter_vectors(
    database: Database, job_id: str, *, page_rows: int = PAGE_ROWS
) -> Iterator[tuple[int, str, bytes]]:
    """Index, id and vector of each record of the job that has one, read page by page."""
    index, vector = results.c.record_index, results.c.vector
    query = (
        select(index, results.c.record_id, vector)
        .where(results.c.job_id == job_id, vector.is_not(None))
        .order_by(index)
        .limit(page_rows)
    )
    last = -1
    while True:
        with database.read() as connection:
            page = connection.execute(query.where(index > last)).all()
        for row in page:
            yield tuple(row)
        if len(page) < page_rows:
            return
        last = page[-1][0]


def count_results(connection: Connection, job: Row[Any], wanted: ResultFilter) -> int | None:
    """How many rows match, the limit left aside, where that is known at once; None elsewhere."""
    given = _given(wanted)
    if not given and wanted.order != "score":
        return int(job.done_records + job.error_records)
    if given == {"errors"}:
        return int(job.error_records if wanted.errors else job.done_records)
    if given == {"label"}:
        return next(
            (one.records for one in count_labels(connection, job.id) if one.label == wanted.label),
            0,
        )
    return None


@dataclass(frozen=True, slots=True)
class LabelCount:
    """How many records have a label."""

    label: str
    records: int


def count_labels(connection: Connection, job_id: str) -> list[LabelCount]:
    """Counts by label, kept at completion of each chunk; the most frequent first."""
    rows = connection.execute(
        select(label_counts.c.label, label_counts.c.records)
        .where(label_counts.c.job_id == job_id, label_counts.c.records > 0)
        .order_by(label_counts.c.records.desc(), label_counts.c.label)
    )
    return [LabelCount(*row) for row in rows]


def count_errors(connection: Connection, job_id: str) -> list[tuple[str, int, str]]:
    """Each error code of the job with its number of records and one message as an example."""
    rows = connection.execute(
        select(results.c.error_code, func.count(), func.min(results.c.error_message))
        .where(results.c.job_id == job_id, results.c.error_code.is_not(None))
        .group_by(results.c.error_code)
        .order_by(func.count().desc())
    )
    return [(code, number, message) for code, number, message in rows]


def first_outputs(connection: Connection, job_id: str, count: int) -> list[tuple[str, str]]:
    """Record ids and what the outputs begin with, of at most ``count`` of the job's first records.

    Looks at ten times as many, so that it costs the same for a job of any size and any errors.
    """
    first = (
        select(results.c.record_id, func.substr(results.c.output, 1, OUTPUT_HEAD))
        .where(results.c.job_id == job_id)
        .order_by(results.c.record_index)
        .limit(10 * count)
    )
    found = [(record_id, output) for record_id, output in connection.execute(first)]
    return [(record_id, output) for record_id, output in found if output][:count]
