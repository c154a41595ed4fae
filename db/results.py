"""Result rows: the bulk write of a completed chunk.

The write is the hot path of the whole product: COPY on PostgreSQL, one prepared multi-row insert
on SQLite, both below SQLAlchemy's per-row machinery.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from itertools import repeat
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

HASH_BYTES = 16


class ResultRow(NamedTuple):
    """One row of ``results`` but for its job, in the order the bulk write sends the columns."""

    record_index: int
    record_id: str
    text: str | None = None
    text_hash: bytes | None = None
    label: str | None = None
    score: float | None = None
    output: str | None = None
    vector: bytes | None = None
    detail: str | None = None  # JSON text
    error_code: str | None = None
    error_message: str | None = None
    extra: str | None = None  # JSON text
    input_tokens: int | None = None
    output_tokens: int | None = None


def hash_text(value: str) -> bytes:
    """The 16-byte BLAKE2b digest by which equal texts are found."""
    return blake2b(value.encode(), digest_size=HASH_BYTES).digest()


def to_json(value: Any) -> str | None:
    """JSON text for a JSON column, or NULL."""
    return None if value is None else orjson.dumps(value).decode()


def write_results(connection: Connection, job_id: str, rows: Sequence[ResultRow]) -> None:
    """Insert the rows of one chunk; a second row for a record is an IntegrityError."""
    if not rows:
        return
    names, values = _used_columns(job_id, rows)
    cursor = connection.connection.cursor()
    try:
        if connection.dialect.name == "sqlite":
            marks = ", ".join("?" * len(names))
            statement = f"INSERT INTO results ({', '.join(names)}) VALUES ({marks})"
            cursor.executemany(statement, values)
        else:
            with cursor.copy(f"COPY results ({', '.join(names)}) FROM STDIN") as copy:
                for row in values:
                    copy.write_row(row)
    except connection.dialect.loaded_dbapi.Error as error:
        # This is below SQLAlchemy; callers tell its errors apart, and retry some.
        raise DBAPIError.instance(
            "write_results", None, error, connection.dialect.loaded_dbapi.Error
        ) from error
    finally:
        cursor.close()


def _used_columns(
    job_id: str, rows: Sequence[ResultRow]
) -> tuple[Sequence[str], list[tuple[Any, ...]]]:
    """The columns that are not NULL in every row, and the rows of these alone.

    Most tasks leave half of the columns empty, and each one sent costs on both databases.
    """
    used = [
        (name, values)
        for name, values in zip(ResultRow._fields, zip(*rows, strict=True), strict=True)
        if values.count(None) < len(values)
    ]
    names = ["job_id", *(name for name, _ in used)]
    return names, list(zip(repeat(job_id, len(rows)), *(v for _, v in used), strict=True))
