"""What ``purge`` and ``redact`` share: the question before, the counter, jobs that are passed over,
the files afterwards."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import typer

from textmill.core.errors import JobConflictError, PurgedJobError
from textmill.producer.cli.context import Context
from textmill.producer.terminal import can_repaint, number, plural, say

SHOWN_JOBS = 20


def confirm(question: str, *, yes: bool) -> None:
    """Ask a person on a terminal, once; exits where the answer is no."""
    if yes or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return
    if not typer.confirm(question, err=True):
        say("nothing was changed")
        raise typer.Exit(1)


def check_older_than(age: str, *, alone: bool) -> None:
    """Refuse what is no age, and an age beside what else says which jobs or records are meant."""
    from textmill.producer.ages import parse_age

    parse_age(age)
    if not alone:
        raise typer.BadParameter(
            "goes by itself: it is for all jobs, and for whole jobs", param_hint="--older-than"
        )


class Counter:
    """A counter of rows on a terminal; silence elsewhere."""

    def __init__(self, doing: str) -> None:
        self._doing = doing
        self._rows = 0

    def __call__(self, rows: int) -> None:
        self._rows += rows
        if can_repaint(sys.stderr):
            sys.stderr.write(f"\r{self._doing} {number(self._rows)} records")
            sys.stderr.flush()

    def clear(self) -> None:
        if can_repaint(sys.stderr):
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()


@contextmanager
def counting(doing: str) -> Iterator[Counter]:
    """A counter that leaves its line empty, and says after Ctrl-C how things stand."""
    counter = Counter(doing)
    try:
        yield counter
    except KeyboardInterrupt:
        counter.clear()
        say("stopped: what is done stays done, and the same command goes on")
        raise
    finally:
        counter.clear()


class PassedOver:
    """Jobs that cannot be changed now: the others are, and the files are rewritten for these."""

    def __init__(self, *, named: bool) -> None:
        """``named``: a person did, so that each is an error."""
        self.errors: dict[str, JobConflictError | PurgedJobError] = {}
        self._named = named
        self._told: set[str] = set()

    @contextmanager
    def on_conflict(self, job_id: str) -> Iterator[None]:
        """Around what is done with one job."""
        try:
            yield
        except (JobConflictError, PurgedJobError) as error:
            self.errors[job_id] = error

    def are_all(self, changed: Sequence[object]) -> bool:
        """Whether a person named no other job, so that the files are not meant either.

        By age they are: an earlier command may have been killed before it had rewritten them.
        """
        return self._named and bool(self.errors) and not changed

    def tell(self) -> None:
        """Say which and why, of those of which it was not said yet."""
        for job_id, error in self.errors.items():
            if job_id not in self._told:
                say(f"{'error' if self._named else 'passed over'}: {error}")
        self._told |= self.errors.keys()

    def end(self) -> None:
        """Say what is left to say, and exit as after an error if a person named such a job."""
        self.tell()
        if self._named and self.errors:
            raise typer.Exit(next(iter(self.errors.values())).exit_code)


def name_unended(context: Context, older_than: str, command: str) -> list[str]:
    """Say which jobs are as old and have not ended: ``--older-than`` is for those that have."""
    from textmill.db.jobs import find_unended
    from textmill.producer.ages import parse_age

    with context.database.read() as connection:
        found = find_unended(connection, parse_age(older_than))
    if found:
        say(
            f"note: not ended, though submitted over {older_than} ago, and passed over: "
            f"{plural(len(found), 'job')}; `textmill cancel JOB`, then `textmill {command} JOB`"
        )
    for job in found[:SHOWN_JOBS]:
        say(f"  {job.id}  {job.status:>12}  {job.name or ''}".rstrip())
    if len(found) > SHOWN_JOBS:
        say(f"  … and {plural(len(found) - SHOWN_JOBS, 'more job')}")
    return [job.id for job in found]


def rid_files(context: Context, *, wanted: bool) -> bool:
    """Take the bytes of what was removed out of the database's files; True if that was done."""
    from textmill.db.audits import bytes_are_left
    from textmill.db.vacuum import vacuum

    with context.database.read() as connection:
        if not bytes_are_left(connection):
            return False
    if not wanted:
        say("note: the database's files still hold what was removed, until `textmill db vacuum`")
        return False
    say("rewriting the database's files, so that nothing of it is left there; who writes waits")
    vacuum(context.database, on_wait=lambda reason: say(f"waiting for {reason}"))
    return True
