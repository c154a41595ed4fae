"""Rows that are wanted in another order than they are read in: in portions of bounded size.

A portion is read whole before its first row is handed on. So one that turns out too large is given
up and read again as smaller ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from textmill.db.raw_rows import PAGE_BYTES

Page = TypeVar("Page")
Read = Callable[[list[int]], tuple[Page, int, int, bool]]
"""Of indexes in input order: their rows, how many and how many bytes, and whether that is all."""


class Portions:
    """How many indexes are asked for at once, which follows the size of the rows before."""

    def __init__(self, most_rows: int) -> None:
        self._most_rows = most_rows
        self._rows = most_rows

    def read(
        self, indexes: Sequence[int], read: Read[Page]
    ) -> Iterator[tuple[Sequence[int], Page]]:
        """The rows of the first indexes, of those behind them, and so on, beside the indexes."""
        done = 0
        while done < len(indexes):
            asked = indexes[done : done + self._rows]
            page, rows, size, complete = read(sorted(asked))
            if not complete and rows < len(asked):
                fitting = rows * PAGE_BYTES // size
                self._rows = max(1, min(len(asked) // 2, fitting))
                continue
            done += len(asked)
            if size * 4 <= PAGE_BYTES:
                self._rows = min(self._most_rows, 2 * self._rows)
            yield asked, page
