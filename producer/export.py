"""Writing results to CSV or JSON lines, as a stream, and to a file only when it is whole.

A vector is a list of numbers there, in CSV as JSON text, each number in as few digits as tell its
float32 from all others.
"""

from __future__ import annotations

import csv
import os
import struct
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import orjson

from textmill.core.errors import InvalidJobError, ServiceUnavailableError
from textmill.core.tasks import nearest
from textmill.db.queries import Result
from textmill.producer.terminal import data_output

SUFFIXES = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
COLUMNS = (
    "record_index",
    "record_id",
    "text",
    "label",
    "score",
    "output",
    "vector",
    "detail",
    "error_code",
    "error_message",
    "input_tokens",
    "output_tokens",
)

Write = Callable[[IO[str], Iterable[Result], Sequence[str]], int]


def write_results(
    rows: Iterable[Result], extra_columns: Sequence[str], *, kind: str, out: Path | None
) -> int:
    """Write rows to ``out`` (or stdout) and return their number.

    Raises InvalidJobError for an unknown kind or a file that exists, ServiceUnavailableError if
    the disk refuses; a file under its final name is always whole.
    """
    writer = WRITERS.get(kind)
    if writer is None:
        raise InvalidJobError(
            f"format {kind!r} is unknown; expected {', '.join(WRITERS)}{nearest(kind, WRITERS)}"
        )
    if out is None:
        return writer(data_output(json=kind == "jsonl"), rows, extra_columns)
    with whole_file(out) as file:
        return writer(file, rows, extra_columns)


def kind_of(out: Path) -> str:
    """The format a file name asks for; raises InvalidJobError."""
    kind = SUFFIXES.get(out.suffix.lower())
    if kind is None:
        raise InvalidJobError(
            f"{out.name!r} names no known format; expected one of {', '.join(SUFFIXES)}, "
            "or pass --format"
        )
    return kind


def refuse_existing(out: Path) -> None:
    """Raise InvalidJobError for a file that an export would replace."""
    if out.exists():
        raise InvalidJobError(f"{out} exists; choose another name or remove it first")


@contextmanager
def whole_file(out: Path) -> Iterator[IO[str]]:
    """A file beside ``out`` that takes its name at the end."""
    refuse_existing(out)
    try:
        handle, name = tempfile.mkstemp(dir=out.parent, prefix=f".{out.name}.")
    except OSError as error:
        raise InvalidJobError(f"cannot write to {out.parent}: {error.strerror}") from None
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.rename(out)
    except OSError as error:
        raise ServiceUnavailableError(f"cannot write {out}: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)


def _write_csv(delimiter: str) -> Write:
    def write(file: IO[str], rows: Iterable[Result], extra_columns: Sequence[str]) -> int:
        writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
        writer.writerow([*COLUMNS, *extra_names(extra_columns)])
        count = 0
        for count, row in enumerate(rows, 1):  # noqa: B007 - the last value is the result
            writer.writerow(_cells(row, extra_columns))
        return count

    return write


def extra_names(extra_columns: Sequence[str]) -> list[str]:
    """Header names of the input's own columns; ``input_label`` where Textmill has a ``label``."""
    return [f"input_{name}" if name in COLUMNS else name for name in extra_columns]


def _cells(row: Result, extra_columns: Sequence[str]) -> list[Any]:
    cells = [_cell(getattr(row, column)) for column in COLUMNS]
    extra = row.extra or {}
    return cells + [_cell(extra.get(column)) for column in extra_columns]


def _cell(value: Any) -> Any:
    if isinstance(value, bytes):
        return vector_text(value)
    return orjson.dumps(value).decode() if isinstance(value, dict | list) else value


def _write_jsonl(file: IO[str], rows: Iterable[Result], extra_columns: Sequence[str]) -> int:
    count = 0
    for count, row in enumerate(rows, 1):  # noqa: B007 - the last value is the result
        values = asdict(row)
        if row.vector is not None:
            values["vector"] = orjson.Fragment(vector_text(row.vector))
        file.write(orjson.dumps(values).decode() + "\n")
    return count


def vector_text(vector: bytes) -> str:
    """A stored vector as a JSON list; 9 digits give back the same float32."""
    count = len(vector) // 4
    numbers = struct.unpack(f"<{count}f", vector)
    return "[" + ", ".join(["%.9g"] * count) % numbers + "]"


WRITERS: dict[str, Write] = {
    "csv": _write_csv(","),
    "tsv": _write_csv("\t"),
    "jsonl": _write_jsonl,
}
