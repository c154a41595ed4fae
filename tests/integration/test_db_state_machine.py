"""The SQL state machine by itself, through interleavings that hypothesis thinks up.

After each transaction everything in the database is looked at (tests/invariants.py), and each
change is seen to do what it must and no more (tests/checked_changes.py). At the end of a run every
job that can end is brought to its end. Thousands of runs:
``pytest --hypothesis-profile=thorough``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from textmill.core.jobs import ENDED
from textmill.core.messages import ChunkMessage
from textmill.db.chunks import Claim
from textmill.db.workers import WorkerInfo, register_worker

from .. import builders
from ..builders import LEASE, empty, make_job, open_database
from ..checked_changes import CheckedChanges
from ..invariants import BAD_ROW, WatchedDatabase

# Fixtures; imported by name, they would be redefined by every test's parameter.
tables_url = builders.tables_url

T = TypeVar("T")
THOROUGH = settings.get_current_profile_name() == "thorough"

ROUNDS = 100  # of sweep and work, in which every job must end
PLACES = ("h1 cpu", "h2 cpu")

LATEST = st.integers(0, 9)  # which of the latest jobs, messages or claims; zero is the last
SIZES = st.lists(st.integers(1, 3), min_size=1, max_size=3)
ERRORS = st.sets(st.integers(0, 2))
WINDOWS = st.integers(0, 4)
WORKERS = st.sampled_from(["w1", "w2", "w3"])
RATES = st.sampled_from([None, None, 0.0, 0.3])
POISON = st.sampled_from([None, None, None, 0])
LOADS = st.sampled_from(["accepted", "accepted", "accepted", "loading", "dead"])
WISHES = st.sampled_from(
    ["pause", "resume", "resume", "retry", "retry", "retry_all", "fail", "cancel", "finish_loading"]
)
FATES = st.sampled_from(
    ["let_leases_end", "let_leases_end", "renew", "renew", "crash", "crash", "stop"]
)
LOSSES = st.sampled_from(["split", "given back", "failed", "no model"])


def action(name: str, *arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.tuples(st.just(name), *arguments)


# In one rule: hypothesis switches half of the rules off in each run, but a run without claims, or
# without dispatch, shows next to nothing.
ACTIONS = st.one_of(
    action("submit", SIZES, st.integers(0, 1), RATES, POISON, LOADS),
    action("wish", LATEST, WISHES),
    action("wish", LATEST, WISHES),
    action("dispatch", LATEST, WINDOWS),
    action("claim", LATEST, st.sampled_from([0, 0, -1, 1]), WORKERS),
    action("claim_one_that_waits", LATEST, WORKERS),
    action("claim_one_that_waits", LATEST, WORKERS),
    action("work", LATEST, ERRORS, WINDOWS),
    action("work_on_one_that_is_held", LATEST, ERRORS, WINDOWS),
    action("let_go", LATEST, LOSSES),
    action("happen", LATEST, FATES),
    action("happen", LATEST, FATES),
    action("sweep", st.booleans()),
)


class StateMachine(RuleBasedStateMachine):
    """Producers, three workers, a person and a sweeper, each change made at any moment."""

    def __init__(self, database: WatchedDatabase) -> None:
        super().__init__()
        empty(database)
        self.database = database
        self.changes = CheckedChanges(database)
        self.jobs: list[str] = []
        self.messages: list[ChunkMessage] = []  # all that were ever sent
        self.claims: list[Claim] = []  # all that were ever made

    @invariant()
    def each_running_chunk_is_held_by_its_last_claim(self) -> None:
        self.changes.check_holders()

    @initialize(live=st.booleans(), sizes=SIZES)
    def start(self, live: bool, sizes: list[int]) -> None:
        for place in PLACES if live else ():
            host, device = place.split()
            info = WorkerInfo(place, host, 1, device, 1, ("default",))
            self.database.transact(register_worker, info)
        self.submit(sizes, 0, None, None, "accepted")

    @rule(action=ACTIONS)
    def step(self, action: tuple[Any, ...]) -> None:
        name, *arguments = action
        getattr(self, name)(*arguments)

    def submit(
        self, sizes: list[int], bad: int, rate: float | None, poison: int | None, load: str
    ) -> None:
        job_id = make_job(
            self.database,
            sizes,
            bad=bad,
            finish=load == "accepted",
            load_seconds=-1 if load == "dead" else LEASE,
            max_error_rate=rate,
            full_text=bad == 0,
            index_columns=("n",),
        )
        self.jobs.append(job_id)
        if poison is not None:
            self.changes.poison.add((job_id, poison))
        self.changes.look()

    def wish(self, latest: int, wish: str) -> None:
        """A person's, for one of the jobs."""
        getattr(self.changes, wish)(pick(self.jobs, latest))

    def dispatch(self, latest: int, window: int) -> None:
        self.messages += self.changes.dispatch(pick(self.jobs, latest), window)

    def claim(self, latest: int, off: int, worker: str) -> None:
        """Of a message that may be current, late, doubled or another attempt's."""
        if self.messages:
            message = pick(self.messages, latest)
            self.take(message.chunk_id, message.attempt + off, worker)

    def claim_one_that_waits(self, latest: int, worker: str) -> None:
        for job_id in self.jobs:
            self.messages += self.changes.dispatch(job_id, 2)
        waiting = [one for one in self.changes.state.chunks.values() if one.status == "dispatched"]
        if waiting:
            chunk = pick(waiting, latest)
            self.take(chunk.id, chunk.attempt, worker)

    def take(self, chunk_id: int, attempt: int, worker: str) -> None:
        claim = self.changes.take(chunk_id, attempt, worker)
        if claim is not None:
            self.claims.append(claim)

    def work(self, latest: int, errors: set[int], window: int) -> None:
        """With a claim that is current, or was lost or settled meanwhile."""
        if self.claims:
            self.messages += self.changes.work(pick(self.claims, latest), errors, window)

    def work_on_one_that_is_held(self, latest: int, errors: set[int], window: int) -> None:
        held = list(self.changes.holders.values())
        if held:
            self.messages += self.changes.work(pick(held, latest), errors, window)

    def let_go(self, latest: int, how: str) -> None:
        if not self.claims:
            return
        claim = pick(self.claims, latest)
        if how == "split":
            self.changes.split(claim)
        elif how == "no model":
            self.changes.fail_to_load(claim, PLACES[claim.worker_id == "w1"])
        else:
            self.changes.give_back_one(claim, failed=how == "failed")

    def happen(self, latest: int, fate: str) -> None:
        """To a worker, with all that it has in its hands."""
        hands = self.changes.hands
        worker = pick([one for one in hands if hands[one]] or list(hands), latest)
        self.messages += getattr(self.changes, fate)(worker) or []

    def sweep(self, idle: bool) -> None:
        self.messages += self.changes.sweep(idle=idle)

    def teardown(self) -> None:
        if sys.exc_info()[0] is None:  # else a step has failed, and that is to be told
            self.bring_to_an_end()
            self.check_the_end()

    def bring_to_an_end(self) -> None:
        for job in list(self.changes.state.jobs.values()):
            if job.status == "loading":
                self.changes.finish_loading(job.id)
            if job.status == "paused":
                self.changes.resume(job.id)
        for _ in range(ROUNDS):
            for worker in self.changes.hands:
                self.changes.let_leases_end(worker)
                self.changes.hands[worker] = []
            messages = self.changes.sweep(idle=True)
            if not messages:
                break
            for message in messages:
                suspect = self.changes.state.chunks[message.chunk_id].crashes > 0
                if suspect or len(self.changes.hands["w1"]) == 2:
                    self.finish_what_is_held()
                self.changes.take(message.chunk_id, message.attempt, "w1")
            self.finish_what_is_held()

    def finish_what_is_held(self) -> None:
        for claim in list(self.changes.hands["w1"]):  # an innocent beside a poisoned one, maybe
            self.changes.work(claim, set(), 0)

    def check_the_end(self) -> None:
        for job in self.changes.state.jobs.values():
            assert job.status in ENDED, f"accepted, but {job.status} for ever"
            rows = self.changes.state.rows_of(job.id)
            if job.status.startswith("completed"):
                assert sorted(rows) == list(range(job.total_records)), "not one row per record"
            for index, row in rows.items():
                if (job.id, index) in self.changes.poison and row.error_code != BAD_ROW:
                    assert row.error_code == "worker_crashed", "a record that kills has an output"


def pick(things: Sequence[T], latest: int) -> T:
    return things[-1 - latest % len(things)]


@pytest.fixture(params=["sqlite", "postgresql"])
def watched(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[WatchedDatabase]:
    """Empty tables on SQLite and again on PostgreSQL."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'textmill.db'}"
        for _ in builders.with_tables(url):
            pass
    else:
        url = request.getfixturevalue("tables_url")
    with open_database(url, kind=WatchedDatabase) as database:
        assert isinstance(database, WatchedDatabase)
        yield database


@pytest.mark.timeout(0 if THOROUGH else 600)  # no limit of this test's own: the machine may be busy
def test_the_state_machine_loses_and_doubles_nothing(watched: WatchedDatabase) -> None:
    class OnThisDatabase(StateMachine):
        def __init__(self) -> None:
            super().__init__(watched)

    runs = settings().max_examples  # 100, or what the profile says
    run_state_machine_as_test(
        OnThisDatabase,
        settings=settings(
            max_examples=runs * 3 // 10 if watched.is_sqlite else runs * 8 // 100,
            stateful_step_count=40,
            derandomize=not THOROUGH,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_a_chunk_given_back_after_its_job_failed_runs_again_with_retry(
    watched: WatchedDatabase,
) -> None:
    """Before any sweep: there may be no worker alive to do one."""
    empty(watched)
    changes = CheckedChanges(watched)
    job_id = make_job(watched, (2, 1))
    changes.look()
    for message in changes.dispatch(job_id, 2):
        changes.take(message.chunk_id, message.attempt, "w1")
    changes.work(changes.hands["w1"][1], set(), 0)
    changes.fail(job_id)
    changes.stop("w1")
    changes.retry(job_id)
    assert changes.state.jobs[job_id].status == "queued"
