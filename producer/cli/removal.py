"""What ``purge`` and ``redact`` share: the question before, the counter, the files afterwards."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from textmill.producer.cli.context import Context
from textmill.producer.terminal import can_repaint, number, say


def confirm(question: str, *, yes: bool) -> None:
    """Ask a person on a terminal, once; exits where the answer is no."""
    if yes or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return
    if not typer.confirm(question, err=True):
        say("nothing was changed")
        raise typer.Exit(1)


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


def rid_files(context: Context, *, wanted: bool) -> bool:
    """Take the bytes of what was removed out of the database's files; True if they are gone."""
    from textmill.db.audits import bytes_are_left
    from textmill.db.vacuum import vacuum

    with context.database.read() as connection:
        if not bytes_are_left(connection):
            return True
    if not wanted:
        say("note: the database's files still hold what was removed, until `textmill db vacuum`")
        return False
    say("rewriting the database's files, so that nothing of it is left there; who writes waits")
    vacuum(context.database, on_wait=lambda reason: say(f"waiting for {reason}"))
    return True
