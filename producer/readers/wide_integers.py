"""Whole numbers of over 64 bits, which no reader of JSON and no column of a database keeps.

orjson makes the nearest float of one, which is another number: ids of 20 digits would become equal.
So each is kept as a text of its digits.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import orjson

from textmill.core.storable import INTEGERS

LIMIT = float(1 << 63)  # a float below it stands for no such number
# A search among digits that are all alike takes a nanosecond a byte, a regular expression ten.
_ZEROS = bytes(ord("0") if byte in b"0123456789" else byte for byte in range(256))
_RUN = b"0" * 19  # digits of the shortest


def digits_if_wide(number: int) -> int | str:
    """The number, or its digits where it has over 64 bits."""
    if number in INTEGERS:
        return number
    return str(Decimal(number))  # str of an int refuses over 4,300 digits


def keep_wide(block: bytes) -> bytes:
    """Lines of JSON in which such numbers are strings; lines without one are as they were."""
    if not _may_be_in(block):
        return block
    return b"".join(map(_keep_in_line, io.BytesIO(block)))


def _may_be_in(text: bytes) -> bool:
    return _RUN in text.translate(_ZEROS)


def _keep_in_line(line: bytes) -> bytes:
    if not _may_be_in(line):
        return line
    try:
        if not any(map(_is_large, _numbers(orjson.loads(line)))):
            return line
        values = json.loads(line, parse_int=_integer, parse_float=orjson.loads)
        return orjson.dumps(values) + b"\n"
    except (orjson.JSONDecodeError, orjson.JSONEncodeError, RecursionError):
        return line  # it is no JSON, or too deep: said where it is read


def _numbers(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list):
        yield value
        return
    for item in value:
        yield from _numbers(item)


def _is_large(value: Any) -> bool:
    return type(value) is float and abs(value) >= LIMIT


def _integer(digits: str) -> int | str:
    wide = len(digits) > 20 or int(digits) not in INTEGERS
    return digits if wide else int(digits)
