"""JSON lines: one object a row, ``detail`` and ``extra`` as objects within it."""

from __future__ import annotations

from typing import IO, Any

import orjson

from textmill.producer.exports.export import COLUMNS as TABLE
from textmill.producer.exports.export import Export
from textmill.producer.exports.reading import read_ahead
from textmill.producer.exports.vector_texts import vector_texts

TOKENS = TABLE.index("input_tokens")
COLUMNS = (*TABLE[:TOKENS], "extra", *TABLE[TOKENS:])
JSON_TEXTS = {"vector", "detail", "extra"}
LINE_END = orjson.Fragment(b"\n")


def write(export: Export, file: IO[bytes]) -> int:
    """Write every row; returns their number."""
    count = 0
    with read_ahead(export.read(COLUMNS, ())) as batches:
        for batch in batches:
            file.write(_lines(batch))
            count += batch.num_rows
    return count


def _lines(batch: Any) -> bytes:
    """One call of orjson for all rows of a page, with line ends between them.

    No text that orjson has written holds a line end, so the commas around these can be told.
    """
    columns = [_values(name, batch.column(name)) for name in COLUMNS]
    rows: list[Any] = [LINE_END] * (2 * batch.num_rows)
    rows[::2] = [dict(zip(COLUMNS, row, strict=True)) for row in zip(*columns, strict=True)]
    return orjson.dumps(rows)[1:-1].replace(b",\n,", b"\n").removesuffix(b",\n") + b"\n"


def _values(name: str, column: Any) -> list[Any]:
    if name not in JSON_TEXTS:
        return list(column.to_pylist())
    texts = vector_texts(column) if name == "vector" else column
    return [text and orjson.Fragment(_on_one_line(text)) for text in texts.to_pylist()]


def _on_one_line(text: str) -> str | bytes:
    """JSON text that nobody of ours wrote may be on several lines."""
    return orjson.dumps(orjson.loads(text)) if "\n" in text or "\r" in text else text
