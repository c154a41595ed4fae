"""Vacuum: the files of a database keep nothing of rows that were changed or deleted.

Neither database writes over such rows by itself. How that is mended differs altogether, and is in
``sqlite_vacuum.py`` and ``postgresql_vacuum.py``; both take long for a large database, and hold up
others meanwhile. What lies outside of the database's files is out of reach: backups, archived logs,
replicas, snapshots, and blocks that a disk has given up.
"""

from __future__ import annotations

from collections.abc import Callable

from textmill.db import postgresql_vacuum, sqlite_vacuum
from textmill.db.audits import find_unrid, note_vacuum
from textmill.db.session import Database

PATIENCE_SECONDS = 300.0  # for others to end what they have begun


def vacuum(
    database: Database,
    *,
    patience_seconds: float = PATIENCE_SECONDS,
    on_wait: Callable[[str], None] = lambda reason: None,
) -> None:
    """Rid the database's files of what rows no longer hold, and note that in the audits.

    ``on_wait`` is told what is waited for. Raises ServiceUnavailableError if others do not let go
    for so long, or the disk has no room for a second copy; nothing is lost then, and nothing rid.
    """
    with database.read() as connection:
        unrid = find_unrid(connection)
    one = sqlite_vacuum.vacuum if database.is_sqlite else postgresql_vacuum.vacuum
    one(database, patience_seconds, on_wait)
    database.transact(note_vacuum, unrid)
