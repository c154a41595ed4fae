"""State changes made by many threads at once, at random; test_db_state_machine.py has one by one.

At rest everything must add up (tests/invariants.py), and every job must come to its end.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Any, TypeVar

import pytest
from sqlalchemy import Connection, update

from textmill.core.errors import JobConflictError
from textmill.core.jobs import ENDED
from textmill.core.messages import ChunkMessage
from textmill.db.chunks import (
    Claim,
    LeaseLostError,
    claim_chunk,
    give_back,
    give_back_chunk,
    renew_leases,
)
from textmill.db.dispatch import fill_window, take_back
from textmill.db.jobs import cancel_job, fail_job, pause_job, resume_job
from textmill.db.model_failures import report_load_failure
from textmill.db.models import chunks
from textmill.db.rerun import rerun_job
from textmill.db.retry import retry_job
from textmill.db.session import Database
from textmill.db.suspects import split_chunk
from textmill.db.sweep import SweepReport, sweep_once

from .. import builders
from ..builders import LEASE, at_once, complete, empty, make_job
from ..invariants import check_state, read_state

# Fixtures; imported by name, they would be redefined by every test's parameter.
tables_url = builders.tables_url
postgresql = builders.postgresql
database = builders.database

T = TypeVar("T")

THREADS = 6
CHANGES = 60  # by each of them
ROUNDS = 100  # of sweep and work, in which every job must end
WORKERS = ("w1", "w2", "w3")
LATEST = 12  # which messages and claims are chosen from: current, late and overtaken ones


class Crowd:
    """Producers, workers, people and sweepers, each change made while others are."""

    def __init__(self, database: Database, rng: Random) -> None:
        self.database = database
        self.jobs = [self.make_job(rng) for _ in range(4)]
        self.messages: deque[ChunkMessage] = deque(maxlen=LATEST)
        self.claims: deque[Claim] = deque(maxlen=LATEST)
        self.lock = threading.Lock()

    def make_job(self, rng: Random) -> str:
        sizes = [rng.randint(1, 3) for _ in range(rng.randint(2, 4))]
        rate = rng.choice([None, None, 0.3])
        return make_job(self.database, sizes, bad=rng.randint(0, 1), max_error_rate=rate)

    def act(self, seed: float) -> None:
        rng = Random(seed)
        often: list[Callable[[Random], object]] = [self.dispatch, self.claim, self.work, self.work]
        seldom = [self.renew, self.sweep, self.lose, self.person, self.person]
        for _ in range(CHANGES):
            with suppress(JobConflictError, LeaseLostError):
                rng.choice([*often, *often, *seldom])(rng)

    def pick(self, rng: Random, things: deque[T]) -> list[T]:
        """One of them, or none if there is none."""
        with self.lock:
            return [rng.choice(things)] if things else []

    def keep(self, things: deque[T], new: list[T]) -> None:
        with self.lock:
            things.extend(new)

    def dispatch(self, rng: Random) -> None:
        job_id, window = rng.choice(self.jobs), rng.randint(1, 4)
        self.keep(self.messages, self.database.transact(fill_window, job_id, window))

    def claim(self, rng: Random) -> None:
        for message in self.pick(rng, self.messages):
            mine: Any = {"worker_id": rng.choice(WORKERS), "lease_seconds": LEASE}
            which = (message.chunk_id, message.attempt)
            alone = rng.random() < 0.5
            claim = self.database.transact(claim_chunk, *which, alone=alone, **mine)
            self.keep(self.claims, [claim] if claim else [])

    def work(self, rng: Random) -> None:
        for claim in self.pick(rng, self.claims):
            errors = {one.index for one in claim.records if rng.random() < 0.3}
            self.keep(
                self.messages, complete(self.database, claim, errors, window=rng.randint(0, 3))
            )

    def renew(self, rng: Random) -> None:
        worker = rng.choice(WORKERS)
        with self.lock:
            mine = [(one.chunk_id, one.attempt) for one in self.claims if one.worker_id == worker]
        self.database.transact(renew_leases, worker, mine, lease_seconds=LEASE)

    def sweep(self, rng: Random) -> None:
        report = SweepReport()
        queues = {("default", "normal")}
        sweep_once(self.database, report, idle_queues=queues, grace_seconds=-1)
        self.keep(self.messages, report.messages)

    def lose(self, rng: Random) -> None:
        worker = rng.choice(WORKERS)
        how = rng.choice([self.end_leases, self.end_worker, self.give_back_one, self.not_sent])
        how(rng, worker)

    def end_leases(self, rng: Random, worker: str) -> None:
        def end(connection: Connection) -> None:
            held = (chunks.c.lease_owner == worker, chunks.c.status == "running")
            connection.execute(update(chunks).where(*held).values(lease_expires_at=1.0))

        self.database.transact(end)

    def end_worker(self, rng: Random, worker: str) -> None:
        self.database.transact(give_back, worker, crashed=rng.random() < 0.5)

    def give_back_one(self, rng: Random, worker: str) -> None:
        for claim in self.pick(rng, self.claims):
            if len(claim.records) > 1 and rng.random() < 0.4:
                self.database.transact(split_chunk, claim)
            elif rng.random() < 0.3:
                place = f"{worker} cpu"
                self.database.transact(report_load_failure, claim, "no model", place=place)
            else:
                self.database.transact(give_back_chunk, claim, "memory", failed=rng.random() < 0.3)

    def not_sent(self, rng: Random, worker: str) -> None:
        self.database.transact(take_back, self.pick(rng, self.messages))

    def person(self, rng: Random) -> None:
        wishes = [pause_job, resume_job, resume_job, retry_job, retry_job, rerun_job, fail]
        wish: Callable[..., object] = rng.choice([*wishes, *wishes, cancel_job])
        self.database.transact(wish, rng.choice(self.jobs))

    def end(self) -> None:
        """Bring every job to its end, as workers and sweeps do."""
        for job_id in self.jobs:
            with suppress(JobConflictError):
                self.database.transact(resume_job, job_id)
        for _ in range(ROUNDS):
            for worker in WORKERS:
                self.database.transact(give_back, worker, crashed=False)
            self.messages.clear()
            self.sweep(Random(0))
            if not self.messages:
                return
            for message in self.messages:
                which = (message.chunk_id, message.attempt)
                mine: Any = {"worker_id": "w1", "lease_seconds": LEASE, "alone": True}
                claim = self.database.transact(claim_chunk, *which, **mine)
                if claim is not None:
                    with suppress(LeaseLostError):  # a message before it has ended the job
                        complete(self.database, claim, window=0)


def fail(connection: Connection, job_id: str) -> None:
    fail_job(connection, job_id, "no model")


@pytest.mark.parametrize("seed", range(3))
def test_changes_made_at_once_lose_and_double_nothing(database: Database, seed: int) -> None:
    empty(database)
    rng = Random(seed)
    crowd = Crowd(database, rng)
    seeds = [rng.random() for _ in range(THREADS)]
    assert at_once(*[lambda it=one: crowd.act(it) for one in seeds]) == [None] * THREADS
    check_state(read_state(database))

    crowd.end()
    state = read_state(database)
    check_state(state)
    for job in state.jobs.values():
        assert job.status in ENDED, f"accepted, but {job.status} for ever"
        if job.status.startswith("completed"):
            assert sorted(state.rows_of(job.id)) == list(range(job.total_records))
