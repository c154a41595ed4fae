"""How much one write transaction of a long change takes, so that others get their turn."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

# On SQLite one writer holds up all others: a transaction is to stay below 100 ms.
TARGET_SECONDS = 0.03
MOST_GROWTH = 2.0


class Pace:
    """The size of the next piece, from how long the last one took."""

    def __init__(self, first: int, most: int) -> None:
        self.size = first
        self._most = most

    @contextmanager
    def piece(self, size: int) -> Iterator[None]:
        """Around the changes of ``size`` rows, inside their transaction: to wait is no work."""
        started = time.perf_counter()
        yield
        seconds = max(1e-6, time.perf_counter() - started)
        wanted = size * TARGET_SECONDS / seconds
        self.size = int(max(1, min(wanted, self.size * MOST_GROWTH, self._most)))
