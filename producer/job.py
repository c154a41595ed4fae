"""A job in Python, and the database and publisher that this process asks about it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, Unpack

from textmill.core.broker import Publisher
from textmill.core.errors import ServiceUnavailableError
from textmill.core.jobs import ENDED, JobStatus
from textmill.core.patience import keep_trying
from textmill.core.settings import load_settings
from textmill.core.tasks import load_plugins
from textmill.db import jobs as jobs_db
from textmill.db.queries import count_labels
from textmill.db.rerun import rerun_job
from textmill.db.retry import retry_job
from textmill.db.schema import ensure_schema
from textmill.db.session import Database
from textmill.producer.results_api import Results, Wanted, make_filter
from textmill.producer.submit import dispatch_job
from textmill.producer.summary import EXIT_CODES
from textmill.producer.vectors import Vector, read_matrix, read_vectors

if TYPE_CHECKING:
    import numpy as np

POLL_SECONDS = 0.2


class Session:
    """This process's database and publisher, as the environment says."""

    def __init__(self) -> None:
        self.settings = load_settings()
        load_plugins(self.settings.plugins)
        self.database = Database.open(self.settings)
        ensure_schema(self.database, self.settings)
        self.publisher = Publisher(self.settings)


@cache
def open_session() -> Session:
    """The one of this process, opened when it is first needed."""
    return Session()


class Job:
    """A job that exists. ``Job("06h0…")`` finds it by id, the start of its id, or its key.

    Raises JobNotFoundError if there is none. ``existing`` is True if ``submit`` found that its key
    had been submitted before.
    """

    existing = False

    def __init__(self, reference: str) -> None:
        with open_session().database.read() as connection:
            self.id: str = jobs_db.find_job(connection, reference).id

    def __repr__(self) -> str:
        return f"Job({self.id!r})"

    def _row(self) -> Any:
        with open_session().database.read() as connection:
            return jobs_db.get_job(connection, self.id)

    @property
    def status(self) -> JobStatus:
        """Where it stands now."""
        return JobStatus(self._row().status)

    @property
    def ended(self) -> bool:
        """True if nothing more happens by itself."""
        return self.status in ENDED

    @property
    def error(self) -> str | None:
        """Why it failed, if it did."""
        return self._row().error  # type: ignore[no-any-return]

    def counts(self) -> dict[str, int]:
        """Records in all, done and in error."""
        row = self._row()
        return {"total": row.total_records, "done": row.done_records, "errors": row.error_records}

    def wait(self, timeout: float | None = None) -> JobStatus:
        """Return the job's status once it has ended; waits for a database that is away, silently.

        Raises TimeoutError after ``timeout`` seconds; the job goes on. (A server that takes a
        question and never answers is waited for until the connection is given up.)
        """
        deadline = math.inf if timeout is None else time.monotonic() + timeout

        def pause(seconds: float) -> bool:
            left = deadline - time.monotonic()
            time.sleep(max(0.0, min(seconds, left)))
            return left <= 0

        while True:
            try:
                status = keep_trying(lambda: self.status, pause=pause)
            except ServiceUnavailableError as error:
                raise TimeoutError(
                    f"what became of job {self.id} is not known after {timeout} s: {error}"
                ) from error
            if status in ENDED:
                return status
            if pause(POLL_SECONDS):
                raise TimeoutError(f"job {self.id} is {status} after {timeout} s")

    def results(self, **wanted: Unpack[Wanted]) -> Results:
        """Its rows in input order, to iterate over; the arguments are those of ``ResultFilter``.

        ``job.results(label="spam", min_score=0.9, order="score", limit=10)``. Raises
        InvalidJobError for what cannot be meant, such as a column that there is not.
        """
        return Results(open_session().database, self.id, make_filter(wanted))

    def vectors(self) -> Iterator[Vector]:
        """Index, id and vector of each record that has one, in input order, read page by page."""
        return read_vectors(open_session().database, self._row())

    def matrix(self) -> np.ndarray:
        """All its vectors as float32 of (records, dimensions); row i is the record of index i.

        A record without a vector has a row of NaN. Raises InvalidJobError if there is none at all.
        """
        return read_matrix(open_session().database, self._row())

    def labels(self) -> dict[str, int]:
        """How many records have each label so far, the most frequent first."""
        with open_session().database.read() as connection:
            return {count.label: count.records for count in count_labels(connection, self.id)}

    @property
    def exit_code(self) -> int:
        """What the command line would exit with: 0 done or going on, 1 failed, 3 with errors."""
        return EXIT_CODES.get(self.status, 0)

    def pause(self) -> None:
        """Hold it back; what is running finishes. Raises JobConflictError if it has ended."""
        open_session().database.transact(jobs_db.pause_job, self.id)

    def resume(self) -> None:
        """Let it go on after ``pause``."""
        open_session().database.transact(jobs_db.resume_job, self.id)
        self._dispatch()

    def _dispatch(self) -> None:
        dispatch_job(open_session().database, open_session().publisher, self.id, self._row().queue)

    def cancel(self) -> None:
        """End it now; raises JobConflictError if it has ended."""
        open_session().database.transact(jobs_db.cancel_job, self.id)

    def retry(self, *, all: bool = False) -> int:  # noqa: A002 - as the command's option is named
        """Run its error records again; returns how many. Raises JobConflictError if none can.

        With ``all`` every record runs again, and the results it has are deleted at once.
        """
        records = open_session().database.transact(rerun_job if all else retry_job, self.id)
        self._dispatch()
        return records
