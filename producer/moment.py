"""A job at one moment while someone watches: its summary, its pace, and what it waits for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from textmill.core.jobs import JobStatus
from textmill.producer.rates import Pace
from textmill.producer.summary import Summary
from textmill.producer.terminal import number, plural, roughly, shorten
from textmill.producer.waiting import Reason

SHOWN_LABELS = 4  # on a line
SHOWN_ERRORS = 3
NO_PACE = Pace()  # of a job that has ended


@dataclass(frozen=True, slots=True)
class Moment:
    """What is shown: as a line, as JSON, or (by ``layout``) as a block on a terminal."""

    summary: Summary
    pace: Pace = NO_PACE
    starting: str | None = None  # said instead of "no live worker"
    waiting: Reason | None = None  # why nothing has moved for a while

    def as_dict(self) -> dict[str, Any]:
        """One line of ``watch --json``; docs/watching.md says what each field means."""
        return self.summary.as_dict() | {
            "records_per_second": self.pace.records_per_second,
            "input_tokens_per_second": self.pace.input_tokens_per_second,
            "output_tokens_per_second": self.pace.output_tokens_per_second,
            "seconds_left": self.pace.seconds_left,
            "waiting": None if self.waiting is None else self.waiting.text,
        }

    def as_line(self) -> str:
        """``1,024 of 5,574 (18.3 %)  1,204 records/s  3 s left  ham 2,216  errors 12: …``."""
        total = self.summary.job.total_records
        counts = f"{number(self.summary.processed)} of {number(total)} ({self.percent})"
        parts = [counts, *self.speed(), *self._token_rates(), *self._labels(), *self._errors()]
        return "  ".join(parts)

    @property
    def percent(self) -> str:
        """How much of it is done; ``100.0 %`` only at the end."""
        total = self.summary.job.total_records
        if not total:
            return "–"
        return f"{math.floor(1000 * self.summary.processed / total) / 10:.1f} %"

    def speed(self) -> list[str]:
        """Rate and time left; or what it does or waits for instead."""
        if self.summary.ended:
            return []
        doing = self._doing()
        if doing is not None:
            return [doing]
        rate, left = self.pace.records_per_second, self.pace.seconds_left
        told = [f"{number(rate)} records/s"] if rate else []
        return [*told, f"{roughly(left)} left"] if left is not None else told

    def _doing(self) -> str | None:
        """What there is to say while there is no rate."""
        summary, job = self.summary, self.summary.job
        if summary.status == JobStatus.LOADING:
            return "records are being loaded"
        if summary.status == JobStatus.PAUSED:
            return f"paused: textmill resume {job.id}"
        if not summary.workers:
            return self.starting or f"no live worker for queue {job.queue!r}"
        if self.pace.still_seconds is not None:
            return f"nothing new for {roughly(self.pace.still_seconds)}"
        if self.pace.records_per_second:
            return None
        if summary.status == JobStatus.QUEUED:
            return "queued"
        if job.device_seconds:
            return "measuring the rate"
        return "the first chunks are in work" if summary.has_loaded else "loading the model"

    def _token_rates(self) -> list[str]:
        rate = self.pace.output_tokens_per_second
        return [f"{number(rate)} tokens/s"] if rate and self.pace.records_per_second else []

    def _labels(self) -> list[str]:
        return [
            f"{shorten(count.label, 24)} {number(count.records)}"
            for count in self.summary.labels[:SHOWN_LABELS]
        ]

    def _errors(self) -> list[str]:
        errors = self.summary.job.error_records
        if not errors:
            return []
        reasons = ", ".join(
            f"{shorten(code, 32)} {number(records)}"
            for code, records, _ in self.summary.errors[:SHOWN_ERRORS]
        )
        return [f"errors {number(errors)}" + (f": {reasons}" if reasons else "")]

    def workers_line(self) -> str:
        """``2 workers: gpu1 cuda:0 (4 slots), gpu1 cuda:1 (4 slots)``."""
        workers = self.summary.workers
        places = [
            shorten(f"{one.host} {one.device} ({plural(one.slots, 'slot')})", 60) for one in workers
        ]
        return f"{plural(len(workers), 'worker')}: {', '.join(places)}"


def model_name(model: str) -> str:
    """A model as it is called where there is little room: of a folder its own name."""
    return PurePath(model).name or model if PurePath(model).is_absolute() else model
