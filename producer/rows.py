"""Rows of a person's own query, written as CSV, JSON or JSON lines while they come.

Bytes are hexadecimal digits; in CSV a NULL is an empty cell.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import orjson

from textmill.core.errors import InvalidJobError
from textmill.core.tasks import nearest
from textmill.db.sql import Answer
from textmill.producer.exports.atomic import new_text_file

SUFFIXES = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json"}

Write = Callable[[IO[str], Answer], int]


def write_rows(answer: Answer, *, kind: str, out: Path | None) -> int:
    """Write every row to ``out`` (or stdout) and return how many there were.

    Raises InvalidJobError for a file that exists; a file under its final name is always whole.
    """
    write = WRITERS[kind]
    if out is None:
        return write(sys.stdout, answer)
    with new_text_file(out) as file:
        return write(file, answer)


def check_kind(kind: str) -> str:
    """The name of a format; raises InvalidJobError."""
    if kind not in ("table", *WRITERS):
        raise InvalidJobError(
            f"format {kind!r} is unknown; expected table, {', '.join(WRITERS)}"
            + nearest(kind, ["table", *WRITERS])
        )
    return kind


def kind_of(out: Path) -> str:
    """The format that a file's name asks for; raises InvalidJobError."""
    kind = SUFFIXES.get(out.suffix.lower())
    if kind is None:
        raise InvalidJobError(
            f"{out.name!r} names no known format; expected one of {', '.join(SUFFIXES)}, "
            "or pass --format"
        )
    return kind


def _write_csv(file: IO[str], answer: Answer) -> int:
    writer = csv.writer(_Lines(file), lineterminator="\r\n")
    writer.writerow(answer.columns)
    count = 0
    for count, row in enumerate(answer.rows(), 1):  # noqa: B007 - the last value is the result
        writer.writerow([cell.hex() if isinstance(cell, bytes) else cell for cell in row])
    return count


class _Lines:
    """Lines that end in a line feed, of a writer that quotes a carriage return if it ends lines."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def write(self, line: str) -> None:
        self._file.write(line[:-2] + "\n")


def _write_jsonl(file: IO[str], answer: Answer) -> int:
    count = 0
    for count, row in enumerate(answer, 1):  # noqa: B007 - the last value is the result
        file.write(_json(row) + "\n")
    return count


def _write_json(file: IO[str], answer: Answer) -> int:
    """One list, a row on each line."""
    count = 0
    for count, row in enumerate(answer, 1):
        file.write(("[\n" if count == 1 else ",\n") + _json(row))
    file.write("\n]\n" if count else "[]\n")
    return count


def _json(row: dict[str, Any]) -> str:
    return orjson.dumps(row, default=bytes.hex).decode()


WRITERS: dict[str, Write] = {"csv": _write_csv, "jsonl": _write_jsonl, "json": _write_json}
