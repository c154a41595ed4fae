"""SQLite's log of changes (``textmill.db-wal``), kept short while it is written without a pause."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

LOG_BYTES = 64 << 20  # at which it is emptied
BUSY_MS = 200  # other writers wait while it waits for readers


class SqliteLog:
    """The log of one database file.

    SQLite empties it at a moment when all of it is in the file; while two processes write without a
    pause, each during the other's copying, there is none, and the log would grow for ever.
    https://www.sqlite.org/wal.html#avoiding_excessively_large_wal_files
    """

    def __init__(self, file: str) -> None:
        self._path = Path(f"{file}-wal")
        self._limit = LOG_BYTES

    def bound(self, connection: Connection) -> None:
        """Empty it if it is long; for a connection whose transaction has just ended."""
        if self._size() < self._limit:
            return
        driver: Any = connection.connection.driver_connection
        (usual,) = driver.execute("PRAGMA busy_timeout").fetchone()
        try:  # the change is committed, whatever this comes to
            driver.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
            driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.Error:
            pass
        finally:
            driver.execute(f"PRAGMA busy_timeout = {usual}")
        self._limit = self._size() + LOG_BYTES  # somebody may still read it

    def _size(self) -> int:
        try:
            return self._path.stat().st_size
        except OSError:
            return 0
