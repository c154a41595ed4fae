"""Why a watched job does not move: asked once nothing was done for a while, told in words."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from textmill.core.errors import ServiceUnavailableError
from textmill.core.jobs import JobStatus
from textmill.db.chunks import MAX_FAILURES
from textmill.db.standstill import Standstill, look_at_standstill
from textmill.producer.terminal import plural, shorten

if TYPE_CHECKING:
    from textmill.core.settings import Settings
    from textmill.db.session import Database
    from textmill.producer.summary import Summary

STILL_SECONDS = 5.0  # without a new row, until the reason is asked for, and asked again


@dataclass(frozen=True, slots=True)
class Reason:
    """Why nothing moves. ``kind`` stays the same while ``text`` counts on."""

    kind: str
    text: str


class WaitingClock:
    """Notices that nothing moves, and finds out why, at most once in ``STILL_SECONDS``."""

    def __init__(self, database: Database, settings: Settings | None) -> None:
        self._database = database
        self._settings = settings  # None: the broker is not asked
        self._seen: object = None
        self._due = 0.0
        self._reason: Reason | None = None

    def look(self, summary: Summary) -> Reason | None:
        """The reason, or None while the job moves or nothing can be said."""
        seen = (summary.processed, summary.status, len(summary.workers))
        if seen != self._seen:
            self._seen, self._reason = seen, None
            self._due = time.monotonic() + STILL_SECONDS
        elif not summary.ended and time.monotonic() >= self._due:
            self._reason = self._find(summary)
            self._due = time.monotonic() + STILL_SECONDS
        return self._reason

    def _find(self, summary: Summary) -> Reason | None:
        reason = _reason_of_job(summary)
        if reason is not None:
            return reason
        with self._database.read() as connection:
            found = look_at_standstill(connection, summary.job)
        return _reason_of_chunks(summary, found) or self._reason_of_broker() or _waits_behind(found)

    def _reason_of_broker(self) -> Reason | None:
        if self._settings is None:
            return None
        from textmill.core.broker import ping  # with Celery: a third of a second, seldom needed

        try:
            ping(self._settings)
        except ServiceUnavailableError as error:
            return Reason("broker", str(error))
        return None


def _reason_of_job(summary: Summary) -> Reason | None:
    job = summary.job
    if summary.status == JobStatus.LOADING:
        return Reason("loading", "its records are still being loaded by the command that submits")
    if summary.status == JobStatus.PAUSED:
        return Reason("paused", f"the job is paused; `textmill resume {job.id}` lets it go on")
    if not summary.workers:
        queues = "" if job.queue == "default" else f" --queues {job.queue}"
        start = f"start one with `textmill worker{queues}`"
        return Reason("worker", f"no live worker serves queue {job.queue!r}; {start}")
    return None


def _reason_of_chunks(summary: Summary, found: Standstill) -> Reason | None:
    why = f": {shorten(found.error, 200)}" if found.error else ""
    if summary.job.load_failures:
        places = ", ".join(summary.job.load_failures)
        return Reason("load", f"its model could not be loaded on {places}, and is tried again{why}")
    if found.crashes:
        return Reason("crash", "a worker died over it; the record at fault is being looked for")
    if found.failures:
        tries = f"{found.failures} of {MAX_FAILURES} times"
        return Reason("failure", f"a chunk of it failed {tries}, and is tried again{why}")
    if found.running:
        ready = summary.processed or summary.has_loaded
        loading = "" if ready else "the model is being loaded, or "
        busy = f"for {plural(found.running, 'chunk')} in work"
        return Reason("work", f"{busy}: {loading}their texts take long")
    if found.orphaned:
        of = f"the leases of {plural(found.orphaned, 'chunk')} to end"
        return Reason("lease", f"for {of}: their worker has not been seen for a while")
    return None


def _waits_behind(found: Standstill) -> Reason | None:
    if not found.other_chunks:
        return Reason("messages", "its messages were not fetched yet; do workers reach the broker?")
    chunks, jobs = plural(found.other_chunks, "chunk"), plural(found.other_jobs, "other job")
    return Reason("others", f"behind other work: {chunks} of {jobs}")
