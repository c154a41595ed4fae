"""Items that are equal are computed once: while one is on its way, and for a while afterwards.

Which items are equal says their key; the engine calls all of this under its own lock.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, Generic, TypeVar

from textmill.core.errors import RecordError
from textmill.workers.scheduler import Entry

Owner = TypeVar("Owner")

MAX_BYTES = 64 * 1024 * 1024
ENTRY_BYTES = 250  # the key, and the places in the dictionary


class EqualItems(Generic[Owner]):
    """The rows of items that were computed, and the entries that wait for an equal one's row."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._rows: OrderedDict[bytes, tuple[Any, int]] = OrderedDict()  # with its size; LRU first
        # By key: the entry that is computed, and those that wait for it.
        self._flights: dict[bytes, list[Entry[Owner]]] = {}

    def admit(self, entries: Iterable[Entry[Owner]]) -> tuple[list[Entry[Owner]], int]:
        """The entries that have to be computed, and how many of the others have their row now.

        The rest will be among what ``settle`` returns.
        """
        to_compute, known = [], 0
        for entry in entries:
            key = entry.item.key
            if key is not None and key in self._rows:
                self._rows.move_to_end(key)
                entry.row = self._rows[key][0]
                known += 1
            elif key is not None and key in self._flights:
                self._flights[key].append(entry)
            else:
                if key is not None:
                    self._flights[key] = [entry]
                to_compute.append(entry)
        return to_compute, known

    def settle(self, entry: Entry[Owner], row: Any) -> list[Entry[Owner]]:
        """Keep the row of an entry that was computed; returns those that waited for it.

        An error is theirs too, but is not kept: the next equal item is a new try.
        """
        key = entry.item.key
        if key is None:
            return []
        if not isinstance(row, RecordError):
            self._keep(key, row)
        return self._flights.pop(key, [entry])[1:]

    def drop(self, entries: Iterable[Entry[Owner]]) -> list[Entry[Owner]]:
        """Forget entries that will not be computed; returns those to compute in their place."""
        dropped = {id(entry): entry for entry in entries}
        heirs = []
        for key in {entry.item.key for entry in dropped.values()}:
            if key is None:
                continue
            flight = self._flights.pop(key, [])
            left = [entry for entry in flight if id(entry) not in dropped]
            if left:
                self._flights[key] = left
                if left[0] is not flight[0]:
                    heirs.append(left[0])
        return heirs

    def forget_flights(self) -> None:
        """Nothing is on its way any more."""
        self._flights.clear()

    def _keep(self, key: bytes, row: Any) -> None:
        size = len(pickle.dumps(row, pickle.HIGHEST_PROTOCOL)) + ENTRY_BYTES
        self._rows[key] = (row, size)
        self._bytes += size
        while self._bytes > self._max_bytes:
            _, (_, freed) = self._rows.popitem(last=False)
            self._bytes -= freed
