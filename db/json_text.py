"""JSON columns as SQLite has them, and readers that ask for no more: as text."""

from __future__ import annotations

import json
from typing import Any

import orjson


def decode_json(text: str | bytes) -> Any:
    """Its value; half of a surrogate pair, which only json lets through, is no error."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return json.loads(text)
