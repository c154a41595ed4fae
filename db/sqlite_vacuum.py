"""SQLite: the words' index merged, the file written anew, and its log emptied.

https://www.sqlite.org/lang_vacuum.html, https://www.sqlite.org/fts5.html#the_merge_command
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

from sqlalchemy.exc import OperationalError

from textmill.core.errors import ServiceUnavailableError
from textmill.db.pace import Pace
from textmill.db.session import Database, explain

R = TypeVar("R")

PAUSE_SECONDS = 0.5
FIRST_PAGES, MOST_PAGES = 64, 16_384  # of the words' index, merged in one transaction
MERGE = "INSERT INTO result_words (result_words, rank) VALUES ('merge', ?)"


class BusyError(Exception):
    """Somebody else holds what is needed."""


def vacuum(database: Database, patience_seconds: float, on_wait: Callable[[str], None]) -> None:
    """See ``vacuum.vacuum``. Readers go on all the while; what writes waits for the second step."""
    wait = _Wait(patience_seconds, on_wait)
    folder = Path(str(database.engine.url.database)).absolute().parent
    with _own_connection(database) as connection:
        _merge_words(connection, wait)
        wait.until(lambda: _rewrite(connection, folder), "other transactions to end")
        wait.until(lambda: _empty_log(connection), "others to end their reads")


class _Wait:
    """Tries again while others hold what is needed."""

    def __init__(self, seconds: float, on_wait: Callable[[str], None]) -> None:
        self._deadline = time.monotonic() + seconds
        self._on_wait = on_wait

    def until(self, action: Callable[[], R], what: str) -> R:
        told = False
        while True:
            try:
                return action()
            except (sqlite3.OperationalError, BusyError) as error:
                if isinstance(error, sqlite3.Error) and "locked" not in str(error):
                    raise
            if not told:
                self._on_wait(what)
                told = True
            if time.monotonic() > self._deadline:
                raise ServiceUnavailableError(
                    f"gave up waiting for {what}: the file still holds what was removed; give the "
                    "command again when nothing else keeps the database for long"
                )
            time.sleep(PAUSE_SECONDS)


@contextmanager
def _own_connection(database: Database) -> Iterator[sqlite3.Connection]:
    """One whose settings nobody else gets: it is closed at the end."""
    raw = database.engine.raw_connection()
    connection = raw.driver_connection
    assert isinstance(connection, sqlite3.Connection)
    try:
        connection.execute("PRAGMA secure_delete = ON")
        yield connection
    except sqlite3.Error as error:
        raise explain(OperationalError("vacuum", None, error), database.url) from error
    finally:
        raw.invalidate()


def _merge_words(connection: sqlite3.Connection, wait: _Wait) -> None:
    """Until nothing is left of words that no row has: a deleted one is a note beside it till then.

    As the command 'optimize', which would do all of it in one transaction.
    """
    pace, sign = Pace(FIRST_PAGES, MOST_PAGES), -1  # the first one also begins the merge
    while wait.until(partial(_merge, connection, pace, sign), "other transactions to end"):
        sign = 1


def _merge(connection: sqlite3.Connection, pace: Pace, sign: int) -> bool:
    """One short transaction; True if there may be more to do."""
    connection.execute("BEGIN IMMEDIATE")
    before, pages = connection.total_changes, pace.size
    with pace.piece(pages):
        connection.execute(MERGE, (sign * pages,))
    connection.execute("COMMIT")
    return connection.total_changes - before >= 2  # as SQLite's page says


def _rewrite(connection: sqlite3.Connection, folder: Path) -> None:
    """A second copy is made beside the file, not in memory, and becomes the file."""
    connection.execute("PRAGMA temp_store = FILE")
    # Deprecated, and the one way to say where: the folder for temporary files may be too small.
    quoted = str(folder).replace("'", "''")
    connection.execute(f"PRAGMA temp_store_directory = '{quoted}'")
    try:
        connection.execute("VACUUM")
    finally:
        connection.execute("PRAGMA temp_store_directory = ''")


def _empty_log(connection: sqlite3.Connection) -> None:
    """Move what the log has into the file, unless somebody still reads an older page of it."""
    busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if busy:
        raise BusyError
