"""One seed: some jobs, a random schedule of faults against them, and what was left at the end."""

from __future__ import annotations

import heapq
import itertools
import re
import time
from collections.abc import Callable
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
from .verdict import Verdict, judge

FAULT_SECONDS = 5.0  # faults begin in this time
PATIENCE_SECONDS = 40.0  # a job that has not ended then never will
UNEXPECTED = re.compile(r"(\w*IntegrityError\b.*|Traceback)")


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


class Campaign:
    """The events of one seed in the order of their times."""

    def __init__(self, mill: Mill, rng: Random, outcome: Outcome) -> None:
        self._mill = mill
        self._rng = rng
        self._outcome = outcome
        self._order = itertools.count()  # of events at one time
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self.observer = Observer(mill.database)
        self.texts: dict[str, list[str]] = {}

    def plan(self) -> None:
        """Draw what happens when."""
        rng = self._rng
        self._plan_job("main", 0.0, _texts(rng, 200))
        self._plan_job("late", rng.uniform(0, 3), _texts(rng, 40), Priority.HIGH)
        if rng.random() < 0.4:
            start = rng.uniform(0, 2)
            self._plan_job("cancelled", start, _texts(rng, 60))
            self.at(start + rng.uniform(0.5, 2.0), self._cancel)
        if rng.random() < 0.25:
            self._plan_job("poison", rng.uniform(0, 1), ["crash p", "fine p"])
        kinds = [kind for kind in KINDS if self._mill.servers.kind in kind.databases]
        for _ in range(rng.randint(3, 6)):
            self.at(rng.uniform(0.3, FAULT_SECONDS), self._fault(rng.choice(kinds)))

    def _plan_job(
        self, name: str, seconds: float, texts: list[str], priority: Priority = Priority.NORMAL
    ) -> None:
        self.at(seconds, lambda: self._submit(name, texts, priority))

    def _fault(self, kind: Kind) -> Callable[[], None]:
        rng, seconds = Random(self._rng.random()), self._rng.uniform(*kind.lasts)
        return lambda: self._begin(kind, rng, seconds)

    def at(self, seconds: float, action: Callable[[], None]) -> None:
        """Plan an action so many seconds after the start."""
        heapq.heappush(self._events, (seconds, next(self._order), action))

    def run(self) -> None:
        """With both workers up, carry out the plan, mend everything, and wait for the jobs."""
        self.observer.start()
        wait_until(lambda: len(self.observer.view.workers) == len(self._mill.hosts), 60, what="up")
        self._began = time.monotonic()
        while self._events:
            due, _, action = heapq.heappop(self._events)
            time.sleep(max(0.0, self._began + due - time.monotonic()))
            action()
        self._mill.mend()
        wait_until(lambda: self.observer.view.ended, PATIENCE_SECONDS, what="ended", every=0.05)

    def _now(self) -> float:
        return time.monotonic() - self._began

    def _submit(self, name: str, texts: list[str], priority: Priority) -> None:
        """Submit a job with a key; again a moment later if the database is away."""
        spec = JobSpec(task="fake", model="m", name=name, key=name, priority=priority)
        reader = records_from_objects([{"text": text} for text in texts], ["text"], ReadOptions())
        database, publisher = self._mill.database, self._mill.publisher
        try:
            job_id = submit_job(database, publisher, spec, reader, lease_seconds=2).job_id
        except TextmillError:
            self.at(self._now() + 0.3, lambda: self._submit(name, texts, priority))
            return
        self._mill.jobs[name] = job_id
        self.texts[name] = texts

    def _cancel(self) -> None:
        try:
            self._mill.database.transact(cancel_job, self._mill.jobs["cancelled"])
        except JobConflictError:
            return  # it has ended
        except (TextmillError, KeyError):
            self.at(self._now() + 0.3, self._cancel)

    def _begin(self, kind: Kind, rng: Random, seconds: float) -> None:
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
            self.observer.expect_claims(kind.name, held)
        if undo is None:
            if not kind.kills_worker:
                self.observer.expect_progress(kind.name)
        else:
            self.at(self._now() + seconds, lambda: self._end(kind, undo))

    def _end(self, kind: Kind, undo: Callable[[], None]) -> None:
        try:
            undo()
        except NotNow:
            self.at(self._now() + 0.2, lambda: self._end(kind, undo))
            return
        self.observer.restart_clocks()
        if not kind.kills_worker:
            self.observer.expect_progress(kind.name)


def _texts(rng: Random, number: int) -> list[str]:
    """Texts that take 5 to 50 ms each and are all different; one in fifty is an error."""
    return [
        f"error {at}" if rng.random() < 0.02 else f"slow {rng.uniform(0.005, 0.05):.3f} r{at}"
        for at in range(number)
    ]


def run_seed(seed: int, servers: Servers, *, keep_logs: bool = False) -> Outcome:
    """Run one seed against fresh tables; whatever goes wrong is in the outcome."""
    outcome = Outcome(seed)
    began = time.monotonic()
    with Mill(servers) as mill:
        campaign = Campaign(mill, Random(seed), outcome)
        campaign.plan()
        try:
            campaign.run()
        except AssertionError as error:
            outcome.problems.append(f"{error}: jobs are {dict(campaign.observer.view.jobs)}")
        outcome.seconds = time.monotonic() - began
        campaign.observer.stop()
        mill.mend()
        for name, texts in campaign.texts.items():
            outcome.add(judge(mill.database, mill.jobs[name], texts))
        for recovery in campaign.observer.recoveries:
            if recovery.seconds is None:
                outcome.unrecovered.append(recovery.name)
            else:
                outcome.recoveries.append((recovery.name, recovery.seconds))
        outcome.problems += sorted({found[1] for found in UNEXPECTED.finditer(mill.logs())})
        mill.kept = keep_logs or bool(outcome.problems or outcome.unrecovered)
        outcome.logs = str(mill.folder) if mill.kept else None
    return outcome
