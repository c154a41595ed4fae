"""Turns of the engine's thread over a stepwise runner: rows come, take their steps and leave.

After a failure rows start anew from their items: what a row comes to depends on its item alone.
"""

from __future__ import annotations

import logging
from itertools import count

from textmill.core.errors import RecordError, describe_error
from textmill.workers.batching import DeviceTime, Ended, OnDevice, share_time
from textmill.workers.items import DeviceLostError, DeviceOutOfMemoryError, Step, StepRunner
from textmill.workers.row_queue import RowQueue, held_tokens
from textmill.workers.scheduler import Entry
from textmill.workers.submission import Submission, runner_error

log = logging.getLogger(__name__)

Entries = list[Entry[Submission]]


class StepTurns:
    """Each turn lets new rows in, if there is room, and is one step of the runner.

    Out of memory sends the newest half of the rows back to the queue and shrinks the budget. Any
    other error halves them into trials: each half runs alone, and is halved again if it fails, down
    to the culprit.
    """

    def __init__(
        self, runner: StepRunner, queue: RowQueue[Submission], on_device: OnDevice
    ) -> None:
        self.queue = queue
        self._runner = runner
        self._on_device = on_device
        self._handles = count()
        self._rows: dict[int, Entry[Submission]] = {}  # active ones by handle, oldest first
        self._produced: dict[int, int] = {}  # their tokens of output so far
        self._trials: list[Entries] = []  # the next one last
        self._returned: Entries = []  # to be put back by the next ``take``

    @property
    def ready(self) -> bool:
        """See Turns."""
        return bool(self._rows or self._trials or self._returned or len(self.queue))

    def take(self) -> Entries:
        """See Turns. While there are trials, the next of them once no row is active."""
        self.queue.put_back(_wanted(self._returned))
        self._returned = []
        if not self._trials:
            return self.queue.take(list(self._rows.values()))
        return [] if self._rows else _wanted(self._trials.pop())

    def run(self, entries: Entries) -> Ended:
        """See Turns. Rows of submissions that were cancelled leave first."""
        self._remove([n for n, entry in self._rows.items() if entry.owner.done])
        self._admit(entries)
        if not self._rows:
            return []
        try:
            return self._settle(self._step())
        except DeviceLostError:
            raise
        except DeviceOutOfMemoryError as error:
            return self._make_room(error)
        except Exception as error:
            return self._halve(error)

    def _admit(self, entries: Entries) -> None:
        rows = {next(self._handles): entry for entry in entries}
        if rows:
            self._rows.update(rows)
            self._produced.update(dict.fromkeys(rows, 0))
            self._runner.admit({handle: entry.item for handle, entry in rows.items()})

    def _step(self) -> Step:
        taken = DeviceTime()
        computed = dict.fromkeys(self._rows, 1)  # who pays if it fails
        try:
            with self._on_device() as taken:
                step = self._runner.step()
            computed = dict(step.computed)
        finally:
            shares = [(self._rows[n], tokens) for n, tokens in computed.items() if n in self._rows]
            share_time(taken.seconds, shares)
        return step

    def _settle(self, step: Step) -> Ended:
        """What has ended; a step that did nothing at all would be repeated for ever."""
        if not step.computed and not step.finished:
            return self._end_all(f"{type(self._runner).__name__}.step computed no row")
        for handle in step.computed:
            if handle in self._rows:
                self._produced[handle] += 1
                self._rows[handle].owner.output_tokens += 1
        ended: Ended = []
        for handle, row in step.finished:
            del self._produced[handle]
            ended.append((self._rows.pop(handle), row))
        if ended:
            self.queue.budget.recover()
        return ended

    def _make_room(self, error: DeviceOutOfMemoryError) -> Ended:
        """Send the newest half back to the queue; the others go on where they were."""
        rows = list(self._rows.items())
        kept = len(rows) // 2
        if kept == 0:
            self._start_anew(rows)
            return [(rows[0][1], RecordError("out_of_memory", str(error)))]
        self.queue.budget.shrink(held_tokens([entry for _, entry in rows]))
        self._returned = [entry for _, entry in rows[kept:]]
        self._start_anew(rows[kept:])
        return []

    def _halve(self, error: Exception) -> Ended:
        rows = list(self._rows.values())
        self._start_anew(list(self._rows.items()))
        if len(rows) == 1:
            return [(rows[0], runner_error(error))]
        log.warning("a step of %d rows failed, now in halves: %s", len(rows), describe_error(error))
        middle = (len(rows) + 1) // 2
        self._trials += [rows[middle:], rows[:middle]]
        return []

    def _end_all(self, message: str) -> Ended:
        log.error("%s", message)
        rows = list(self._rows.values())
        self._start_anew(list(self._rows.items()))
        return [(row, RecordError("runner_contract", message)) for row in rows]

    def _start_anew(self, rows: list[tuple[int, Entry[Submission]]]) -> None:
        """Forget active rows; their output so far does not count."""
        for handle, entry in rows:
            entry.owner.output_tokens -= self._produced[handle]
        self._remove([handle for handle, _ in rows])

    def _remove(self, handles: list[int]) -> None:
        if handles:
            self._runner.drop(handles)
            for handle in handles:
                del self._rows[handle], self._produced[handle]


def _wanted(entries: Entries) -> Entries:
    """Without those of submissions that were cancelled."""
    return [entry for entry in entries if not entry.owner.done]
