"""The rows of a query as the driver has them: tuples of cells, a page of bounded size at a time.

Below SQLAlchemy's rows and types, which would cost more than the reading: texts and JSON come as
bytes of UTF-8. What cells become is left to ``columns.py``.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, Text, cast, type_coerce
from sqlalchemy.exc import DBAPIError

from textmill.db.columns import JSON_TEXTS
from textmill.db.models import results
from textmill.db.session import Database

PAGE_BYTES = 4 << 20
FETCHED_ROWS = 64  # at most, between two looks at how much a page holds
FETCHED_BYTES = 1 << 20  # rows are fetched fewer at a time where they are larger
SCAN_CACHE = "PRAGMA cache_size = -4096"  # KiB: who scans needs no page of the file twice

Cells = list[Any]


def raw_column(name: str, *, sqlite: bool) -> ColumnElement[Any]:
    """A column of ``results`` as it is selected for this: JSON as its text."""
    column = results.c[name]
    if name not in JSON_TEXTS:
        return column
    return type_coerce(column, Text) if sqlite else cast(column, Text)


class RawReader:
    """Reads pages of queries for the same columns; ``sized`` are the places of those with a length.

    How many rows are fetched at a time follows the size of those before, from one row on.
    ``held_bytes`` is the size of the page that was read last. ``scans`` is for who reads on and on,
    and leaves SQLite little of its cache.
    """

    def __init__(
        self, database: Database, width: int, sized: Sequence[int], *, scans: bool = True
    ) -> None:
        self.held_bytes = 0
        self._database = database
        self._width = width
        self._sized = sized
        self._scans = scans
        self._fetched_rows = 1

    def read(self, query: Select[Any]) -> tuple[list[Cells], bool]:
        """The first rows of the query as columns, and whether they are all.

        The page ends after PAGE_BYTES.
        """
        with self._database.read() as connection:
            return self.read_on(connection, query)

    def read_on(self, connection: Connection, query: Select[Any]) -> tuple[list[Cells], bool]:
        """The same in a transaction of the caller's, as its last query.

        (PostgreSQL ends a transaction in which a stream is given up.)
        """
        columns: list[Cells] = [[] for _ in range(self._width)]
        self.held_bytes = 0
        with _raw_cells(connection, scans=self._scans):
            result = connection.execute(query)
            if not result.returns_rows:  # so an empty stream of PostgreSQL's looks
                return columns, True
            cursor: Any = result.cursor
            base = connection.dialect.loaded_dbapi.Error
            try:
                return columns, self._fetch(cursor, columns)
            except base as error:
                # This is below SQLAlchemy; callers tell its errors apart.
                raise DBAPIError.instance("SELECT … FROM results", None, error, base) from error
            finally:
                cursor.close()

    def _fetch(self, cursor: Any, columns: list[Cells]) -> bool:
        while self.held_bytes < PAGE_BYTES:
            rows = cursor.fetchmany(self._fetched_rows)
            fetched = list(zip(*rows, strict=True))
            for column, cells in zip(columns, fetched, strict=bool(rows)):
                column += cells
            size = sum([sum(map(len, filter(None, fetched[at]))) for at in self._sized if fetched])
            self.held_bytes += size
            if len(rows) < self._fetched_rows:
                return True
            self._adjust(size)
        return False

    def _adjust(self, size: int) -> None:
        if size > FETCHED_BYTES:
            self._fetched_rows = max(1, self._fetched_rows * FETCHED_BYTES // size)
        elif 2 * size <= FETCHED_BYTES:
            self._fetched_rows = min(FETCHED_ROWS, 2 * self._fetched_rows)


@contextmanager
def _raw_cells(connection: Connection, *, scans: bool) -> Iterator[None]:
    """Cells with as little work as can be, for what runs on this connection meanwhile."""
    driver: Any = connection.connection.driver_connection
    if isinstance(driver, sqlite3.Connection):
        with _small_cache(driver) if scans else nullcontext():
            driver.text_factory = bytes
            try:
                yield
            finally:
                driver.text_factory = str
        return
    from textmill.db.streaming import StreamingCursor

    before, driver.cursor_factory = driver.cursor_factory, StreamingCursor
    try:
        yield
    finally:
        driver.cursor_factory = before


@contextmanager
def _small_cache(driver: sqlite3.Connection) -> Iterator[None]:
    (cache,) = driver.execute("PRAGMA cache_size").fetchone()
    driver.execute(SCAN_CACHE)
    try:
        yield
    finally:
        with suppress(sqlite3.Error):  # it may be closed, for another error
            driver.execute(f"PRAGMA cache_size = {cache}")
