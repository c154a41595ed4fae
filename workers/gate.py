"""The gate in front of a worker's engines: many chunks at once, or one suspect chunk alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Gate:
    """Shared by ordinary chunks; a suspect waits until it is empty and then has it alone.

    While a suspect waits, nobody new is let in, so it does not wait for ever.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._waiting_alone = 0
        self._taken = False

    @property
    def closed(self) -> bool:
        """True while somebody is alone inside, or waits to be."""
        return self._taken or self._waiting_alone > 0

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Let in beside others."""
        with self._changed:
            self._changed.wait_for(lambda: not self._taken and not self._waiting_alone)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Let in when nobody else is inside."""
        with self._changed:
            self._waiting_alone += 1
            self._changed.wait_for(lambda: not self._taken and not self._inside)
            self._waiting_alone -= 1
            self._taken = True
        try:
            yield
        finally:
            with self._changed:
                self._taken = False
                self._changed.notify_all()
