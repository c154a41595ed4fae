"""Columns of raw cells as Arrow arrays: the types they have, and texts whatever they hold."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import orjson

NUMBERS = {"record_index", "score", "input_tokens", "output_tokens"}
JSON_TEXTS = {"detail", "extra"}
FLOAT_BYTES = 4

Cells = Sequence[Any]


def field_type(name: str) -> Any:
    """The Arrow type of a column of ``results``; each of the input's own columns is a string.

    ``detail`` and ``extra`` are JSON text; ``vector`` is a list of float32.
    """
    import pyarrow as pa

    if name == "vector":
        return pa.list_(pa.float32())
    if name == "score":
        return pa.float64()
    return pa.int64() if name in NUMBERS else pa.string()


def array_of(name: str, cells: Cells) -> Any:
    """The cells of a column of ``results``."""
    import pyarrow as pa

    if name == "vector":
        return _vectors(cells)
    return pa.array(cells, field_type(name)) if name in NUMBERS else texts_of(cells)


def texts_of(cells: Cells) -> Any:
    """Strings; what is no UTF-8 has U+FFFD in its place, what is no text is JSON text."""
    import pyarrow as pa

    try:
        return pa.array(cells, pa.string())
    except (pa.ArrowException, TypeError, UnicodeError):
        return pa.array([_as_text(cell) for cell in cells], pa.string())


def pick_texts(cells: Cells, names: Sequence[str]) -> list[Any]:
    """One array of strings for each name, out of cells that hold a JSON object each."""
    objects = _read_objects([cell or b"{}" for cell in cells])
    return [texts_of([found.get(name) for found in objects]) for name in names]


def _as_text(cell: Any) -> str | None:
    if cell is None:
        return None
    if isinstance(cell, str):
        cell = cell.encode(errors="surrogatepass")
    if isinstance(cell, bytes):
        return cell.decode(errors="replace")
    return orjson.dumps(cell).decode()


def _read_objects(cells: Cells) -> list[dict[str, Any]]:
    try:
        objects = list(map(orjson.loads, cells))
    except orjson.JSONDecodeError:  # half of a surrogate pair, say, which json lets through
        objects = list(map(json.loads, cells))
    if set(map(type, objects)) - {dict}:  # nothing of ours wrote that
        return [found if isinstance(found, dict) else {} for found in objects]
    return objects


def _vectors(cells: Cells) -> Any:
    import pyarrow as pa

    if cells.count(None) == len(cells):
        return pa.nulls(len(cells), field_type("vector"))
    ends = list(accumulate([len(cell) // FLOAT_BYTES if cell else 0 for cell in cells], initial=0))
    starts = [None if cell is None else start for cell, start in zip(cells, ends[:-1], strict=True)]
    numbers = b"".join([cell for cell in cells if cell])
    values = pa.Array.from_buffers(pa.float32(), ends[-1], [None, pa.py_buffer(numbers)])
    return pa.ListArray.from_arrays(pa.array([*starts, ends[-1]], pa.int32()), values)
