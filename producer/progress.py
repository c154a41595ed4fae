"""Watching a job until it ends: in place on a terminal, plain or JSON lines elsewhere."""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from textmill.core.errors import ServiceUnavailableError
from textmill.core.patience import keep_trying
from textmill.db.workers import LIVE_SECONDS
from textmill.producer.layout import lay_out
from textmill.producer.moment import Moment
from textmill.producer.painter import Painter
from textmill.producer.rates import PaceMeter
from textmill.producer.summary import Summary, summarize
from textmill.producer.summary_reader import SummaryReader
from textmill.producer.terminal import can_repaint, emit_json, say
from textmill.producer.waiting import Reason, WaitingClock

if TYPE_CHECKING:
    from textmill.core.settings import Settings
    from textmill.db.session import Database

R = TypeVar("R")

POLL_SECONDS = 0.25
LINE_SECONDS = 5.0  # between two lines where there is no terminal
REPEAT_SECONDS = 600.0  # until a reason for waiting is said again


def watch_job(
    database: Database,
    job_id: str,
    *,
    settings: Settings | None = None,
    json: bool = False,
    interval: float | None = None,
    hint: str = "",
    starting: str | None = None,
    stopped: Callable[[], str | None] = lambda: None,
) -> Summary:
    """Show the job until it ends and return its last summary; waits for a database that is away.

    ``interval`` is the least number of seconds between two lines; ``hint`` stands below what is
    shown on a terminal. ``stopped`` may say why nothing more will happen (a worker that could not
    start); it then ends the watch early. ``starting`` is shown until the first worker is live. With
    ``settings`` the broker is asked too when nothing moves for a while.
    Raises KeyboardInterrupt at Ctrl-C, with the job left as it is.
    """
    reader, meter = SummaryReader(database, job_id), PaceMeter()
    clock = WaitingClock(database, settings)
    with _display(json=json, interval=interval, hint=hint) as display:
        outage = _Outage(display.say)
        while True:
            summary = outage.ride_out(reader.read)
            pace = meter.update(summary, time.monotonic())
            waiting = None
            if not outage.is_recent and (summary.workers or starting is None):
                waiting = outage.ride_out(partial(clock.look, summary))
            if pace.seconds_left is not None and waiting is not None and waiting.kind == "work":
                waiting = None  # its chunks take longer than nothing new is remarkable
            display.show(Moment(summary, pace, starting, waiting))
            if summary.ended:
                break
            if not outage.is_recent and outage.ride_out(stopped) is not None:
                break
            time.sleep(POLL_SECONDS)
    return _Outage(say).ride_out(lambda: summarize(database, job_id))


class _Outage:
    """Waits for a database that is away and tells the person, once, for what."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._say = tell
        self._ended_at = -math.inf

    @property
    def is_recent(self) -> bool:
        """True while live workers may not have had the time to say that they are."""
        return time.monotonic() - self._ended_at < LIVE_SECONDS

    def ride_out(self, action: Callable[[], R]) -> R:
        """``action()``, once the database answers; Ctrl-C ends the waiting."""
        return keep_trying(action, pause=_sleep, away=self._tell, back=self._end)

    def _tell(self, error: ServiceUnavailableError) -> None:
        self._say(f"waiting: {error}")

    def _end(self) -> None:
        self._ended_at = time.monotonic()
        self._say("going on: the database answers again")


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

    def say(self, message: str) -> None:
        """A line between what is shown."""
        say(message)


def _display(*, json: bool, interval: float | None, hint: str) -> _Display:
    if json:
        return _Json(interval or 0.0)
    if can_repaint(sys.stderr):
        return _Live(interval or 0.0, hint)
    return _Lines(LINE_SECONDS if interval is None else interval)


class _Lines(_Display):
    """A line every few seconds, for logs."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._last = -math.inf
        self._shown = -1
        self._workers = ""
        self._said: dict[str, float] = {}  # kinds of reasons, and when

    def show(self, moment: Moment) -> None:
        summary = moment.summary
        if summary.ended and self._shown < 0:
            return  # the summary says it all
        if moment.waiting is not None:
            self._say_once(moment.waiting)
        due = time.monotonic() - self._last >= self._interval or summary.ended
        if not due or summary.processed == self._shown:
            return
        self._say_workers(moment)
        self._last, self._shown = time.monotonic(), summary.processed
        say(moment.as_line())

    def _say_workers(self, moment: Moment) -> None:
        workers = moment.workers_line() if moment.summary.workers else ""
        if workers and workers != self._workers and not moment.summary.ended:
            say(workers)
            self._workers = workers

    def _say_once(self, reason: Reason) -> None:
        """Each kind of reason once in a long time, whatever comes between."""
        now = time.monotonic()
        if now - self._said.get(reason.kind, -math.inf) > REPEAT_SECONDS:
            say(f"waiting: {reason.text}")
            self._said[reason.kind] = now


class _Json(_Display):
    """One JSON object whenever something changed; the last one is left to the caller."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._last = -math.inf
        self._shown: object = None

    def show(self, moment: Moment) -> None:
        summary = moment.summary
        kind = moment.waiting and moment.waiting.kind
        state = (summary.processed, summary.status, kind, summary.errors, len(summary.workers))
        due = time.monotonic() - self._last >= self._interval
        if due and state != self._shown and not summary.ended:
            self._last, self._shown = time.monotonic(), state
            emit_json(moment.as_dict())


class _Live(_Display):
    """A block that changes in place; it gives way to the summary, and stays after Ctrl-C."""

    def __init__(self, interval: float, hint: str) -> None:
        self._interval = interval
        self._hint = hint
        self._last = -math.inf
        self._size = (0, 0)
        self._painter = Painter(sys.stderr, colors=not os.environ.get("NO_COLOR"))

    def __enter__(self) -> _Display:
        # After Ctrl-Z and `fg` the shell has written below the block: it begins anew there.
        self._before = signal.signal(signal.SIGCONT, lambda *_: self._painter.forget())
        return self

    def __exit__(self, kind: object = None, *exc: object) -> None:
        signal.signal(signal.SIGCONT, self._before)
        if kind is not KeyboardInterrupt:
            self._painter.clear()

    def show(self, moment: Moment) -> None:
        size = self._painter.size()
        due = time.monotonic() - self._last >= self._interval or size != self._size
        if due and not moment.summary.ended:
            self._last, self._size = time.monotonic(), size
            self._painter.paint(lay_out(moment, *size, self._hint))

    def say(self, message: str) -> None:
        self._painter.clear()
        say(message)
