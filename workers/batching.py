"""Turns of the engine's thread over a plain runner: batches, halved if it fails."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from textmill.core.errors import RecordError
from textmill.workers.items import (
    Activity,
    DeviceLostError,
    DeviceOutOfMemoryError,
    GroupLoader,
    Runner,
)
from textmill.workers.scheduler import Entry, Scheduler, TokenBudget, padded_tokens
from textmill.workers.submission import Submission, contract_message, runner_error

log = logging.getLogger(__name__)

Ended = list[tuple[Entry[Submission], Any]]  # entries with their rows or RecordErrors


@dataclass(slots=True)
class DeviceTime:
    """How long a pass took, once it has ended, well or not."""

    seconds: float = 0.0


OnDevice = Callable[[], AbstractContextManager[DeviceTime]]


class Queue(Protocol):
    """The entries that wait; used under the engine's lock."""

    budget: TokenBudget

    def __len__(self) -> int:
        """How many wait."""

    def add(self, entries: list[Entry[Submission]]) -> None:
        """Let entries wait."""

    def drop(self, owner: Submission) -> None:
        """Forget a submission's."""

    def clear(self) -> None:
        """Forget all."""


class Turns(Protocol):
    """What the engine's thread does again and again; ``take`` is called under the engine's lock."""

    @property
    def queue(self) -> Queue:
        """What waits."""

    @property
    def ready(self) -> bool:
        """True if a turn would find something to do."""

    def take(self) -> list[Entry[Submission]]:
        """What the turn begins with, out of the queue."""

    def run(self, entries: list[Entry[Submission]]) -> Ended:
        """Compute; returns what has ended. Raises DeviceLostError."""


class BatchTurns:
    """Each turn is one batch of items, which all end with it."""

    def __init__(
        self,
        runner: Runner | None,
        queue: Scheduler[Submission],
        on_device: OnDevice,
        enter: Callable[[Activity], None],
    ) -> None:
        """Without a runner there are no turns: nothing is added before it is loaded.

        ``enter`` is told what the thread does, where that is not a pass on the device.
        """
        self.queue = queue
        self._runner = runner
        self._on_device = on_device
        self._enter = enter

    @property
    def ready(self) -> bool:
        """See Turns."""
        return len(self.queue) > 0

    def take(self) -> list[Entry[Submission]]:
        """See Turns."""
        return self.queue.next_batch()

    def run(self, entries: list[Entry[Submission]]) -> Ended:
        """See Turns."""
        refusal = self._load_for(entries)
        if refusal is not None:
            return [(entry, refusal) for entry in entries]
        return list(zip(entries, self._forward(entries), strict=True))

    def _load_for(self, batch: list[Entry[Submission]]) -> RecordError | None:
        """Let the runner load what this batch needs; why it cannot is what each of it ends with."""
        runner: Any = self._runner
        if not batch or not isinstance(runner, GroupLoader):
            return None
        self._enter(Activity.LOAD)
        try:
            runner.load_for(batch[0].item.group)
        except DeviceLostError:
            raise
        except Exception as error:
            return error if isinstance(error, RecordError) else runner_error(error)
        finally:
            self._enter(Activity.IDLE)
        return None

    def _forward(self, batch: list[Entry[Submission]]) -> list[Any]:
        """One row or RecordError per entry; a batch that fails is halved down to the culprit."""
        try:
            return self._forward_once(batch)
        except DeviceLostError:
            raise
        except DeviceOutOfMemoryError as error:
            if len(batch) == 1:
                return [RecordError("out_of_memory", str(error))]
            self.queue.budget.shrink(padded_tokens(batch))
        except Exception as error:
            if len(batch) == 1:
                return [runner_error(error)]
        middle = len(batch) // 2
        return self._forward(batch[:middle]) + self._forward(batch[middle:])

    def _forward_once(self, batch: list[Entry[Submission]]) -> list[Any]:
        runner = self._runner
        if runner is None:
            raise RuntimeError("no runner is loaded")
        items = [entry.item for entry in batch]
        taken = DeviceTime()
        try:
            with self._on_device() as taken:
                rows = runner.forward(items)
        finally:
            share_time(taken.seconds, [(entry, entry.item.length) for entry in batch])
        self.queue.budget.recover()
        if len(rows) != len(items):
            error = contract_message(runner, "forward", len(items), len(rows))
            log.error("%s", error)
            return [RecordError("runner_contract", error)] * len(items)
        return list(rows)


def share_time(seconds: float, tokens: list[tuple[Entry[Submission], int]]) -> None:
    """Share the time of a pass, good or bad, among its submissions by tokens."""
    share = seconds / max(1, sum(count for _, count in tokens))
    for entry, count in tokens:
        entry.owner.device_seconds += share * count
