"""Watching a job until it ends: a live display on a terminal, plain or JSON lines elsewhere."""

from __future__ import annotations

import math
import sys
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from textmill.core.errors import ServiceUnavailableError
from textmill.core.jobs import JobStatus
from textmill.core.patience import keep_trying
from textmill.db.workers import LIVE_SECONDS
from textmill.producer.summary import Summary, summarize, summarize_counts
from textmill.producer.terminal import duration, emit_json, number, plural, say, share, shorten
from textmill.producer.waiting import Reason, WaitingClock

if TYPE_CHECKING:
    from textmill.core.settings import Settings
    from textmill.db.session import Database

R = TypeVar("R")

POLL_SECONDS = 0.25
LINE_SECONDS = 5.0  # between two lines where there is no terminal
RATE_SECONDS = 10.0  # the rate is the mean over this time,
FEWEST_RISES = 4  # or over so many chunks where they are rarer
SHOWN_LABELS = 4
REPEAT_SECONDS = 600.0  # until a reason for waiting is said again


class RateMeter:
    """So many of something (records, tokens) per second over the last ``RATE_SECONDS``.

    Counts rise when a chunk ends, which may be many at once and seldom. So it measures from one
    rise to another, and begins with the first: the time before, in which the model was loaded and
    the first chunk computed, says nothing.
    """

    def __init__(self) -> None:
        self._rises: deque[tuple[float, int]] = deque()

    def update(self, count: int, now: float) -> float | None:
        """The rate after this observation at a monotonic time; None until it rose twice."""
        rises = self._rises
        if not count:
            rises.clear()
        elif not rises or count != rises[-1][1]:
            rises.append((now, count))
        while len(rises) > FEWEST_RISES and rises[-1][0] - rises[0][0] > RATE_SECONDS:
            rises.popleft()
        if len(rises) < 2 or rises[-1][1] <= rises[0][1]:
            return None
        seconds = rises[-1][0] - rises[0][0]
        overdue = now - rises[-1][0] - seconds / (len(rises) - 1)  # it falls if nothing comes
        return (rises[-1][1] - rises[0][1]) / (seconds + max(0.0, overdue))


@dataclass(frozen=True, slots=True)
class Moment:
    """A summary with its rates and what they say of the time left."""

    summary: Summary
    rate: float | None
    token_rate: float | None = None  # of tokens the model wrote; None also where it writes none
    starting: str | None = None  # said instead of "no live worker"
    waiting: Reason | None = None  # why nothing has moved for a while

    @property
    def seconds_left(self) -> float | None:
        """None while there is no rate."""
        left = self.summary.job.total_records - self.summary.processed
        return left / self.rate if self.rate else None

    def as_dict(self) -> dict[str, Any]:
        """One line of ``watch --json``."""
        return self.summary.as_dict() | {
            "records_per_second": self.rate,
            "output_tokens_per_second": self.token_rate,
            "seconds_left": self.seconds_left,
            "waiting": None if self.waiting is None else self.waiting.text,
        }

    def counts(self) -> str:
        """``1,024/5,574 (18.4 %)``."""
        done, total = self.summary.processed, self.summary.job.total_records
        return f"{number(done)}/{number(total)} ({share(done, total)})"

    def pace(self) -> str:
        """``1,204 records/s, 3.8 s left``, tokens/s too if it writes; or what it waits for."""
        if self.rate:
            tokens = f"{number(self.token_rate)} tokens/s, " if self.token_rate else ""
            return f"{number(self.rate)} records/s, {tokens}{duration(self.seconds_left)} left"
        if self.summary.status == JobStatus.PAUSED:
            return f"paused: textmill resume {self.summary.job.id}"
        if not self.summary.workers:
            return self.starting or f"no live worker for queue {self.summary.job.queue!r}"
        if self.summary.ended:
            return ""
        return "…" if self.summary.processed else "loading the model"

    def labels(self) -> str:
        """The most frequent labels so far, and the errors."""
        parts = [
            f"{shorten(count.label, 24)} {number(count.records)}"
            for count in self.summary.labels[:SHOWN_LABELS]
        ]
        if self.summary.job.error_records:
            parts.append(f"errors {number(self.summary.job.error_records)}")
        return "  ".join(parts)

    def devices(self) -> str:
        """``2 workers: cpu, cuda:0``."""
        devices = [f"{worker.host} {worker.device}" for worker in self.summary.workers]
        return f"{plural(len(devices), 'worker')}: {', '.join(devices[:4])}"


def watch_job(
    database: Database,
    job_id: str,
    *,
    settings: Settings | None = None,
    json: bool = False,
    starting: str | None = None,
    stopped: Callable[[], str | None] = lambda: None,
) -> Summary:
    """Show the job until it ends and return its last summary; waits for a database that is away.

    ``stopped`` may say why nothing more will happen (a worker that could not start); it then ends
    the watch early. ``starting`` is shown until the first worker is live. With ``settings`` the
    broker is asked too when nothing moves for a while.
    Raises KeyboardInterrupt at Ctrl-C, with the job left as it is.
    """
    display = _Json() if json else _Live() if sys.stderr.isatty() else _Lines()
    records, tokens = RateMeter(), RateMeter()
    outage = _Outage()
    clock = WaitingClock(database, settings)
    with display:
        while True:
            summary = outage.ride_out(lambda: summarize_counts(database, job_id))
            # Rows that could not be read are there from the start, before anything is computed.
            computed = summary.processed if summary.job.device_seconds else 0
            rate = records.update(computed, time.monotonic())
            token_rate = tokens.update(summary.job.output_tokens, time.monotonic())
            waiting = None
            if not outage.is_recent and (summary.workers or starting is None):
                waiting = outage.ride_out(partial(clock.look, summary))
            display.show(Moment(summary, rate, token_rate, starting, waiting))
            if summary.ended:
                break
            if not outage.is_recent and outage.ride_out(stopped) is not None:
                break
            time.sleep(POLL_SECONDS)
    return outage.ride_out(lambda: summarize(database, job_id))


class _Outage:
    """Waits for a database that is away and tells the person, once, for what."""

    def __init__(self) -> None:
        self._ended_at = -math.inf

    @property
    def is_recent(self) -> bool:
        """True while live workers may not have had the time to say that they are."""
        return time.monotonic() - self._ended_at < LIVE_SECONDS

    def ride_out(self, action: Callable[[], R]) -> R:
        """``action()``, once the database answers; Ctrl-C ends the waiting."""
        return keep_trying(action, pause=_sleep, away=self._tell, back=self._end)

    def _tell(self, error: ServiceUnavailableError) -> None:
        say(f"waiting: {error}")

    def _end(self) -> None:
        self._ended_at = time.monotonic()
        say("going on: the database answers again")


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return False


class _Display(ABC):
    def __enter__(self) -> _Display:
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    @abstractmethod
    def show(self, moment: Moment) -> None:
        """Bring what is shown up to this moment."""


class _Lines(_Display):
    """A line every few seconds, for logs."""

    def __init__(self) -> None:
        self._last = 0.0
        self._shown = -1
        self._said: dict[str, float] = {}  # kinds of reasons, and when

    def show(self, moment: Moment) -> None:
        if moment.waiting is not None:
            self._say_once(moment.waiting)
        processed = moment.summary.processed
        due = time.monotonic() - self._last >= LINE_SECONDS or moment.summary.ended
        if not due or processed == self._shown:
            return
        self._last, self._shown = time.monotonic(), processed
        say(f"{moment.counts()}  {moment.pace()}  {moment.labels()}".rstrip())

    def _say_once(self, reason: Reason) -> None:
        """Each kind of reason once in a long time, whatever comes between."""
        now = time.monotonic()
        if now - self._said.get(reason.kind, -math.inf) > REPEAT_SECONDS:
            say(f"waiting: {reason.text}")
            self._said[reason.kind] = now


class _Json(_Display):
    """One JSON object whenever something changed."""

    def __init__(self) -> None:
        self._shown: object = None

    def show(self, moment: Moment) -> None:
        kind = moment.waiting and moment.waiting.kind
        state = (moment.summary.processed, moment.summary.status, kind)
        if state != self._shown:
            self._shown = state
            emit_json(moment.as_dict())


class _Live(_Display):
    """A bar and three lines that change in place."""

    def __enter__(self) -> _Live:
        from rich.console import Console
        from rich.live import Live

        self._live = Live(console=Console(stderr=True), transient=True, auto_refresh=False)
        self._live.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._live.__exit__(None, None, None)

    def show(self, moment: Moment) -> None:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.text import Text

        total = max(1, moment.summary.job.total_records)
        lines = [moment.counts() + "  " + moment.pace(), moment.labels(), moment.devices()]
        bar = ProgressBar(total=total, completed=moment.summary.processed, width=50)
        texts = [Text(line, no_wrap=True, overflow="ellipsis") for line in lines if line]
        if moment.waiting is not None:
            texts.append(Text(f"waiting: {moment.waiting.text}"))
        self._live.update(Group(bar, *texts), refresh=True)
