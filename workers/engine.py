"""An engine: one thread that owns one model and runs the items of many chunks through it.

Tokenizing (``Runner.prepare``) and building outputs (``Runner.join``) happen in the threads that
submit and wait, so this thread only forms batches and forwards them. Knows neither SQL, Celery nor
torch; which engines exist is the pool's business (``textmill.workers.models``).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import Condition, Thread
from typing import Any, cast

from textmill.core.errors import (
    EngineClosedError,
    RetryableError,
    describe_error,
)
from textmill.core.jobs import Record
from textmill.core.params import TaskParams
from textmill.workers.batching import BatchTurns, DeviceTime, Ended, Turns
from textmill.workers.equal_items import KEEP_SECONDS, EqualItems
from textmill.workers.items import (
    Activity,
    AnyRunner,
    DeviceLostError,
    EngineState,
    Runner,
    is_stepwise,
    takes_padding,
)
from textmill.workers.load_errors import load_error
from textmill.workers.row_queue import RowQueue
from textmill.workers.scheduler import Run, Scheduler, TokenBudget
from textmill.workers.slot_work import SlotWork
from textmill.workers.stepping import StepTurns
from textmill.workers.submission import Submission

log = logging.getLogger(__name__)

__all__ = ["Activity", "Engine", "EngineState", "Submission"]


class Engine:
    """One thread, one model, and the items that wait for it."""

    def __init__(
        self,
        load: Callable[[], AnyRunner],
        *,
        max_batch_tokens: int | None = None,
        device_lock: AbstractContextManager[Any] | None = None,
        max_waiting_items: int = 65536,
        max_batch_items: int = 4096,
        keep_seconds: float = KEEP_SECONDS,
        name: str = "",
        on_idle: Callable[[], None] | None = None,
    ) -> None:
        """Start the thread, which calls ``load`` and warms the runner up.

        ``max_batch_tokens`` counts padded tokens (default: the runner's; stepwise runners have
        limits of their own). ``device_lock`` is held during each forward pass; engines that share a
        device share it. Rows of equal items are kept for ``keep_seconds``. ``on_idle`` is called
        from any thread, outside the engine's lock, whenever the last work has left.
        """
        self.name = name
        self.load_seconds = 0.0
        self.was_ready = False  # its model was loaded and warmed up
        self.device_seconds = 0.0  # all forward time so far
        self.last_progress = time.monotonic()  # the activity began, or something ended
        self.activity = Activity.LOAD
        self.slot_work = SlotWork()
        self.failure: Exception | None = None
        self._load = load
        self._max_batch_tokens = max_batch_tokens
        self._max_waiting_items = max_waiting_items
        self._max_batch_items = max_batch_items
        self._device_lock = device_lock or nullcontext()
        self._on_idle = on_idle
        self._state = EngineState.LOADING
        self._changed = Condition()  # guards all below, tells of every change
        self._runner: AnyRunner | None = None
        self._turns: Turns = self._make_turns(None)
        self._equal = EqualItems[Submission](keep_seconds=keep_seconds)
        self._open: set[Submission] = set()
        self._submitting = 0
        self._idle_since: float | None = time.monotonic()
        self._thread = Thread(target=self._run, name=f"engine {name}", daemon=True)
        self._thread.start()

    @property
    def state(self) -> EngineState:
        """Loading, ready, failed or closed."""
        return self._state

    @property
    def busy(self) -> bool:
        """True while the thread is inside the runner; then ``last_progress`` must move."""
        return self.activity is not Activity.IDLE

    @property
    def waiting(self) -> int:
        """How many items wait for a batch or for room."""
        return len(self._turns.queue)

    @property
    def batch_tokens(self) -> int:
        """The token budget now; below the maximum for a while after an out-of-memory."""
        return self._turns.queue.budget.tokens

    @property
    def idle_since(self) -> float | None:
        """Monotonic time at which the last work left; None while there is work."""
        return self._idle_since

    @property
    def memory_bytes(self) -> int:
        """What the loaded model takes on the device; 0 while there is none."""
        runner = self._runner
        return runner.memory_bytes if runner is not None else 0

    def touch(self) -> None:
        """Count as used now, so that the pool does not close it before the next submit."""
        with self._changed:
            if self._idle_since is not None:
                self._idle_since = time.monotonic()

    def wait_ready(self, timeout: float | None = None) -> None:
        """Block until the model is loaded; raises as ``submit`` does, or TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._state != EngineState.LOADING, timeout):
                raise TimeoutError(f"model {self.name!r} is not loaded after {timeout} s")
            self._check_ready()

    def submit(
        self, records: Sequence[Record], params: TaskParams, run: Run | None = None
    ) -> Submission:
        """Tokenize the records here, in the calling thread, and queue their items.

        Equal items of one ``run`` of a job are computed once (see ``equal_items``); without one,
        those of these records. Blocks while the model loads, and while more than
        ``max_waiting_items`` wait: tokenized items take memory, and more of them make no better
        batches. Raises ModelLoadError if the model cannot be loaded, EngineClosedError, or the
        RetryableError the engine failed with.
        """
        with self._changed:
            self._submitting += 1
            self._idle_since = None
        try:
            self.wait_ready()
            runner = self._runner
            if runner is None:
                raise EngineClosedError(f"engine {self.name!r} was closed")
            submission = Submission(runner, records, params, self._cancel, self.slot_work, run)
            self._enqueue(submission)
            return submission
        finally:
            with self._changed:
                self._submitting -= 1
            self._note_idle()

    def close(self, *, timeout: float = 30) -> bool:
        """Fail everything that waits with EngineClosedError, end the thread, free the model.

        Returns False if the thread was still inside the runner after ``timeout`` seconds.
        """
        with self._changed:
            if self._state in (EngineState.LOADING, EngineState.READY):
                self._state = EngineState.CLOSED
            self._settle_all(EngineClosedError(f"engine {self.name!r} was closed"))
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _enqueue(self, submission: Submission) -> None:
        entries = submission.entries
        if not entries:
            submission.settle()
            return
        with self._changed:
            self._changed.wait_for(lambda: self._admits(len(entries)))
            self._check_ready()
            to_compute, known = self._equal.admit(entries)
            submission.unsettled -= known
            if submission.unsettled == 0:
                submission.settle()
                return
            self._open.add(submission)
            self._turns.queue.add(to_compute)
            self._changed.notify_all()

    def _admits(self, count: int) -> bool:
        waiting = len(self._turns.queue)
        full = waiting > 0 and waiting + count > self._max_waiting_items
        return not full or self._state != EngineState.READY

    def _check_ready(self) -> None:
        if self._state == EngineState.READY:
            return
        if self.failure is not None:
            raise type(self.failure)(*self.failure.args)
        raise EngineClosedError(f"engine {self.name!r} was closed")

    def _cancel(self, submission: Submission) -> None:
        with self._changed:
            if submission in self._open:
                self._turns.queue.drop(submission)
                self._turns.queue.add(self._equal.drop(submission.entries))
                self._release([submission], CancelledError())
        self._note_idle()

    # -- the engine's own thread -----------------------------------------------------------

    def step(self) -> bool:
        """One turn: a batch, or a step of the rows, and settle. False once the engine is closed."""
        with self._changed:
            while not (self._turns.ready or self._state != EngineState.READY):
                self._changed.wait(self._equal.forget_old())
            if self._state != EngineState.READY:
                return False
            entries = self._turns.take()
        self._settle(self._turns.run(entries))
        return True

    def _run(self) -> None:
        try:
            if self._load_model():
                while self.step():
                    pass
        except RetryableError as error:
            self._fail(error)
        except BaseException as error:
            log.exception("engine %s lost its thread", self.name)
            self._fail(EngineClosedError(f"engine {self.name!r} died: {describe_error(error)}"))
        finally:
            self._end()

    def _load_model(self) -> bool:
        started = time.monotonic()
        try:
            self._runner = runner = self._load()
            self._enter(Activity.WARM_UP)
            runner.warm_up()
        except DeviceLostError:
            raise
        except Exception as error:
            self._fail(load_error(self.name, error))
            return False
        with self._changed:
            self.load_seconds = time.monotonic() - started
            self._turns = self._make_turns(runner)
            self.was_ready = True
            if self._state == EngineState.LOADING:
                self._state = EngineState.READY
            self._enter(Activity.IDLE)
            self._changed.notify_all()
        return True

    def _settle(self, ended: Ended) -> None:
        done = []
        with self._changed:
            for computed, row in ended:
                for entry in (computed, *self._equal.settle(computed, row)):
                    entry.row = row
                    owner = entry.owner
                    owner.unsettled -= 1
                    if owner.unsettled == 0:
                        done.append(owner)
            self._release(done)
            self._equal.forget_old()  # with work enough, nothing else asks for it
            self._changed.notify_all()  # there is room for more
        if done:
            self._note_idle()

    def _make_turns(self, runner: AnyRunner | None) -> Turns:
        if runner is not None and is_stepwise(runner):
            rows = RowQueue[Submission](TokenBudget(runner.max_held_tokens), runner.max_rows)
            return StepTurns(runner, rows, self._on_device)
        plain = cast(Runner | None, runner)
        own_tokens = plain.max_batch_tokens if plain is not None else 1
        budget = TokenBudget(self._max_batch_tokens or own_tokens)
        items = Scheduler[Submission](
            budget, max_batch_items=self._max_batch_items, mixes_lengths=takes_padding(plain)
        )
        return BatchTurns(plain, items, self._on_device, self._enter)

    @contextmanager
    def _on_device(self) -> Iterator[DeviceTime]:
        """The device's lock, for one pass; its time is known once it has ended."""
        taken = DeviceTime()
        with self._device_lock:
            self._enter(Activity.FORWARD)
            started = self.last_progress
            try:
                yield taken
            finally:
                self._enter(Activity.IDLE)
                taken.seconds = self.last_progress - started
                self.device_seconds += taken.seconds

    def _enter(self, activity: Activity) -> None:
        self.last_progress = time.monotonic()
        self.activity = activity

    def _fail(self, error: Exception) -> None:
        with self._changed:
            self.failure = error
            self._state = EngineState.FAILED
            self._settle_all(error)

    def _end(self) -> None:
        """The thread's last act on every way out: nobody waits any more, the model is freed."""
        with self._changed:
            if self._state != EngineState.FAILED:
                self._state = EngineState.CLOSED
            self._settle_all(EngineClosedError(f"engine {self.name!r} was closed"))
            runner, self._runner = self._runner, None
        try:
            if runner is not None:
                runner.close()
        except Exception:
            log.exception("closing the runner of engine %s failed", self.name)
        self._enter(Activity.IDLE)
        self._note_idle()

    # -- under the lock, unless said otherwise ---------------------------------------------

    def _settle_all(self, error: Exception) -> None:
        self._turns.queue.clear()
        self._equal.forget_all()
        self._release(list(self._open), error)
        self._changed.notify_all()

    def _release(self, submissions: list[Submission], error: Exception | None = None) -> None:
        for submission in submissions:
            self._open.discard(submission)
            submission.settle(error)

    def _note_idle(self) -> None:
        """Takes the lock itself."""
        with self._changed:
            if self._open or self._submitting:
                return
            self._idle_since = time.monotonic()
        if self._on_idle is not None:
            self._on_idle()
