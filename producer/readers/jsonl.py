"""JSON lines: one JSON object a line."""

from __future__ import annotations

import io
import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import orjson

from textmill.core.jobs import BadRecord, Record
from textmill.producer.readers.builder import RecordBuilder
from textmill.producer.readers.jsonable import MAX_DEPTH, TOO_DEEP, is_too_deep
from textmill.producer.readers.options import SAMPLE_ROWS
from textmill.producer.readers.streams import ENCODING_HINT, Blocks
from textmill.producer.readers.wide_integers import keep_wide

# An escaped NUL: "\\u0000" after an even number of backslashes (an odd one escapes the backslash).
_ESCAPED_NUL = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")
_KINDS = {list: "a list", str: "a string", int: "a number", float: "a number", bool: "a boolean"}


class JsonLinesSource:
    """One JSONL input."""

    unit = "line"

    def __init__(self, blocks: Blocks) -> None:
        self._blocks = blocks
        self.name = blocks.name
        self._sample = self._read_sample()
        self.columns = tuple(dict.fromkeys(chain.from_iterable(self._sample)))

    def close(self) -> None:
        self._blocks.close()

    def has_rows(self) -> bool:
        return any(not line.isspace() for line in io.BytesIO(self._blocks.first))

    def sample(self) -> Sequence[Mapping[str, Any]]:
        return self._sample

    def records(
        self, builder: RecordBuilder, index: int
    ) -> Generator[Record | BadRecord, None, int]:
        build, loads, invalid = builder.build, orjson.loads, orjson.JSONDecodeError
        lines: Iterator[bytes] = chain.from_iterable(map(_split, self._blocks))
        for number, line in enumerate(lines, 1):
            try:
                values = loads(line)
            except invalid as error:
                if line.isspace():
                    continue
                yield _invalid(builder, index, number, line, error)
            else:
                if type(values) is not dict:
                    yield _no_object(builder, index, number, values)
                elif len(line) > 2 * MAX_DEPTH and _is_too_deep(line, values):
                    yield builder.bad(index, number, "bad_row", TOO_DEEP)
                else:
                    yield build(index, number, values)
            index += 1
        return index

    def _read_sample(self) -> list[dict[str, Any]]:
        good: list[dict[str, Any]] = []
        for line in _split(self._blocks.first):
            if len(good) == SAMPLE_ROWS:
                break
            try:
                values = orjson.loads(line)
            except orjson.JSONDecodeError:
                continue  # reported when it is reached
            if isinstance(values, dict):
                good.append(values)
        return good


def _split(block: bytes) -> io.BytesIO:
    # PostgreSQL cannot store NUL, and in JSON it can only come as an escape.
    if b"\\u0000" in block:
        block = _ESCAPED_NUL.sub(rb"\1\\ufffd", block)
    return io.BytesIO(keep_wide(block))


def _is_too_deep(line: bytes, values: Any) -> bool:
    """Of most lines the brackets, which are quickly counted, say that they are not."""
    return line.count(b"[") + line.count(b"{") > MAX_DEPTH and is_too_deep(values)


def _invalid(
    builder: RecordBuilder, index: int, number: int, line: bytes, error: orjson.JSONDecodeError
) -> BadRecord:
    try:
        line.decode()
    except UnicodeDecodeError:
        problem = "the line is not UTF-8"
        return builder.bad(index, number, "bad_encoding", problem, hint=ENCODING_HINT)
    if "surrogate" in error.msg:
        problem = f"a \\u escape is half of a pair: {error.msg} (column {error.colno})"
        return builder.bad(index, number, "bad_encoding", problem)
    problem = f"the line is not JSON: {error.msg} (column {error.colno}); expected one JSON object"
    hint = ""
    if line.lstrip()[:1] == b"[":
        hint = "If the file is one JSON array, convert it: jq -c '.[]' OLD > NEW."
    return builder.bad(index, number, "bad_json", problem, hint=hint)


def _no_object(builder: RecordBuilder, index: int, number: int, value: Any) -> BadRecord:
    found = _KINDS.get(type(value), "null")
    problem = f'the line is {found}; expected a JSON object such as {{"text": "…"}}'
    return builder.bad(index, number, "bad_json", problem)
