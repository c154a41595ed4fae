"""One job's summary again and again: what costs much is asked for only when it can have changed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from textmill.core.jobs import ENDED
from textmill.db.clock import read_clock
from textmill.db.jobs import get_job
from textmill.db.queries import LabelCount, count_errors, count_labels
from textmill.db.workers import live_workers
from textmill.producer.summary import Summary

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from textmill.db.session import Database

ERROR_SECONDS = 1.0  # between two counts of errors by reason, which reads each error's row,
ERROR_TIMES = 20  # and so many times as long as the last one took


class SummaryReader:
    """Reads the summary of one job at each look of someone who watches.

    The numbers of records are those of the moment; labels are asked for when there are new rows,
    errors by reason when there are new errors and the last count is old enough.
    """

    def __init__(self, database: Database, job_id: str) -> None:
        self._database = database
        self._job_id = job_id
        self._labels: list[LabelCount] = []
        self._done = -1  # done records when the labels were counted
        self._reasons: list[tuple[str, int, str]] = []
        self._errors = 0  # error records when they were counted by reason
        self._errors_due = 0.0

    def read(self) -> Summary:
        """The summary now, without outputs."""
        with self._database.read() as connection:
            job = get_job(connection, self._job_id)
            if job.done_records != self._done:
                self._labels, self._done = count_labels(connection, self._job_id), job.done_records
            due = time.monotonic() >= self._errors_due or job.status in ENDED
            if job.error_records != self._errors and due:
                self._count_errors(connection, job.error_records)
            workers = live_workers(connection, job.queue)
            read_at = read_clock(connection)
        return Summary(job, self._labels, self._reasons, workers, read_at)

    def _count_errors(self, connection: Connection, errors: int) -> None:
        began = time.monotonic()
        self._reasons = count_errors(connection, self._job_id) if errors else []
        self._errors = errors
        ended = time.monotonic()
        self._errors_due = ended + max(ERROR_SECONDS, ERROR_TIMES * (ended - began))
