"""What JSON can hold of values: Python's made fit for it, and how deep it may be nested."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping
from typing import Any

from textmill.core.storable import without_nul
from textmill.producer.readers.wide_integers import digits_if_wide

MAX_DEPTH = 200  # levels of lists and objects; orjson writes 254, and some of them are ours
TOO_DEEP = f"it is nested over {MAX_DEPTH} levels deep; expected no more"


def is_too_deep(value: Any) -> bool:
    """Whether lists or objects lie in each other deeper than can be stored."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [item for one in level for item in _items(one)]
        if not level:
            return False
    return True


def _items(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return value.values()
    return value if isinstance(value, list | tuple | set | frozenset) else ()


def to_jsonable(value: Any) -> Any:
    """Dates and times as ISO strings, bytes as base64, Decimals and others as strings, NaN and
    infinities as None, NUL as U+FFFD, whole numbers of over 64 bits as their digits."""
    if value is None or type(value) is bool:
        return value
    if type(value) is int:
        return digits_if_wide(value)
    if isinstance(value, str):
        return without_nul(str(value))
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, Mapping):
        return {without_nul(str(key)): to_jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_jsonable(item) for item in value]
    return _scalar(value)


def _scalar(value: Any) -> Any:
    for method in ("isoformat", "item"):  # dates and times; scalars of numpy and torch
        convert = getattr(value, method, None)
        if callable(convert):
            converted = convert()
            return converted if isinstance(converted, str) else to_jsonable(converted)
    return without_nul(str(value))
