"""Rows of a person's own query on the terminal, as wide as it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from textmill.producer.terminal import shorten, table, tell, terminal_columns

MIN_WIDTH = 8  # that a column is never made narrower than
LONGEST = 1000  # of a cell, whatever the width


def print_rows(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print them all; what does not fit is shortened, the longest cells first."""
    headers = [shorten(name, LONGEST) for name in columns]  # a name may hold anything
    cells = [[_cell(value) for value in row] for row in rows]
    numbers = {
        name
        for at, name in enumerate(headers)
        if all(isinstance(row[at], int | float | None) for row in rows)
    }
    tell(table(headers, cells, right=numbers, columns=terminal_columns(), least=MIN_WIDTH))


def _cell(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, float):
        return f"{value:.6g}" if abs(value) < 1e6 else f"{value:.13g}"  # a time, with its fraction
    return shorten(value.hex() if isinstance(value, bytes) else str(value), LONGEST)
