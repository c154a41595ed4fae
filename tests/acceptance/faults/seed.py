"""One seed: some jobs, a random schedule of faults against them, and what was left at the end."""

from __future__ import annotations

import heapq
import itertools
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from random import Random

from textmill.core.errors import JobConflictError, TextmillError
from textmill.core.jobs import JobSpec, Priority
from textmill.db.jobs import cancel_job
from textmill.producer.readers import ReadOptions, records_from_objects
from textmill.producer.submit import submit_job

from ...plugins import fake_tasks as _registered  # noqa: F401 - the task of every job here
from ...servers import wait_until
from .kinds import KINDS, Kind, NotNow
from .mill import Mill, Servers
from .observer import Observer
from .verdict import Verdict, check_repeats, judge

FAULT_SECONDS = 5.0  # faults begin in this time
HELD_AT_ONCE = 4  # chunks in work: two workers of two slots
PATIENCE_SECONDS = 40.0  # a job that has not ended then never will
TRACEBACK = re.compile(r"Traceback \(most recent call last\):\n(?:[ \t].*\n)+(.*)")


@dataclass(slots=True)
class Outcome:
    """What a seed did and found; ``recoveries`` are (kind, seconds)."""

    seed: int
    faults: list[str] = field(default_factory=list)
    recoveries: list[tuple[str, float]] = field(default_factory=list)
    unrecovered: list[str] = field(default_factory=list)
    records: int = 0
    lost: int = 0
    duplicated: int = 0
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0
    logs: str | None = None

    def add(self, verdict: Verdict) -> None:
        """Take in what was found of one job."""
        self.records += verdict.records
        self.lost += verdict.lost
        self.duplicated += verdict.duplicated
        self.problems += verdict.problems


class Timeline:
    """Actions, each done at its time or as soon after as those before it allow."""

    def __init__(self) -> None:
        self._order = itertools.count()  # of actions at one time
        self._actions: list[tuple[float, int, Callable[[], None]]] = []
        self._began = time.monotonic()

    def at(self, seconds: float, action: Callable[[], None]) -> None:
        """Plan an action so many seconds after the start."""
        heapq.heappush(self._actions, (seconds, next(self._order), action))

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Plan an action so many seconds from now."""
        self.at(time.monotonic() - self._began + seconds, action)

    def run(self) -> None:
        """Begin now, and return when nothing is planned any more."""
        self._began = time.monotonic()
        while self._actions:
            due, _, action = heapq.heappop(self._actions)
            time.sleep(max(0.0, self._began + due - time.monotonic()))
            action()


class Campaign:
    """The events of one seed: what people do with jobs, and beside that the faults."""

    def __init__(self, mill: Mill, rng: Random, outcome: Outcome) -> None:
        self._mill = mill
        self._rng = rng
        self._outcome = outcome
        self._faults = Timeline()
        self._people = Timeline()
        self.observer = Observer(mill.database)
        self._planned: set[str] = set()
        self.texts: dict[str, list[str]] = {}  # of the jobs that were accepted

    def plan(self) -> None:
        """Draw what happens when."""
        rng = self._rng
        self._plan_job("main", 0.0, _texts(rng, 600))
        self._plan_job("late", rng.uniform(0, 3), _texts(rng, 100), Priority.HIGH)
        if rng.random() < 0.4:
            start = rng.uniform(0, 2)
            self._plan_job("cancelled", start, _texts(rng, 150))
            self._people.at(start + rng.uniform(0.5, 2.0), self._cancel)
        if rng.random() < 0.25:
            self._plan_job("poison", rng.uniform(0, 1), ["crash p", "fine p"])
        kinds = [kind for kind in KINDS if self._mill.servers.kind in kind.databases]
        for _ in range(rng.randint(3, 6)):
            self._plan_fault(rng.choice(kinds), rng.uniform(0.3, FAULT_SECONDS))

    def run(self) -> None:
        """With both workers up, carry out the plan, mend everything, and wait for the jobs."""
        self.observer.start()
        wait_until(lambda: len(self.observer.view.workers) == len(self._mill.hosts), 60, what="up")
        with ThreadPoolExecutor(1) as pool:
            people = pool.submit(self._people.run)
            self._faults.run()
            self._mill.mend()
            people.result(PATIENCE_SECONDS)
        assert set(self.texts) == self._planned, "a job was never accepted"
        wait_until(lambda: self.observer.view.ended, PATIENCE_SECONDS, what="ended", every=0.05)

    def _plan_job(
        self, name: str, seconds: float, texts: list[str], priority: Priority = Priority.NORMAL
    ) -> None:
        self._planned.add(name)
        self._people.at(seconds, lambda: self._submit(name, texts, priority))

    def _plan_fault(self, kind: Kind, start: float) -> None:
        timeline = self._people if kind.by_person else self._faults
        rng, seconds = Random(self._rng.random()), self._rng.uniform(*kind.lasts)
        timeline.at(start, lambda: self._begin(timeline, kind, rng, seconds))

    def _submit(self, name: str, texts: list[str], priority: Priority) -> None:
        """Submit a job with a key; again a moment later if the database is away."""
        spec = JobSpec(task="fake", model="m", name=name, key=name, priority=priority)
        reader = records_from_objects([{"text": text} for text in texts], ["text"], ReadOptions())
        database, publisher = self._mill.database, self._mill.publisher
        try:
            job_id = submit_job(database, publisher, spec, reader, lease_seconds=2).job_id
        except TextmillError:
            self._people.later(0.3, lambda: self._submit(name, texts, priority))
            return
        self.texts[name] = texts
        self._mill.jobs[name] = job_id

    def _cancel(self) -> None:
        try:
            self._mill.database.transact(cancel_job, self._mill.jobs["cancelled"])
        except JobConflictError:
            return  # it has ended
        except (TextmillError, KeyError):
            self._people.later(0.3, self._cancel)

    def _begin(self, timeline: Timeline, kind: Kind, rng: Random, seconds: float) -> None:
        view = self.observer.view
        pids = {worker.pid for host in self._mill.hosts if (worker := host.worker())}
        try:
            undo = kind.begin(self._mill, rng)
        except NotNow:
            return
        self._outcome.faults.append(kind.name)
        if kind.kills_worker:
            left = {worker.pid for host in self._mill.hosts if (worker := host.worker())}
            held = {c: a for pid in pids - left for c, a in view.held_by(pid).items()}
            self.observer.expect_release(kind.name, held)
        if undo is not None:
            timeline.later(seconds, lambda: self._end(timeline, kind, undo))
        elif not kind.kills_worker:
            self.observer.expect_claim(kind.name)

    def _end(self, timeline: Timeline, kind: Kind, undo: Callable[[], None]) -> None:
        try:
            undo()
        except NotNow:
            timeline.later(0.2, lambda: self._end(timeline, kind, undo))
            return
        if kind.outage is not None:
            self.observer.server_is_back(kind.outage)
        if not kind.kills_worker:
            self.observer.expect_claim(kind.name)


def _texts(rng: Random, number: int) -> list[str]:
    """Texts that take 2 to 20 ms each and are all different; one in a hundred is an error.

    A chunk of ten lasts about a fourteenth of a lease, as one of some seconds does by default.
    """
    return [
        f"error {at}" if rng.random() < 0.01 else f"slow {rng.uniform(0.002, 0.02):.4f} r{at}"
        for at in range(number)
    ]


def _own_tracebacks(logs: str) -> list[str]:
    """The last lines of tracebacks through our code; Celery prints its own at a hung broker."""
    found = TRACEBACK.finditer(logs)
    return sorted({match[1] for match in found if "/textmill/" in match[0]})


def run_seed(seed: int, servers: Servers, *, keep_logs: bool = False) -> Outcome:
    """Run one seed against fresh tables; whatever goes wrong is in the outcome."""
    outcome = Outcome(seed)
    began = time.monotonic()
    with Mill(servers) as mill:
        campaign = Campaign(mill, Random(seed), outcome)
        campaign.plan()
        try:
            campaign.run()
        except (AssertionError, TimeoutError) as error:
            outcome.problems.append(f"{error}: jobs are {dict(campaign.observer.view.jobs)}")
        outcome.seconds = time.monotonic() - began
        campaign.observer.stop()
        mill.mend()
        for name, texts in campaign.texts.items():
            outcome.add(judge(mill.database, mill.jobs[name], texts))
        outcome.problems += check_repeats(mill.database, len(outcome.faults) * HELD_AT_ONCE)
        for recovery in campaign.observer.recoveries:
            if recovery.seconds is None:
                outcome.unrecovered.append(recovery.name)
            else:
                outcome.recoveries.append((recovery.name, recovery.seconds))
        outcome.problems += _own_tracebacks(mill.logs())
        mill.kept = keep_logs or bool(outcome.problems or outcome.unrecovered)
        outcome.logs = str(mill.folder) if mill.kept else None
    return outcome
