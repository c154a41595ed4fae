"""Which waiting items become rows next: the oldest first, as far as there is room.

Arithmetic without torch or threads; the engine calls it under its own lock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Generic

from textmill.workers.scheduler import Entry, Owner, TokenBudget

REFILL_DIVISOR = 8
"""New rows are let in when an eighth of the rows is free: some prompts together cost little more
than one, and the rows that stay wait for each."""


class RowQueue(Generic[Owner]):
    """Waiting entries in order of arrival, and the room for them.

    Room is rows times the longest of them, since rows share one cache. An entry that finds none
    lets nobody pass, so that a long one does not wait behind short ones for ever.
    """

    def __init__(self, budget: TokenBudget, max_rows: int) -> None:
        self.budget = budget
        self.max_rows = max_rows
        self._waiting: deque[Entry[Owner]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, entries: Iterable[Entry[Owner]]) -> None:
        """Let the entries wait; those added earlier are older."""
        self._waiting.extend(entries)

    def put_back(self, entries: Sequence[Entry[Owner]]) -> None:
        """Let entries wait again, in this order, before all others."""
        self._waiting.extendleft(reversed(entries))

    def drop(self, owner: Owner) -> None:
        """Forget every waiting entry of this owner."""
        self._waiting = deque(entry for entry in self._waiting if entry.owner is not owner)

    def clear(self) -> None:
        """Forget everything that waits."""
        self._waiting.clear()

    def take(self, active: Sequence[Entry[Owner]]) -> list[Entry[Owner]]:
        """The oldest entries that fit beside the active ones; if nothing is active, at least one.

        Empty while few places are free and more entries wait than there are places.
        """
        free = self.max_rows - len(active)
        if active and free < min(len(self._waiting), max(1, self.max_rows // REFILL_DIVISOR)):
            return []
        longest = max((entry.item.length for entry in active), default=0)
        taken: list[Entry[Owner]] = []
        while self._waiting and len(taken) < free:
            longest = max(longest, self._waiting[0].item.length)
            rows = len(active) + len(taken) + 1
            if rows > 1 and rows * longest > self.budget.tokens:
                break
            taken.append(self._waiting.popleft())
        return taken


def held_tokens(entries: Sequence[Entry[Owner]]) -> int:
    """What rows may come to hold together: each as much as the longest."""
    return len(entries) * max((entry.item.length for entry in entries), default=0)
