"""What was asked, and its answer: columns, and rows that stream."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Question:
    """One statement and how it is to be answered."""

    statement: str
    params: dict[str, Any]
    timeout_seconds: float  # 0: none
    limit: int | None


class Answer:
    """The rows of a query; as an iterator they are dictionaries, by ``rows()`` tuples.

    The connection closes after the last row, by ``close()``, at the end of a ``with`` block, or
    when nobody holds the answer any more.
    """

    def __init__(
        self,
        names: Sequence[str],
        rows: Iterator[tuple[Any, ...]],
        close: Callable[[], None],
        limit: int | None,
    ) -> None:
        self.columns = tuple(unique_names(names))
        self._rows = islice(rows, limit)
        self._close = weakref.finalize(self, close)

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """The rows that were not read yet, in the order of ``columns``."""
        try:
            yield from self._rows
        finally:
            self.close()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (dict(zip(self.columns, row, strict=True)) for row in self.rows())

    def close(self) -> None:
        """End the query; what was not read is left."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def unique_names(names: Sequence[str]) -> Iterator[str]:
    """``id, id`` becomes ``id, id_2``: a dictionary would keep only one of them."""
    taken = set(names)
    seen: set[str] = set()
    for name in names:
        if name in seen:
            name = next(new for n in count(2) if (new := f"{name}_{n}") not in taken)
            taken.add(name)
        seen.add(name)
        yield name
