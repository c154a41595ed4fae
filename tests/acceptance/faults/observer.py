"""Watching from outside, through SQL alone: what moves, and how long after a fault it moves."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import select

from textmill.core.errors import TextmillError
from textmill.core.jobs import ENDED, ChunkStatus
from textmill.db.models import chunks, jobs, workers
from textmill.db.session import Database

LOOK_SECONDS = 0.03
GOING_ON = (ChunkStatus.PENDING.value, ChunkStatus.DISPATCHED.value, ChunkStatus.RUNNING.value)


@dataclass(frozen=True, slots=True)
class Chunk:
    """What is looked at of a chunk."""

    status: str
    attempt: int
    owner: str | None


@dataclass(frozen=True, slots=True)
class View:
    """The database at one moment."""

    chunks: Mapping[int, Chunk]
    jobs: Mapping[str, str]  # status by id
    workers: Mapping[int, str]  # id by pid

    @property
    def done(self) -> int:
        """How many chunks are done."""
        return sum(chunk.status == ChunkStatus.DONE for chunk in self.chunks.values())

    @property
    def claims(self) -> int:
        """How many times a chunk was claimed, in all."""
        return sum(chunk.attempt for chunk in self.chunks.values())

    @property
    def ended(self) -> bool:
        """True if every job has ended."""
        return bool(self.jobs) and all(status in ENDED for status in self.jobs.values())

    @property
    def has_work(self) -> bool:
        """True if some chunk of a job that goes on is not done."""
        return any(chunk.status in GOING_ON for chunk in self.chunks.values())

    def held_by(self, pid: int) -> dict[int, int]:
        """Chunk id to attempt of what the worker with this process id holds."""
        owner = self.workers.get(pid)
        return {
            chunk_id: chunk.attempt
            for chunk_id, chunk in self.chunks.items()
            if owner is not None and chunk.owner == owner
        }


@dataclass(slots=True)
class Recovery:
    """Waits until a view shows that a fault's damage is overcome."""

    name: str
    since: float
    overcome: Callable[[View], bool]
    needs: Sequence[str]  # servers without which it cannot be overcome
    seconds: float | None = None


class Observer(threading.Thread):
    """Looks again and again; ``expect`` starts the clock of a recovery."""

    def __init__(self, database: Database) -> None:
        super().__init__(name="observer", daemon=True)
        self._database = database
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self.view = View({}, {}, {})
        self.recoveries: list[Recovery] = []

    def run(self) -> None:
        """Until ``stop``."""
        while not self._stopped.wait(LOOK_SECONDS):
            try:
                view = self.look()
            except TextmillError:
                continue  # the database is away; what happens meanwhile is seen later
            with self._lock:
                self.view = view
                for recovery in self.recoveries:
                    if recovery.seconds is None and recovery.overcome(view):
                        recovery.seconds = time.monotonic() - recovery.since

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        self.join()

    def look(self) -> View:
        """The database as it is now; raises TextmillError if it is away."""
        with self._database.read() as connection:
            found = connection.execute(
                select(chunks.c.id, chunks.c.status, chunks.c.attempt, chunks.c.lease_owner)
            ).all()
            statuses = connection.execute(select(jobs.c.id, jobs.c.status)).all()
            known = connection.execute(select(workers.c.pid, workers.c.id)).all()
        return View(
            {row.id: Chunk(row.status, row.attempt, row.lease_owner) for row in found},
            {row.id: row.status for row in statuses},
            {row.pid: row.id for row in known},
        )

    def expect_release(self, name: str, held: Mapping[int, int]) -> None:
        """The clock runs until no chunk that a dead worker held is held by it any more.

        When they are claimed again depends on what else waits; benchmarks/recovery.py measures it.
        """

        def overcome(view: View) -> bool:
            return not any(
                (view.chunks[chunk_id].status, view.chunks[chunk_id].attempt)
                == (ChunkStatus.RUNNING, attempt)
                for chunk_id, attempt in held.items()
            )

        if held:
            self._expect(name, overcome, needs=("database",))

    def expect_claim(self, name: str) -> None:
        """The clock runs until the next chunk is claimed; not at all if none is left."""
        before = self.view
        if before.has_work:
            self._expect(
                name,
                lambda view: view.claims > before.claims or not view.has_work,
                needs=("broker", "database"),
            )

    def _expect(self, name: str, overcome: Callable[[View], bool], needs: Sequence[str]) -> None:
        with self._lock:
            self.recoveries.append(Recovery(name, time.monotonic(), overcome, needs))

    def server_is_back(self, server: str) -> None:
        """What could not be overcome without this server is counted from here."""
        with self._lock:
            for recovery in self.recoveries:
                if recovery.seconds is None and server in recovery.needs:
                    recovery.since = time.monotonic()
