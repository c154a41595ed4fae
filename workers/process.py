"""One worker process: its database, its models, its leases, and the threads that tend them.

The heartbeat renews the leases of all chunks held here in one UPDATE and tells the engine to drop
those that are no longer ours. The sweeper repairs what others left behind. The watchdog ends the
process if its engine hangs.
"""

from __future__ import annotations

import os
import platform
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import structlog

from textmill.core.broker import Publisher, queue_lengths, served_queues, worker_queues
from textmill.core.errors import ServiceUnavailableError
from textmill.core.messages import ChunkMessage
from textmill.core.settings import Settings
from textmill.db import sweep as sweeping
from textmill.db import workers as worker_table
from textmill.db.chunks import (
    Claim,
    give_back,
    renew_leases,
    why_lost,
)
from textmill.db.dispatch import publish
from textmill.db.model_failures import report_load_failure
from textmill.db.schema import ensure_schema
from textmill.db.session import Database
from textmill.workers.gate import Gate
from textmill.workers.models import ModelPool
from textmill.workers.patience import patiently
from textmill.workers.watchdog import REPLACE_EXIT_CODE, StarvationClock, WakeClock, find_fault

R = TypeVar("R")

HEARTBEATS_PER_LEASE = 4
WATCH_SECONDS = 0.5

log = structlog.get_logger("textmill.worker")


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """What a supervisor tells a worker process."""

    id: str
    device: str
    queues: tuple[str, ...]
    slots: int


@dataclass(slots=True)
class Hold:
    """A claim while it is worked on; ``drop`` is called if the chunk is lost meanwhile."""

    claim: Claim
    drop: Callable[[], None] | None = None
    lost: str | None = None  # why it is no longer ours
    computing: bool = False  # its items were handed to an engine

    def lose(self, reason: str) -> None:
        """Mark the chunk as no longer ours and stop its work."""
        self.lost = reason
        if self.drop is not None:
            self.drop()

    def on_loss(self, drop: Callable[[], None]) -> None:
        """Say how its work is stopped; at once if it was lost before there was any."""
        self.drop = drop
        if self.lost is not None:
            drop()


class WorkerProcess:
    """Everything the slots of one worker share. ``start`` and ``stop`` frame its life."""

    def __init__(self, settings: Settings, options: WorkerOptions) -> None:
        self.settings = settings
        self.options = options
        self.stopping = threading.Event()
        self._holds: dict[tuple[int, int], Hold] = {}
        self.gate = Gate()
        self._messages = 0
        self._in_hand = 0
        self._wake_clock = WakeClock()
        self._starvation = StarvationClock(settings.starvation_seconds)
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Wait for the database, look at its schema, take a place in the table of workers."""
        # A write transaction ends well below the lease: see Database.open.
        self.database = Database.open(
            self.settings,
            pool_size=self.options.slots + 3,
            transaction_seconds=self.settings.lease_seconds / 2,
        )
        self.publisher = Publisher(self.settings)
        self.pool = ModelPool.for_device(self.options.device, self.settings)
        self.patiently(lambda: ensure_schema(self.database, self.settings), "database")
        self.patiently(self._register, "database")
        self._start_thread("heartbeat", self._beat, self._heartbeat_seconds)
        self._start_thread("sweeper", self._sweep, self.settings.sweep_seconds)
        self._start_thread("watchdog", self._watch, WATCH_SECONDS)

    def patiently(self, action: Callable[[], R], what: str) -> R:
        """``action()``, waiting for its service while this worker is not told to stop."""
        return patiently(action, what=what, stopping=self.stopping)

    @property
    def place(self) -> str:
        """Host and device: what stays the same when this process is replaced."""
        return f"{platform.node()} {self.pool.device}"

    def stop(self) -> None:
        """Give back what is still held and leave; called when the slots are done or given up."""
        self.stopping.set()
        self._ended.set()
        for thread in self._threads:
            thread.join(timeout=10)
        self.pool.close()
        try:
            self.database.transact(give_back, self.options.id, crashed=False)
            self.database.transact(worker_table.forget_worker, self.options.id)
        except ServiceUnavailableError as error:
            log.warning("left without a word", reason=str(error))
        self.publisher.close()
        self.database.close()

    @contextmanager
    def handling(self) -> Iterator[None]:
        """A message is in hand inside this block: a slot is taken."""
        with self._lock:
            self._messages += 1
            self._in_hand += 1
        try:
            yield
        finally:
            with self._lock:
                self._in_hand -= 1

    @contextmanager
    def holding(self, claim: Claim) -> Iterator[Hold]:
        """The claim's lease is renewed inside this block."""
        hold = Hold(claim)
        key = (claim.chunk_id, claim.attempt)
        with self._lock:
            self._holds[key] = hold
        try:
            yield hold
        finally:
            with self._lock:
                del self._holds[key]

    def publish(self, messages: list[ChunkMessage]) -> None:
        """Send messages; a broker that is away costs nothing, sweep sends them later."""
        try:
            publish(self.database, self.publisher, messages)
        except ServiceUnavailableError as error:
            log.warning("left to sweep", messages=len(messages), reason=str(error))

    @property
    def _heartbeat_seconds(self) -> float:
        return min(
            self.settings.lease_seconds / HEARTBEATS_PER_LEASE, worker_table.LIVE_SECONDS / 3
        )

    def _register(self) -> None:
        info = worker_table.WorkerInfo(
            id=self.options.id,
            host=platform.node(),
            pid=os.getpid(),
            device=self.pool.device,
            slots=self.options.slots,
            queues=served_queues(self.options.queues),
        )
        self.database.transact(worker_table.register_worker, info)

    def _start_thread(self, name: str, action: Callable[[], None], pause: float) -> None:
        def loop() -> None:
            while not self._ended.wait(pause):
                try:
                    action()
                except ServiceUnavailableError as error:
                    log.warning(f"{name} failed", reason=str(error))
                except Exception:
                    log.exception(f"{name} failed")

        thread = threading.Thread(target=loop, name=name, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _beat(self) -> None:
        with self._lock:  # before the UPDATE: a claim made meanwhile is not in its answer
            holds = dict(self._holds)
        held = self.database.transact(
            renew_leases, self.options.id, list(holds), lease_seconds=self.settings.lease_seconds
        )
        for key, hold in holds.items():
            if key not in held and key in self._holds:  # else it was completed meanwhile
                self._lose(hold)
        known = self.database.transact(
            worker_table.report_alive,
            self.options.id,
            device=self.pool.device,
            models=self.pool.models(),
        )
        if not known and not self._ended.is_set():  # swept away while this machine slept
            self._register()

    def _lose(self, hold: Hold) -> None:
        """Drop a chunk that is no longer ours; whoever works on it logs why."""
        with self.database.read() as connection:
            hold.lose(why_lost(connection, hold.claim))

    def _look_for_starvation(self) -> None:
        if self.stopping.is_set():
            return  # it takes no more messages, though some wait
        with self.database.read() as connection:
            waiting = {queue for queue, _ in sweeping.dispatched_queues(connection)}
        mine = bool(waiting & set(served_queues(self.options.queues)))
        # A suspect that runs alone keeps the other slots waiting, however long it takes.
        free = 0 if self.gate.closed else self.options.slots - self._in_hand
        if self._starvation.is_starved(waiting=mine, free_slots=free, messages=self._messages):
            if self._messages_wait():
                self._replace("messages wait, and none arrives", REPLACE_EXIT_CODE)
            self._starvation.reset()

    def _messages_wait(self) -> bool:
        """True if the broker answers and holds messages for this worker: its consumer is broken."""
        try:
            lengths = queue_lengths(self.settings, worker_queues(self.options.queues))
        except ServiceUnavailableError:
            return False  # no new process reaches it either
        return any(lengths.values())

    def _watch(self) -> None:
        fault = find_fault(self.pool.engines(), self.settings, woke_at=self._wake_clock.look())
        if fault is not None:
            if fault.unloadable is not None:
                self._report_hung_load(fault.unloadable, fault.reason)
            self._replace(fault.reason, fault.exit_code)

    def _replace(self, reason: str, exit_code: int) -> None:
        log.error("ending a hung worker", reason=reason)
        os._exit(exit_code)  # nothing gentler ends a thread inside a kernel

    def _report_hung_load(self, model: str, reason: str) -> None:
        with self._lock:
            claims = [hold.claim for hold in self._holds.values()]
        for claim in (claim for claim in claims if claim.job.model == model):
            self.database.transact(report_load_failure, claim, reason, place=self.place)

    def _sweep(self) -> None:
        self._look_for_starvation()
        if self.database.transact(sweeping.take_turn, self.settings.sweep_seconds):
            report = sweeping.sweep_and_publish(self.database, self.settings, self.publisher)
            if report.unpublished is not None:
                log.warning("left to the next sweep", reason=report.unpublished)
