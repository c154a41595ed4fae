"""Columns of raw cells as Arrow arrays: the types they have, and texts whatever they hold.

Built from buffers: ``pyarrow.array`` imports pandas, where it is there, to ask whether it was given
a Series. That takes 50 MB and half a second of whoever only exports.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import orjson

from textmill.db.json_text import decode_json

NUMBERS = {"record_index": "q", "score": "d", "input_tokens": "q", "output_tokens": "q"}
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
    if name in NUMBERS:
        return pa.float64() if NUMBERS[name] == "d" else pa.int64()
    return pa.string()


def array_of(name: str, cells: Cells) -> Any:
    """The cells of a column of ``results``."""
    import pyarrow as pa

    kind = field_type(name)
    absent = cells.count(None)
    if absent == len(cells):
        return pa.nulls(len(cells), kind)
    if name == "vector":
        return _vectors(cells)
    if name in NUMBERS:
        filled = [0 if cell is None else cell for cell in cells] if absent else cells
        numbers = pa.py_buffer(array(NUMBERS[name], filled))
        return pa.Array.from_buffers(kind, len(cells), [_present(cells), numbers])
    return texts_of(cells)


def texts_of(cells: Cells) -> Any:
    """Strings, of bytes or of str, or None; what is no UTF-8 has U+FFFD in its place."""
    import pyarrow as pa

    present = _present(cells)
    filled = cells if present is None else [b"" if cell is None else cell for cell in cells]
    try:
        joined = b"".join(filled)
    except TypeError:
        filled = [_encoded(cell) for cell in filled]
        joined = b"".join(filled)
    found = _strings(filled, joined, present)
    try:
        found.validate(full=True)
    except pa.ArrowInvalid:
        filled = [cell.decode(errors="replace").encode() for cell in filled]
        found = _strings(filled, b"".join(filled), present)
    return found


def constant(text: str) -> Any:
    """One string, for Arrow's functions: ``pyarrow.scalar`` would import pandas as well."""
    return texts_of([text])[0]


def pick_texts(cells: Cells, names: Sequence[str]) -> list[Any]:
    """One array of strings for each name, out of cells that hold a JSON object each.

    A value that is no string is given as JSON text.
    """
    objects = _read_objects([cell or b"{}" for cell in cells] if None in cells else cells)
    return [_texts_of_values([found.get(name) for found in objects]) for name in names]


def _texts_of_values(values: Cells) -> Any:
    """Strings of what was in JSON: for the most part short ones, which are encoded together."""
    if set(map(type, values)) == {str}:
        joined = "".join(values)
        if joined.isascii():
            return _strings(values, joined.encode(), None)
    else:
        values = [None if value is None else _as_text(value) for value in values]
    return texts_of(values)


def _as_text(value: Any) -> str:
    return value if type(value) is str else orjson.dumps(value).decode()


def _encoded(cell: Any) -> bytes:
    return cell if type(cell) is bytes else str(cell).encode(errors="surrogatepass")


def _strings(cells: Sequence[Any], joined: bytes, present: Any) -> Any:
    """Cells as long in characters as in bytes, which are ``joined``."""
    import pyarrow as pa

    ends = array("i", accumulate(map(len, cells), initial=0))
    buffers = [present, pa.py_buffer(ends), pa.py_buffer(joined)]
    return pa.Array.from_buffers(pa.string(), len(cells), buffers)


def _present(cells: Cells) -> Any:
    """Arrow's bits, the first cell's lowest, of those that are not None; None if all are not."""
    import pyarrow as pa

    if None not in cells:
        return None
    digits = "".join(["0" if cell is None else "1" for cell in reversed(cells)])
    return pa.py_buffer(int(digits, 2).to_bytes(-(-len(cells) // 8), "little"))


def _read_objects(cells: Cells) -> list[dict[str, Any]]:
    try:
        objects = list(map(orjson.loads, cells))
    except orjson.JSONDecodeError:
        objects = list(map(decode_json, cells))
    if set(map(type, objects)) - {dict}:  # nothing of ours wrote that
        return [found if isinstance(found, dict) else {} for found in objects]
    return objects


def _vectors(cells: Cells) -> Any:
    import pyarrow as pa

    counts = [len(cell) // FLOAT_BYTES if cell else 0 for cell in cells]
    ends = array("i", accumulate(counts, initial=0))
    numbers = pa.py_buffer(b"".join([cell for cell in cells if cell]))
    values = pa.Array.from_buffers(pa.float32(), ends[-1], [None, numbers])
    buffers = [_present(cells), pa.py_buffer(ends)]
    return pa.Array.from_buffers(field_type("vector"), len(cells), buffers, children=[values])
