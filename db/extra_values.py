"""A value that is asked for in a column of ``extra``: which entries and which rows have it.

One meaning on every database, with and without an index: texts and truths are compared as they are
written, numbers by their value, since databases write them in several ways.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Integer, Text, and_, cast, func, literal, or_
from sqlalchemy.dialects.postgresql import JSONB

from textmill.core.storable import INTEGERS
from textmill.db.indexing import MAX_VALUE, as_written, value_text
from textmill.db.json_text import decode_json
from textmill.db.models import results

# SQLite reads a number as its own double and writes 15 digits of it, so that comparison is ours.
SQLITE_FUNCTION = "textmill_has_value"
NUMBER = re.compile(r"(-?(?:0|[1-9][0-9]*))(\.[0-9]+)?([eE][+-]?[0-9]+)?")  # as JSON has them
MAX_DIGITS = 400  # of a whole number: a float has up to 309


@dataclass(frozen=True, slots=True)
class WantedValue:
    """What a column shall hold, as text; where that is a number, each way to write it counts."""

    text: str

    @property
    def number(self) -> int | float | None:
        """The number that the text is; None if it is none."""
        return read_number(self.text)

    @property
    def entries(self) -> list[str]:
        """Each text under which ``result_values`` may have it."""
        number = self.number
        if number is None:
            return [self.text[:MAX_VALUE]]
        exact = as_written(number)
        same = [one for one in (number, int(exact), float(exact)) if as_written(one) == exact]
        texts = [self.text, *filter(None, map(value_text, same))]
        return list(dict.fromkeys(text[:MAX_VALUE] for text in texts))

    @property
    def is_its_entry(self) -> bool:
        """Whether an entry says it: texts like a number, and long ones, have entries of others."""
        return self.number is None and len(self.text) < MAX_VALUE

    def in_column(self, name: str, *, sqlite: bool) -> ColumnElement[bool]:
        """The rows of ``results`` that have it, by what their ``extra`` holds."""
        extra, number = results.c.extra, self.number
        if sqlite:
            held = func.textmill_has_value(cast(extra, Text), name, self.text, type_=Integer)
            return held == 1
        value = func.jsonb_extract_path(extra, name)
        same = and_(
            func.jsonb_typeof(value).in_(["string", "boolean"]),
            func.jsonb_extract_path_text(extra, name) == self.text,
        )
        if number is None:
            return same
        return or_(same, value == cast(literal(orjson.dumps(number).decode(), Text), JSONB))


@lru_cache(maxsize=256)
def read_number(text: str) -> int | float | None:
    """The number that a text is in JSON, as ``extra`` would hold it; None if it is none."""
    parts = NUMBER.fullmatch(text) if len(text) <= MAX_DIGITS else None
    if parts is None:
        return None
    number = float(text)
    if parts[2] or parts[3]:
        return number if math.isfinite(number) else None
    whole = int(text)
    if whole in INTEGERS:
        return whole
    # PostgreSQL writes a large float in full; any other whole number is not that float.
    return number if math.isfinite(number) and as_written(number) == whole else None


def has_value(extra: str | None, name: str, text: str) -> bool:
    """SQLite's function: whether a row's ``extra``, as JSON text, has the value in this column."""
    value = _decoded(extra).get(name)
    if type(value) is int or type(value) is float:
        number = read_number(text)
        return number is not None and as_written(value) == as_written(number)
    return value_text(value) == text


def _decoded(extra: str | None) -> dict[str, Any]:
    found = decode_json(extra or "{}")
    return found if isinstance(found, dict) else {}
