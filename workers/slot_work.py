"""What the slots' threads do for an engine at this moment, for the watchdog: preparing, joining."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import get_ident


class SlotWork:
    """Since when each thread has been inside a runner."""

    def __init__(self) -> None:
        self._began: dict[int, float] = {}

    @property
    def began(self) -> float | None:
        """Monotonic time at which the longest of them began; None if there is none."""
        return min(list(self._began.values()), default=None)

    @contextmanager
    def doing(self) -> Iterator[None]:
        """The calling thread is inside a runner in this block."""
        thread = get_ident()
        self._began[thread] = time.monotonic()
        try:
            yield
        finally:
            del self._began[thread]
