"""Result rows as objects, read in pages that have a bound in rows and one in bytes.

They are made of raw cells a column at a time, which is quicker than a row at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import Connection, Select

from textmill.db.columns import JSON_TEXTS, NUMBERS
from textmill.db.json_text import decode_json
from textmill.db.models import results
from textmill.db.raw_rows import RawReader, raw_column
from textmill.db.session import Database


@dataclass(frozen=True, slots=True)
class Result:
    """One result row: the output of a record, or its error."""

    record_index: int
    record_id: str
    text: str | None
    label: str | None
    score: float | None
    output: str | None
    vector: bytes | None  # float32, little endian
    detail: dict[str, Any] | None
    error_code: str | None
    error_message: str | None
    extra: dict[str, Any] | None
    input_tokens: int | None
    output_tokens: int | None
    reused_from: str | None = None  # the job whose result answered the record


NAMES = [field.name for field in fields(Result)]
AS_THEY_ARE = {*NUMBERS, "vector"}


class ResultReader:
    """Reads pages of results one after another; ``held_bytes`` is the size of the last one."""

    def __init__(self, database: Database) -> None:
        columns = [raw_column(name, sqlite=database.is_sqlite) for name in NAMES]
        self._selected = [column.label(name) for name, column in zip(NAMES, columns, strict=True)]
        sized = [at for at, name in enumerate(NAMES) if name not in NUMBERS]
        self._rows = RawReader(database, len(NAMES), sized, scans=False)

    @property
    def held_bytes(self) -> int:
        """How many bytes of texts, JSON and vectors the page has that was read last."""
        return self._rows.held_bytes

    def read(self, connection: Connection, query: Select[Any]) -> tuple[list[Result], bool]:
        """The rows of a query of ``results``, whose columns are replaced, in input order.

        False beside them where they were too much for one page: further rows follow the last one.
        """
        ordered = query.order_by(None).order_by(results.c.record_index)
        wanted = ordered.with_only_columns(*self._selected, maintain_column_froms=True)
        cells, complete = self._rows.read_on(connection, wanted)
        return list(map(Result, *map(_values, NAMES, cells))), complete


def _values(name: str, cells: Sequence[Any]) -> Sequence[Any]:
    if name in AS_THEY_ARE:
        return cells
    if name in JSON_TEXTS:
        return [None if cell is None else decode_json(cell) for cell in cells]
    return [cell.decode(errors="replace") if type(cell) is bytes else cell for cell in cells]
