"""Result rows as columns: pages by key, as Arrow record batches, for whoever moves many of them.

A row becomes no Python object of ours on this way. A page is one short read that ends before the
page is handed on: at most PAGE_ROWS rows, and not much over ``raw_rows.PAGE_BYTES``. Which rows are
wanted comes as a ``Select`` with its conditions; what becomes of the columns is the caller's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from sqlalchemy import (
    ColumnElement,
    Row,
    Select,
    Text,
    cast,
    func,
    literal,
    or_,
    select,
    type_coerce,
)

from textmill.db.columns import JSON_TEXTS, NUMBERS, array_of, pick_texts, texts_of
from textmill.db.models import results
from textmill.db.queries import ResultFilter, _filtered
from textmill.db.raw_rows import RawReader
from textmill.db.session import Database

PAGE_ROWS = 4000
WIDER = 4  # times, is a window of indexes

Order = Literal["input", "fastest", "score"]


def iter_batches(
    database: Database,
    job: Row[Any],
    query: Select[Any] | None = None,
    *,
    columns: Sequence[str],
    extra: Sequence[str] = (),
    order: Order = "input",
    limit: int | None = None,
    page_rows: int = PAGE_ROWS,
) -> Iterator[Any]:
    """The job's rows as ``pyarrow.RecordBatch``es, read page by page.

    ``query`` is a Select from ``results`` of which the conditions count, not the columns and the
    order; None: all rows of the job. ``columns`` are names of columns of ``results``, ``extra`` of
    the input's own columns; a batch has the former, then the latter, of the types that
    ``columns.field_type`` gives. "score" is the highest first, and leaves out rows without one;
    "fastest" is what the database reads with the least work, which is the order of the key.
    """
    if query is None:
        query = select(results.c.record_index).where(results.c.job_id == job.id)
    reader = BatchReader(database, columns, extra)
    if order == "score":
        return _by_score(reader, query, limit, page_rows)
    return _by_index(reader, query, job.id, limit, page_rows)


def _by_index(
    reader: BatchReader, query: Select[Any], job_id: str, limit: int | None, page_rows: int
) -> Iterator[Any]:
    """Windows of indexes: PostgreSQL, while it knows little of a job, sorts all that is asked for.

    A window that gives few rows is followed by a wider one.
    """
    index = results.c.record_index
    end = reader.last_index(job_id)
    after, window, left = -1, page_rows, limit
    while after < end and (left is None or left > 0):
        size = page_rows if left is None else min(page_rows, left)
        upto = min(after + window, end)
        page = query.where(index > after, index <= upto).order_by(None).order_by(index)
        batch, complete = reader.read(page.limit(size))
        if batch.num_rows:
            yield batch
        if complete and batch.num_rows < size:
            after = upto
            if batch.num_rows < page_rows // WIDER:
                window *= WIDER
        else:
            after = reader.last_place[0]
            window = max(page_rows, window // WIDER)
        left = None if left is None else left - batch.num_rows


def _by_score(
    reader: BatchReader, query: Select[Any], limit: int | None, page_rows: int
) -> Iterator[Any]:
    index, score = results.c.record_index, results.c.score
    query = query.where(score.is_not(None)).order_by(None).order_by(score.desc(), index)
    page, left = query, limit
    while left is None or left > 0:
        size = page_rows if left is None else min(page_rows, left)
        batch, complete = reader.read(page.limit(size))
        if batch.num_rows:
            yield batch
        if complete and batch.num_rows < size:
            return
        last_index, last_score = reader.last_place
        # The first condition is one that an index can begin at.
        tie = or_(score < last_score, index > last_index)
        page = query.where(score <= last_score, tie)
        left = None if left is None else left - batch.num_rows


def iter_matching(
    database: Database,
    job: Row[Any],
    wanted: ResultFilter,
    columns: Sequence[str],
    extra: Sequence[str] = (),
) -> Iterator[Any]:
    """The rows that a filter wants, in its order, as ``iter_batches`` gives them."""
    return iter_batches(
        database,
        job,
        _filtered(job, wanted, sqlite=database.is_sqlite),
        columns=columns,
        extra=extra,
        order=wanted.order,
        limit=wanted.limit,
    )


class BatchReader:
    """Reads pages of the same columns one after another, each by a query of its own.

    After a page that has rows, ``last_place`` is index and score of its last one.
    """

    def __init__(
        self, database: Database, columns: Sequence[str], extra: Sequence[str] = ()
    ) -> None:
        self._database = database
        self._columns = list(columns)
        self._extra = list(extra)
        self._sqlite = database.is_sqlite
        selected = [self._stored(name) for name in self._columns] + self._extra_cells()
        sized = [at for at, column in enumerate(selected) if column.key not in NUMBERS]
        selected += [results.c.record_index, results.c.score]
        self._selected = [column.label(f"c{at}") for at, column in enumerate(selected)]
        self._rows = RawReader(database, len(selected), sized)
        self.last_place: tuple[int, float | None] = (-1, None)

    def read(self, query: Select[Any]) -> tuple[Any, bool]:
        """The rows of the query, whose columns are replaced, as a record batch.

        False beside it where they were too much for one page: further rows follow the last one.
        """
        import pyarrow as pa

        wanted = query.with_only_columns(*self._selected, maintain_column_froms=True)
        cells, complete = self._rows.read(wanted)
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
        with self._database.read() as connection:
            found = connection.scalar(highest)
        return -1 if found is None else found

    def _stored(self, name: str) -> ColumnElement[Any]:
        column = results.c[name]
        if name not in JSON_TEXTS:
            return column
        return type_coerce(column, Text) if self._sqlite else cast(column, Text)

    def _extra_cells(self) -> list[ColumnElement[Any]]:
        """Whole objects on SQLite, which would parse each again for every column asked for."""
        if self._sqlite:
            return [self._stored("extra")] if self._extra else []
        column = results.c.extra
        return [func.jsonb_extract_path_text(column, literal(name, Text)) for name in self._extra]
