"""How fast a watched job goes and how long it still takes, from its counts at each look."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from textmill.core.jobs import JobStatus

if TYPE_CHECKING:
    from textmill.producer.summary import Summary

RATE_SECONDS = 10.0  # the rate is the mean over this time,
FEWEST_RISES = 4  # or over so many chunks where they are rarer
LEFT_SECONDS = 60.0  # the time left comes from a longer mean, or it would jump about
STILL_SECONDS, STILL_RISES = 10.0, 3.0  # a job stands still after so long and so many chunks' time
ANEW_SECONDS, ANEW_RISES = 30.0, 8.0  # and one that stood still for so long is measured anew


class RateMeter:
    """So many of something (records, tokens) per second over the last so many seconds.

    Counts rise when a chunk ends, which may be many at once and seldom. So it measures from one
    rise to another, and begins with the first that it sees: the time before, in which the model
    was loaded and the first chunk computed, says nothing.
    """

    def __init__(self, seconds: float = RATE_SECONDS) -> None:
        self._seconds = seconds
        self._rises: deque[tuple[float, int]] = deque()
        self._count: int | None = None

    def update(self, count: int, now: float) -> float | None:
        """The rate after this observation at a monotonic time; None until it rose twice."""
        rises, before = self._rises, self._count
        self._count = count
        if before is not None and count < before:  # a retry has deleted rows
            rises.clear()
        elif before is not None and count > before:
            if len(rises) > 1 and self.is_late(now - rises[-1][0], ANEW_SECONDS, ANEW_RISES):
                rises.clear()
            rises.append((now, count))
        while len(rises) > FEWEST_RISES and rises[-1][0] - rises[0][0] > self._seconds:
            rises.popleft()
        if len(rises) < 2:
            return None
        seconds = rises[-1][0] - rises[0][0]
        overdue = now - rises[-1][0] - self._between  # it falls if nothing comes
        return (rises[-1][1] - rises[0][1]) / (seconds + max(0.0, overdue))

    def is_late(self, still: float, seconds: float, rises: float) -> bool:
        """True if it stood still for longer than this, and than lies between so many rises."""
        return still > max(seconds, rises * self._between)

    def forget(self) -> None:
        """Begin anew: what was measured no longer says how it goes on."""
        self._rises.clear()

    @property
    def _between(self) -> float:
        if len(self._rises) < 2:
            return 0.0
        return (self._rises[-1][0] - self._rises[0][0]) / (len(self._rises) - 1)


@dataclass(frozen=True, slots=True)
class Pace:
    """What can be said of a job's speed at one moment; None where nothing can."""

    records_per_second: float | None = None
    input_tokens_per_second: float | None = None
    output_tokens_per_second: float | None = None
    seconds_left: float | None = None
    still_seconds: float | None = None  # since the last new row, of a job that stands still


class PaceMeter:
    """Takes a job's counts at each look."""

    def __init__(self) -> None:
        self._records, self._input, self._output = RateMeter(), RateMeter(), RateMeter()
        self._left = RateMeter(LEFT_SECONDS)
        self._computed = -1
        self._moved_at = 0.0

    def update(self, summary: Summary, now: float) -> Pace:
        """The pace after this look, at a monotonic time."""
        job = summary.job
        # Rows that could not be read are there from the start, before anything is computed.
        computed = summary.processed if job.device_seconds else 0
        if computed != self._computed:
            self._computed, self._moved_at = computed, now
        rate, left = self._records.update(computed, now), self._left.update(computed, now)
        read, written = job.input_tokens, job.output_tokens
        tokens = self._input.update(read, now), self._output.update(written, now)
        if summary.status == JobStatus.PAUSED or not summary.workers or summary.ended:
            for meter in (self._records, self._input, self._output, self._left):
                meter.forget()
            return Pace()
        still = now - self._moved_at
        if computed and self._records.is_late(still, STILL_SECONDS, STILL_RISES):
            return Pace(rate, *tokens, still_seconds=still)
        to_do = job.total_records - summary.processed
        return Pace(rate, *tokens, seconds_left=to_do / left if left else None)
