"""Result rows as columns: pages by key, as Arrow record batches, for whoever moves many of them.

A row becomes no Python object of ours on this way. A page is one short read that ends before the
page is handed on: at most PAGE_ROWS rows, and not much over ``raw_rows.PAGE_BYTES``. What becomes
of the columns is the caller's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Row,
    Select,
    Text,
    func,
    literal,
    select,
)

from textmill.core.search import Search, matches, words_of_row
from textmill.db.columns import NUMBERS, array_of, pick_texts, texts_of
from textmill.db.filters import ResultFilter, among, check_columns, conditions_of, place_after
from textmill.db.jobs import check_not_purged
from textmill.db.models import results
from textmill.db.portions import Portions
from textmill.db.raw_rows import RawReader, raw_column
from textmill.db.score_order import iter_by_score
from textmill.db.session import Database
from textmill.db.sources import ALL, Source, choose_source

PAGE_ROWS = 4000
WIDER = 4  # times, is a window of indexes


def iter_batches(
    database: Database,
    job: Row[Any],
    wanted: ResultFilter,
    columns: Sequence[str],
    extra: Sequence[str] = (),
    *,
    page_rows: int = PAGE_ROWS,
) -> Iterator[Any]:
    """The rows that a filter wants, in its order, as ``pyarrow.RecordBatch``es.

    ``columns`` are names of columns of ``results``, ``extra`` of the input's own columns; a batch
    has the former, then the latter, of the types that ``columns.field_type`` gives. "fastest" is
    what the database reads with the least work, which is the order of the key. Raises
    InvalidJobError for a filter that the job cannot have.
    """
    check_columns(job, wanted)
    check_not_purged(job)
    batches = _matching(database, job, wanted, columns, extra, page_rows)
    left = wanted.limit
    for batch in batches:
        if left is not None and batch.num_rows >= left:
            yield batch.slice(0, left)
            return
        left = None if left is None else left - batch.num_rows
        yield batch


class LimitedBatches:
    """``iter_batches`` for a filter with a limit: afterwards it is known whether there are more."""

    def __init__(self, database: Database, job: Row[Any], wanted: ResultFilter) -> None:
        self.after: str | None = None  # of the next page; None: there is none
        self._database = database
        self._job = job
        self._wanted = wanted

    def read(self, columns: Sequence[str], extra: Sequence[str]) -> Iterator[Any]:
        """The batches, of columns with ``record_index`` and ``score`` among them."""
        limit = self._wanted.limit
        if limit is None:
            yield from iter_batches(self._database, self._job, self._wanted, columns, extra)
            return
        wanted = replace(self._wanted, limit=limit + 1)
        last: tuple[int, float | None] | None = None
        for batch in iter_batches(self._database, self._job, wanted, columns, extra):
            kept = batch.slice(0, limit)
            limit -= kept.num_rows
            if kept.num_rows:
                cells = [kept.column(columns.index(name)) for name in ("record_index", "score")]
                last = (cells[0][-1].as_py(), cells[1][-1].as_py())
                yield kept
            if kept.num_rows < batch.num_rows and last is not None:
                self.after = place_after(wanted, *last)


def _matching(
    database: Database,
    job: Row[Any],
    wanted: ResultFilter,
    columns: Sequence[str],
    extra: Sequence[str],
    page_rows: int,
) -> Iterator[Any]:
    """By what finds the rows with the least work; at most a page more than wanted."""
    row = results.c
    query = select(row.record_index).where(*conditions_of(job, wanted, sqlite=database.is_sqlite))
    search = wanted.wanted_words
    if search is None:
        reader = BatchReader(database, columns, extra)
        return _found(reader, job, wanted, query, page_rows)
    looked_in = [name for name in ("text", "output") if name not in columns]
    reader = BatchReader(database, [*looked_in, *columns], extra)
    found = _found(reader, job, wanted, query, page_rows)
    return _with_words(found, search, [*looked_in, *columns], len(looked_in))


def _found(
    reader: BatchReader, job: Row[Any], wanted: ResultFilter, query: Select[Any], page_rows: int
) -> Iterator[Any]:
    if wanted.order == "score":
        return _by_score(reader, job, wanted, query, page_rows)
    with reader.database.read() as connection:
        source = choose_source(connection, job, wanted)
    after = wanted.position()[1] if wanted.after is not None else -1
    if source is None:
        return _by_index(reader, query, job.id, after, page_rows)
    return _by_source(reader, source, query, after, page_rows)


def _with_words(
    batches: Iterator[Any], search: Search, columns: Sequence[str], unwanted: int
) -> Iterator[Any]:
    """The rows that have the words: an index may have named others, or none was there.

    Without the first columns, which were read for that. All go by their places: the input may have
    columns of the same names.
    """
    import pyarrow as pa

    text, output = columns.index("text"), columns.index("output")
    for batch in batches:
        pairs = zip(batch.column(text).to_pylist(), batch.column(output).to_pylist(), strict=True)
        mask = [matches(search, words_of_row(*pair)) for pair in pairs]
        kept = batch.select(range(unwanted, batch.num_columns)).filter(pa.array(mask))
        if kept.num_rows:
            yield kept


def _by_source(
    reader: BatchReader, source: Source, query: Select[Any], after: int, page_rows: int
) -> Iterator[Any]:
    while True:
        with reader.database.read() as connection:
            indexes = source.find(connection, after, ALL, page_rows)
        yield from _lookups(reader, query, indexes)
        if len(indexes) < page_rows:
            return
        after = indexes[-1]


def _lookups(reader: BatchReader, query: Select[Any], indexes: Sequence[int]) -> Iterator[Any]:
    """The rows of these indexes that the query wants, in input order, however large they are."""
    index = results.c.record_index
    left = list(indexes)
    while left:
        page = query.where(among(index, left, sqlite=reader.database.is_sqlite))
        batch, complete = reader.read(page.order_by(None).order_by(index))
        if batch.num_rows:
            yield batch
        if complete:
            return
        left = [one for one in left if one > reader.last_place[0]]


def _by_index(
    reader: BatchReader, query: Select[Any], job_id: str, after: int, page_rows: int
) -> Iterator[Any]:
    """Windows of indexes: PostgreSQL, while it knows little of a job, sorts all that is asked for.

    A window that gives few rows is followed by a wider one.
    """
    index = results.c.record_index
    end = reader.last_index(job_id)
    window = page_rows
    while after < end:
        upto = min(after + window, end)
        page = query.where(index > after, index <= upto).order_by(None).order_by(index)
        batch, complete = reader.read(page.limit(page_rows))
        if batch.num_rows:
            yield batch
        if complete and batch.num_rows < page_rows:
            after = upto
            if batch.num_rows < page_rows // WIDER:
                window *= WIDER
        else:
            after = reader.last_place[0]
            window = max(page_rows, window // WIDER)


def _by_score(
    reader: BatchReader, job: Row[Any], wanted: ResultFilter, query: Select[Any], page_rows: int
) -> Iterator[Any]:
    """Pages of the order's own index, looked up in input order and put into this one."""

    def look_up(indexes: list[int]) -> tuple[Any, int, int, bool]:
        page = query.where(among(results.c.record_index, indexes, sqlite=reader.database.is_sqlite))
        batch, complete = reader.read(page.order_by(None).order_by(results.c.record_index))
        return batch, batch.num_rows, reader.held_bytes, complete

    portions = Portions(page_rows)
    for places in iter_by_score(reader.database, job, wanted, page_rows):
        for asked, batch in portions.read([index for _, index in places], look_up):
            at = {index: place for place, index in enumerate(reader.indexes)}
            order = [at[index] for index in asked if index in at]
            if order:
                yield batch.take(array_of("record_index", order))


class BatchReader:
    """Reads pages of the same columns one after another, each by a query of its own.

    After a page that has rows, ``last_place`` is index and score of its last one.
    """

    def __init__(
        self, database: Database, columns: Sequence[str], extra: Sequence[str] = ()
    ) -> None:
        self.database = database
        self._columns = list(columns)
        self._extra = list(extra)
        self._sqlite = database.is_sqlite
        selected = [raw_column(name, sqlite=self._sqlite) for name in self._columns]
        selected += self._extra_cells()
        sized = [at for at, column in enumerate(selected) if column.key not in NUMBERS]
        selected += [results.c.record_index, results.c.score]
        self._selected = [column.label(f"c{at}") for at, column in enumerate(selected)]
        self._rows = RawReader(database, len(selected), sized)
        self.last_place: tuple[int, float | None] = (-1, None)
        self.indexes: Sequence[int] = ()  # of the rows of the page that was read last

    @property
    def held_bytes(self) -> int:
        """How many bytes of texts, JSON and vectors the page had that was read last."""
        return self._rows.held_bytes

    def read(self, query: Select[Any]) -> tuple[Any, bool]:
        """The rows of the query, whose columns are replaced, as a record batch.

        False beside it where they were too much for one page: further rows follow the last one.
        """
        import pyarrow as pa

        wanted = query.with_only_columns(*self._selected, maintain_column_froms=True)
        cells, complete = self._rows.read(wanted)
        self.indexes = cells[-2]
        if cells[-1]:
            self.last_place = (cells[-2][-1], cells[-1][-1])
        own = len(self._columns)
        arrays = list(map(array_of, self._columns, cells[:own]))
        if self._sqlite and self._extra:
            arrays += pick_texts(cells[own], self._extra)
        else:
            arrays += map(texts_of, cells[own:-2])
        return pa.RecordBatch.from_arrays(arrays, names=[*self._columns, *self._extra]), complete

    def last_index(self, job_id: str) -> int:
        """The highest index among the job's rows, -1 if it has none."""
        highest = select(func.max(results.c.record_index)).where(results.c.job_id == job_id)
        with self.database.read() as connection:
            found = connection.scalar(highest)
        return -1 if found is None else found

    def _extra_cells(self) -> list[ColumnElement[Any]]:
        """Whole objects on SQLite, which would parse each again for every column asked for."""
        if self._sqlite:
            return [raw_column("extra", sqlite=True)] if self._extra else []
        column = results.c.extra
        return [func.jsonb_extract_path_text(column, literal(name, Text)) for name in self._extra]
