"""A chunk's records on their way through an engine: items there, outputs back.

Preparing and joining happen here, in the thread of the one who submits and waits.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from threading import Event
from typing import Any

from textmill.core.errors import RecordError, describe_error
from textmill.core.jobs import Record
from textmill.core.params import TaskParams
from textmill.workers.items import BaseRunner, Item, Output
from textmill.workers.scheduler import Entry, Run
from textmill.workers.slot_work import SlotWork

log = logging.getLogger(__name__)


class Submission:
    """One chunk's records in an engine, and the channel its outputs come back on.

    There is one reply per chunk instead of one Future per record: a Future costs several
    microseconds to make, set and wait for, which at 50,000 records/s is a third of a core, and a
    chunk's results are written together anyway.
    """

    def __init__(
        self,
        runner: BaseRunner,
        records: Sequence[Record],
        params: TaskParams,
        cancel: Callable[[Submission], None],
        slot_work: SlotWork,
        run: Run | None,
    ) -> None:
        self.device_seconds = 0.0  # its share of the forward time, by tokens
        self.output_tokens = 0  # generated so far, by rows that are not finished too
        self._cancel = cancel
        self._runner = runner
        self._records = records
        self._params = params
        self._slot_work = slot_work
        own = Run(self, kept=False) if run is None else run
        with slot_work.doing():
            self._prepared = prepare_records(runner, records, params)
        self.entries = [
            Entry(item, self, own)
            for items in self._prepared
            if not isinstance(items, RecordError)
            for item in items
        ]
        self.unsettled = len(self.entries)  # counted down by the engine's thread
        self._settled = Event()
        self._error: Exception | None = None
        self._outputs: list[Output | RecordError] | None = None

    @property
    def done(self) -> bool:
        """True once ``wait`` will not block."""
        return self._settled.is_set()

    def wait(self, timeout: float | None = None) -> list[Output | RecordError]:
        """One output or error per record, in their order; joins them in the calling thread.

        Raises TimeoutError (wait again), EngineClosedError, another RetryableError if the device
        failed, or concurrent.futures.CancelledError after ``cancel``.
        """
        if not self._settled.wait(timeout):
            raise TimeoutError(f"{len(self._records)} records are not done after {timeout} s")
        if self._error is not None:
            raise type(self._error)(*self._error.args)
        if self._outputs is None:
            with self._slot_work.doing():
                self._outputs = self._join()
            self._forget_items()
        return self._outputs

    def cancel(self) -> None:
        """Drop what still waits; ``wait`` then raises CancelledError. Nothing if it is done."""
        self._cancel(self)

    def settle(self, error: Exception | None = None) -> None:
        """Let ``wait`` return the outputs, or raise ``error``. Only the first call counts."""
        if not self._settled.is_set():
            self._error = error
            if error is not None:
                self._forget_items()
            self._settled.set()

    def _forget_items(self) -> None:
        """Entries point back here: without this only the garbage collector would free them."""
        self.entries, self._prepared = [], []

    def _join(self) -> list[Output | RecordError]:
        outputs: list[Output | RecordError] = []
        rows = [entry.row for entry in self.entries]
        failed = RecordError in map(type, rows)
        join, params = self._runner.join, self._params
        start = 0
        for record, items in zip(self._records, self._prepared, strict=True):
            if isinstance(items, RecordError):
                outputs.append(items)
                continue
            end = start + len(items)
            own = rows[start:end]
            start = end
            try:
                error = _first_error(own) if failed else None
                outputs.append(error or join(record, items, own, params))
            except RecordError as refusal:
                outputs.append(refusal)
            except Exception as failure:
                outputs.append(runner_error(failure))
        return outputs


def _first_error(rows: list[Any]) -> RecordError | None:
    for row in rows:
        if isinstance(row, RecordError):
            return row
    return None


def prepare_records(
    runner: BaseRunner, records: Sequence[Record], params: TaskParams
) -> list[list[Item] | RecordError]:
    """The items of each record; if preparing all at once fails, each record alone."""
    try:
        return _prepare(runner, records, params)
    except Exception as error:
        if len(records) == 1:
            return [error if isinstance(error, RecordError) else runner_error(error)]
        why = describe_error(error)
        log.warning("preparing %d records failed, now one by one: %s", len(records), why)
    return [prepare_records(runner, [record], params)[0] for record in records]


def _prepare(
    runner: BaseRunner, records: Sequence[Record], params: TaskParams
) -> list[list[Item] | RecordError]:
    prepared = runner.prepare(records, params)
    if len(prepared) != len(records):
        raise RuntimeError(contract_message(runner, "prepare", len(records), len(prepared)))
    return prepared


def contract_message(runner: BaseRunner, method: str, expected: int, got: int) -> str:
    """What to tell the author of a runner that returned the wrong number of rows."""
    return f"{type(runner).__name__}.{method} returned {got} rows, expected {expected}"


def runner_error(error: Exception) -> RecordError:
    """An unexpected error of a runner, as the row of the record that caused it."""
    return RecordError("runner_error", f"{type(error).__name__}: {error}")
