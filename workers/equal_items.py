"""Items of a run that are equal are computed once: while one is on its way, and shortly afterwards.

Which are equal says their key, a digest; the rows are in this process's memory only. A run is that
of one job, so that no job is answered from another's texts, and ``retry --all`` computes anew.
Rows are forgotten some seconds after they were last asked for, or at once. The engine calls all of
this under its own lock.
"""

from __future__ import annotations

import pickle
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, Generic, NamedTuple, TypeVar

from textmill.core.errors import RecordError
from textmill.workers.scheduler import Entry, Run

Owner = TypeVar("Owner")

MAX_BYTES = 64 * 1024 * 1024
ENTRY_BYTES = 300  # the key, and the places in the dictionary
KEEP_SECONDS = 30.0  # longer than a job's next chunk is away, where jobs take turns

Key = tuple[Run, bytes]


class _Kept(NamedTuple):
    row: Any
    bytes: int
    used_at: float


class EqualItems(Generic[Owner]):
    """The rows of items that were computed, and the entries that wait for an equal one's row."""

    def __init__(
        self,
        max_bytes: int = MAX_BYTES,
        keep_seconds: float = KEEP_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_bytes = max_bytes
        self._keep_seconds = keep_seconds
        self._clock = clock
        self._bytes = 0
        self._rows: OrderedDict[Key, _Kept] = OrderedDict()  # least recently used first
        # By key: the entry that is computed, and those that wait for it.
        self._flights: dict[Key, list[Entry[Owner]]] = {}

    def admit(self, entries: Iterable[Entry[Owner]]) -> tuple[list[Entry[Owner]], int]:
        """The entries that have to be computed, and how many of the others have their row now.

        The rest will be among what ``settle`` returns.
        """
        self.forget_old()
        to_compute, known = [], 0
        for entry in entries:
            key = _key(entry)
            if key is not None and key in self._rows:
                entry.row = self._use(key)
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
        key = _key(entry)
        if key is None:
            return []
        if entry.run.kept and not isinstance(row, RecordError):
            self._keep(key, row)
        return self._flights.pop(key, [entry])[1:]

    def drop(self, entries: Iterable[Entry[Owner]]) -> list[Entry[Owner]]:
        """Forget entries that will not be computed; returns those to compute in their place."""
        dropped = {id(entry): entry for entry in entries}
        heirs = []
        for key in {_key(entry) for entry in dropped.values()}:
            if key is None:
                continue
            flight = self._flights.pop(key, [])
            left = [entry for entry in flight if id(entry) not in dropped]
            if left:
                self._flights[key] = left
                if left[0] is not flight[0]:
                    heirs.append(left[0])
        return heirs

    def forget_old(self) -> float | None:
        """Forget rows that nobody asked for lately; returns in how many seconds to ask again.

        None if nothing is kept.
        """
        now = self._clock()
        while self._rows:
            left = next(iter(self._rows.values())).used_at + self._keep_seconds - now
            if left > 0:
                return left
            self._forget_first()
        return None

    def forget_all(self) -> None:
        """Nothing is on its way any more, and nothing is kept."""
        self._flights.clear()
        self._rows.clear()
        self._bytes = 0

    def _use(self, key: Key) -> Any:
        self._rows.move_to_end(key)
        kept = self._rows[key] = self._rows[key]._replace(used_at=self._clock())
        return kept.row

    def _keep(self, key: Key, row: Any) -> None:
        size = len(pickle.dumps(row, pickle.HIGHEST_PROTOCOL)) + ENTRY_BYTES
        self._rows[key] = _Kept(row, size, self._clock())
        self._bytes += size
        while self._bytes > self._max_bytes:
            self._forget_first()

    def _forget_first(self) -> None:
        _, kept = self._rows.popitem(last=False)
        self._bytes -= kept.bytes


def _key(entry: Entry[Any]) -> Key | None:
    key = entry.item.key
    return None if key is None else (entry.run, key)
