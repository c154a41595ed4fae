"""Rows of a person's own query on the terminal, as wide as it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from textmill.producer.terminal import shorten, table, tell, terminal_columns

GAP = 2  # between columns
MIN_WIDTH = 8  # that a column is never made narrower than
LONGEST = 1000  # of a cell, whatever the width


def print_rows(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print them all; what does not fit is shortened, the longest cells first."""
    cells = [[_cell(value) for value in row] for row in rows]
    lines = [list(columns), *cells]
    widths = [max(len(line[at]) for line in lines) for at in range(len(columns))]
    limit = _limit(widths, terminal_columns() - GAP * (len(widths) - 1))
    names, *shown = [[shorten(cell, limit) for cell in line] for line in lines]
    numbers = {
        name
        for at, name in enumerate(names)
        if all(isinstance(row[at], int | float | None) for row in rows)
    }
    tell(table(names, shown, right=numbers))


def _limit(widths: Sequence[int], room: int) -> int:
    """The widest that a column may be, so that all fit; what narrow ones leave goes to the rest."""
    left = len(widths)
    for width in sorted(widths):
        if width * left > room:
            return max(MIN_WIDTH, room // left)
        room -= width
        left -= 1
    return LONGEST


def _cell(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, float):
        return f"{value:.6g}" if abs(value) < 1e6 else f"{value:.13g}"  # a time, with its fraction
    return shorten(value.hex() if isinstance(value, bytes) else str(value), LONGEST)
