"""Which waiting items form the next batch: arithmetic over lengths, without torch or threads.

The engine calls it under its own lock; what a batch is for is the engine's business.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Collection, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

from textmill.workers.items import Item

Owner = TypeVar("Owner")

GOOD_BATCHES_TO_RECOVER = 50

PADDING_DIVISOR = 16
"""A batch takes at most its budget / 16 as padding: with few items waiting, two batches of near
lengths cost less than one that is half padding."""


class Run(NamedTuple):
    """Which submissions share what was computed of equal items: see ``equal_items``."""

    of: Hashable
    kept: bool  # False: of texts that are not to be kept nothing stays behind


class Entry(Generic[Owner]):
    """A waiting item, whom it belongs to, and in the end the runner's row for it."""

    __slots__ = ("item", "owner", "row", "run", "waiting")

    def __init__(self, item: Item, owner: Owner, run: Run) -> None:
        self.item = item
        self.owner = owner
        self.run = run
        self.row: Any = None
        self.waiting = True


def padded_tokens(batch: Iterable[Entry[Owner]]) -> int:
    """What a batch costs: every item is padded to the longest."""
    lengths = [entry.item.length for entry in batch]
    return max(lengths, default=0) * len(lengths)


class TokenBudget:
    """How many padded tokens a batch may have: less after an out-of-memory, slowly more again."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.tokens = limit
        self._good_batches = 0

    def shrink(self, failed_tokens: int) -> None:
        """Half of what did not fit becomes the budget."""
        self.tokens = max(1, min(self.tokens, failed_tokens // 2))
        self._good_batches = 0

    def recover(self) -> None:
        """Count a batch that fitted; after enough of them the budget doubles, up to its limit."""
        if self.tokens == self.limit:
            return
        self._good_batches += 1
        if self._good_batches >= GOOD_BATCHES_TO_RECOVER:
            self.tokens = min(self.limit, self.tokens * 2)
            self._good_batches = 0


@dataclass(slots=True)
class _Group(Generic[Owner]):
    """The waiting entries that may share a batch: a queue per length, the lengths in order."""

    lengths: list[int] = field(default_factory=list)
    queues: dict[int, deque[Entry[Owner]]] = field(default_factory=dict)


class _Filling(Generic[Owner]):
    """A batch that is being filled, its longest entry, and how much padding it may still take."""

    def __init__(self, anchor: int, max_tokens: int, max_items: int) -> None:
        self.batch: list[Entry[Owner]] = []
        self.longest = anchor
        self._max_tokens = max_tokens
        self._max_items = max_items
        self._padding_left = max_tokens // PADDING_DIVISOR

    def room(self, length: int) -> int:
        """How many entries of this length may join; the first entry always may."""
        count = len(self.batch)
        longest = max(self.longest, length)
        fitting = min(self._max_tokens // max(1, longest), self._max_items)
        if count == 0:
            return max(1, fitting)
        padding_left = self._padding_left - (longest - self.longest) * count
        if padding_left < 0:
            return 0
        if length < longest:
            fitting = min(fitting, count + padding_left // (longest - length))
        return fitting - count

    def extend(self, entries: Collection[Entry[Owner]], length: int) -> None:
        """Add entries of one length."""
        longest = max(self.longest, length)
        self._padding_left -= (longest - self.longest) * len(self.batch)
        self._padding_left -= (longest - length) * len(entries)
        self.longest = longest
        self.batch.extend(entries)


def _move(group: _Group[Owner], length: int, filling: _Filling[Owner]) -> None:
    """Move what fits of one length from its queue into the batch."""
    queue = group.queues[length]
    room = filling.room(length)
    if len(queue) <= room:
        filling.extend(queue, length)
        del group.queues[length]
    else:
        filling.extend([queue.popleft() for _ in range(room)], length)


class Scheduler(Generic[Owner]):
    """Waiting entries, and the choice of the next batch among them.

    Adding and taking cost about constant time per entry, however many wait: there is one queue per
    length, and a batch is taken from neighbouring queues.
    """

    def __init__(
        self, budget: TokenBudget, *, max_batch_items: int = 4096, mixes_lengths: bool = True
    ) -> None:
        """Without ``mixes_lengths`` the items of a batch have one length, so none is padded."""
        self.budget = budget
        self.max_batch_items = max_batch_items
        self._mixes_lengths = mixes_lengths
        self._groups: dict[Hashable, _Group[Owner]] = {}
        self._arrivals: deque[Entry[Owner]] = deque()  # oldest first; some were taken already
        self._waiting = 0

    def __len__(self) -> int:
        return self._waiting

    def add(self, entries: Iterable[Entry[Owner]]) -> None:
        """Let the entries wait; those added earlier are older."""
        before = len(self._arrivals)
        for entry in entries:
            self._arrivals.append(entry)
            item = entry.item
            key = self._group_of(item)
            group = self._groups.get(key)
            if group is None:
                group = self._groups[key] = _Group()
            queue = group.queues.get(item.length)
            if queue is None:
                queue = group.queues[item.length] = deque()
                insort(group.lengths, item.length)
            queue.append(entry)
        self._waiting += len(self._arrivals) - before

    def next_batch(self) -> list[Entry[Owner]]:
        """The oldest entry and its nearest neighbours in length, within the budgets.

        The oldest is always in it, so nothing starves; it comes alone if it is over the budget.
        Empty if nothing waits.
        """
        while self._arrivals and not self._arrivals[0].waiting:
            self._arrivals.popleft()
        if not self._arrivals:
            return []
        item = self._arrivals[0].item
        key = self._group_of(item)
        batch = self._take_around(self._groups[key], item.length)
        for entry in batch:
            entry.waiting = False
        self._waiting -= len(batch)
        self._forget_taken(key)
        return batch

    def drop(self, owner: Owner) -> None:
        """Forget every waiting entry of this owner. Costs a pass over all that wait."""
        kept = [e for e in self._arrivals if e.waiting and e.owner is not owner]
        self.clear()
        self.add(kept)

    def clear(self) -> None:
        """Forget everything that waits."""
        self._groups.clear()
        self._arrivals.clear()
        self._waiting = 0

    def _group_of(self, item: Item) -> Hashable:
        """What is equal of items that may share a batch."""
        return item.group if self._mixes_lengths else (item.group, item.length)

    def _take_around(self, group: _Group[Owner], anchor: int) -> list[Entry[Owner]]:
        """Take entries of length ``anchor``, then of the nearest lengths on both sides."""
        lengths = group.lengths
        right = bisect_left(lengths, anchor)
        left = right - 1
        filling: _Filling[Owner] = _Filling(anchor, self.budget.tokens, self.max_batch_items)
        while True:
            longer = right < len(lengths) and filling.room(lengths[right]) > 0
            shorter = left >= 0 and filling.room(lengths[left]) > 0
            if longer and (not shorter or lengths[right] - anchor < anchor - lengths[left]):
                index, right = right, right + 1
            elif shorter:
                index, left = left, left - 1
            else:
                break
            _move(group, lengths[index], filling)
        group.lengths = [length for length in lengths if length in group.queues]
        return filling.batch

    def _forget_taken(self, group: Hashable) -> None:
        """Keep no empty group, and not many more arrivals than wait: they hold their texts."""
        if not self._groups[group].lengths:
            del self._groups[group]
        if not self._waiting:
            self._arrivals.clear()
        elif len(self._arrivals) > 2 * self._waiting + 1024:
            self._arrivals = deque(e for e in self._arrivals if e.waiting)
