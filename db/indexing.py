"""What finds a result besides its own columns: its words, declared columns, further labels.

Entries are made before the transaction that writes them, for that takes longer than the writing,
and are removed by making them again from the stored row: neither index keeps what it indexes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache, lru_cache
from itertools import chain
from typing import Any, Protocol

import orjson
from sqlalchemy import Connection

from textmill.core.search import words_of_row
from textmill.db.json_text import decode_json

ROW_BITS = 40  # of a row in result_words for the record's index, the rest for the job's number
# PostgreSQL's index gives rows in no order. So each row also has words that say in which block of
# the job it lies: blocks of 4,096, 131,072 and 4 million rows.
BLOCK_BITS = (12, 17, 22)
# PostgreSQL keeps the first 256 places of a word: a row with more of one says so by this word.
# https://www.postgresql.org/docs/current/textsearch-limitations.html
MAX_PLACES = 256
CROWDED = "/crowded"
FURTHER_LABEL = ""  # the name under which result_values has labels that are not a row's first
MAX_VALUE = 200  # characters; an index of PostgreSQL takes no entry of over 2,700 bytes
EXACT_INTEGERS = 1e16  # from here on a float is written with an exponent, or not


class IndexedJob(Protocol):
    """What of a job decides on its entries: a row of ``jobs`` has it."""

    @property
    def full_text(self) -> bool: ...
    @property
    def index_columns(self) -> Sequence[str] | None: ...
    @property
    def number(self) -> int | None: ...


@dataclass(frozen=True, slots=True)
class UnreadIndexes:
    """A job of rows without texts: inputs that could not be read."""

    index_columns: Sequence[str] | None
    full_text: bool = False
    number: int | None = None


class IndexedRow(Protocol):
    """What of a result its entries are made of; JSON columns as text or decoded."""

    @property
    def record_index(self) -> int: ...
    @property
    def text(self) -> str | None: ...
    @property
    def output(self) -> str | None: ...
    @property
    def label(self) -> str | None: ...
    @property
    def detail(self) -> Any: ...
    @property
    def extra(self) -> Any: ...


@dataclass(frozen=True, slots=True)
class Entries:
    """The entries of some rows of one job: (row, words) and (name, value, record index)."""

    words: Sequence[tuple[int, str]] = ()
    values: Sequence[tuple[str, str, int]] = ()


def row_id(job: IndexedJob, record_index: int) -> int:
    """Where a record stands in ``result_words``."""
    return ((job.number or 0) << ROW_BITS) + record_index


def make_entries(job: IndexedJob, rows: Iterable[IndexedRow], *, sqlite: bool) -> Entries:
    """The entries of these rows."""
    rows = list(rows)
    words = _words(job, rows, sqlite=sqlite) if job.full_text else []
    columns = job.index_columns or ()
    values = [
        (name, value, row.record_index)
        for row in rows
        if columns or row.detail is not None
        for name, value in _values(columns, row)
    ]
    return Entries(words, values)


def _words(job: IndexedJob, rows: Sequence[IndexedRow], *, sqlite: bool) -> list[tuple[int, str]]:
    base = row_id(job, 0)
    found = []
    for row in rows:
        if words := words_of_row(row.text, row.output):
            place = base + row.record_index
            found.append((place, " ".join(words) if sqlite else _tsvector(place, words)))
    return found


def _tsvector(place: int, words: Sequence[str]) -> str:
    """A row's words with where they stand, and what no text has, as PostgreSQL reads a tsvector."""
    standing = "".join(chain.from_iterable(zip(words, _places(len(words)), strict=False)))
    crowded = len(words) > MAX_PLACES and max(Counter(words).values()) > MAX_PLACES
    blocks = " ".join(block_words(place >> BLOCK_BITS[0] << BLOCK_BITS[0]))
    return f"{standing}{blocks} {CROWDED}" if crowded else standing + blocks


def _places(words: int) -> Sequence[str]:
    """What follows a row's first word, its second, and so on; at least as many."""
    return _made_places(1 << words.bit_length())


@cache
def _made_places(words: int) -> Sequence[str]:
    return [f":{at} " for at in range(1, words + 1)]


@lru_cache(maxsize=64)
def block_words(place: int) -> list[str]:
    """The words that say in which blocks a row of ``result_words`` lies; no text has such."""
    return [block_word(level, place >> bits) for level, bits in enumerate(BLOCK_BITS)]


def block_word(level: int, number: int) -> str:
    """The word of one block."""
    return f"/{level}/{number:x}"


def _values(columns: Sequence[str], row: IndexedRow) -> Iterable[tuple[str, str]]:
    if columns and row.extra is not None:
        extra = _decoded(row.extra)
        for column in columns:
            value = value_text(extra.get(column))
            if value is not None:
                yield column, value[:MAX_VALUE]
    if row.detail is not None and row.label is not None:
        for label in _labels(row.detail):
            if label != row.label:
                yield FURTHER_LABEL, label


def _labels(detail: Any) -> list[str]:
    if isinstance(detail, str) and '"labels"' not in detail:
        return []  # as nearly always: no need to decode it
    labels = _decoded(detail).get("labels")
    return list(dict.fromkeys(labels)) if isinstance(labels, list) else []


def _decoded(value: Any) -> dict[str, Any]:
    found = decode_json(value) if isinstance(value, str) else value
    return found if isinstance(found, dict) else {}


def value_text(value: Any) -> str | None:
    """A value of ``extra`` as the text it is compared by; None for objects, lists and nothing.

    The same whether the value was just read or comes from ``jsonb``, which writes 1e16 in full and
    knows no negative zero.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return str(value).lower()  # True is an int
    if not isinstance(value, float) or not math.isfinite(value):
        return None
    if abs(value) >= EXACT_INTEGERS:
        return str(int(as_written(value)))
    return orjson.dumps(value + 0.0).decode()


def as_written(number: int | float) -> Decimal:
    """A number as JSON text has it: of a float the shortest digits that tell it from others.

    ``jsonb`` keeps these: to Python's arithmetic a float of over 53 bits is another number.
    """
    return Decimal(number if isinstance(number, int) else repr(number))


def write_entries(connection: Connection, job_id: str, entries: Entries) -> None:
    """Insert the entries of rows that are written in the same transaction."""
    if entries.words:
        place = "rowid" if connection.dialect.name == "sqlite" else "row_id"
        bulk_insert(connection, "result_words", (place, "words"), entries.words)
    if entries.values:
        rows = [(job_id, *value) for value in entries.values]
        names = ("job_id", "name", "value", "record_index")
        bulk_insert(connection, "result_values", names, rows)


def remove_entries(connection: Connection, job_id: str, entries: Entries) -> None:
    """Delete the entries of rows that are deleted in the same transaction."""
    sqlite = connection.dialect.name == "sqlite"
    if entries.words and sqlite:
        # https://www.sqlite.org/fts5.html#the_delete_command
        statement = "INSERT INTO result_words (result_words, rowid, words) VALUES ('delete', ?, ?)"
        connection.exec_driver_sql(statement, list(entries.words))
    elif entries.words:
        places = [place for place, _ in entries.words]
        connection.exec_driver_sql("DELETE FROM result_words WHERE row_id = ANY(%s)", (places,))
    if entries.values:
        mark = "?" if sqlite else "%s"
        connection.exec_driver_sql(
            f"DELETE FROM result_values WHERE job_id = {mark} AND name = {mark} "
            f"AND value = {mark} AND record_index = {mark}",
            [(job_id, *value) for value in entries.values],
        )


def bulk_insert(
    connection: Connection, table: str, names: Sequence[str], rows: Sequence[tuple[Any, ...]]
) -> None:
    """Insert many rows: COPY on PostgreSQL, one prepared statement on SQLite.

    Below SQLAlchemy, so callers wrap the driver's errors; see ``results.driver_errors``.
    """
    cursor = connection.connection.cursor()
    try:
        if connection.dialect.name == "sqlite":
            marks = ", ".join("?" * len(names))
            cursor.executemany(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})", rows)
        else:
            with cursor.copy(f"COPY {table} ({', '.join(names)}) FROM STDIN") as copy:
                for row in rows:
                    copy.write_row(row)
    finally:
        cursor.close()
