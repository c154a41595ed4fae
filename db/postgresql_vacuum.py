"""PostgreSQL: each table that holds texts, and the statistics about them, written into new files.

A plain VACUUM gives room to later rows and leaves the old bytes where they are. VACUUM FULL takes
an ACCESS EXCLUSIVE lock on one table after the other: until it is done nothing reads or writes that
table (https://www.postgresql.org/docs/current/sql-vacuum.html).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, func, literal, select, text
from sqlalchemy.exc import DBAPIError

from textmill.core.errors import ServiceUnavailableError
from textmill.db.models import metadata, words_metadata
from textmill.db.session import Database, explain

TABLES = (
    "results",
    "result_words",
    "result_values",
    "reuse_keys",
    "payloads",
    "chunks",
    "jobs",
)
CLEARS_SAMPLES = (18,)  # the first version that has a function for it
STATISTICS = "pg_catalog.pg_statistic"  # samples of the columns' values
LOCK_SECONDS = 2  # who waits for such a lock holds up all that come later: so never for long
PAUSE_SECONDS = 1.0
LOCK_NOT_AVAILABLE = "55P03"

# Sessions, prepared transactions and replicas for which an older state of the rows is kept.
OLDER = text(
    """
    SELECT 'session ' || pid || ' (' || coalesce(nullif(application_name, ''), usename) || ')'
    FROM pg_stat_activity
    WHERE (datname = current_database() OR datname IS NULL) AND pid <> pg_backend_pid()
      AND greatest(age(backend_xmin), age(backend_xid)) > age(CAST(:until AS xid))
    UNION ALL
    SELECT 'prepared transaction ' || gid FROM pg_prepared_xacts
    WHERE database = current_database() AND age(transaction) > age(CAST(:until AS xid))
    UNION ALL
    SELECT 'replication slot ' || slot_name FROM pg_replication_slots
    WHERE greatest(age(xmin), age(catalog_xmin)) > age(CAST(:until AS xid))
    """
)


def vacuum(database: Database, patience_seconds: float, on_wait: Callable[[str], None]) -> None:
    """See ``vacuum.vacuum``."""
    deadline = time.monotonic() + patience_seconds
    try:
        with _own_connection(database) as connection:
            refused = _collect_refusals(connection)
            _let_older_end(connection, deadline, on_wait)
            _forget_samples(connection)
            for table in TABLES:
                _rewrite(connection, f"(FULL, ANALYZE) {table}", deadline, on_wait)
            _rewrite(connection, f"(FULL) {STATISTICS}", deadline, on_wait)
            _check(refused)
    except DBAPIError as error:
        raise explain(error, database.url) from error


@contextmanager
def _own_connection(database: Database) -> Iterator[Connection]:
    """One whose settings nobody else gets: it is closed at the end."""
    with database.engine.connect() as plain:
        connection = plain.execution_options(isolation_level="AUTOCOMMIT")
        try:
            for setting in (f"lock_timeout = '{LOCK_SECONDS}s'", "statement_timeout = 0"):
                connection.execute(text(f"SET {setting}"))
            yield connection
        finally:
            connection.invalidate()


def _collect_refusals(connection: Connection) -> list[str]:
    """What it does not do for want of a right PostgreSQL only warns of."""
    refused: list[str] = []
    driver: Any = connection.connection.driver_connection

    def note(notice: Any) -> None:
        if "permission denied" in (notice.message_primary or ""):
            refused.append(str(notice.message_primary))

    driver.add_notice_handler(note)
    return refused


def _check(refused: list[str]) -> None:
    if refused:
        raise ServiceUnavailableError(
            f"PostgreSQL refused: {'; '.join(refused)}. Have the owner of the database do it, with "
            "`textmill db vacuum`; until then its files hold what was removed"
        )


def _let_older_end(connection: Connection, deadline: float, on_wait: Callable[[str], None]) -> None:
    """Rows that an open transaction may still look at would be copied with the others."""
    until = str(connection.scalar(text("SELECT CAST(pg_current_xact_id() AS xid)")))
    told = False
    while older := list(connection.scalars(OLDER, {"until": until})):
        if not told:
            on_wait(f"older transactions to end: {', '.join(older)}")
            told = True
        _pause(deadline, f"older transactions to end: {', '.join(older)}")


def _forget_samples(connection: Connection) -> None:
    """What was sampled of a table stays, though it is analyzed, while the table has no rows."""
    version: Any = connection.dialect.server_version_info
    if version < CLEARS_SAMPLES:
        return
    tables = {**metadata.tables, **words_metadata.tables}
    for name in TABLES:
        for column in tables[name].columns:
            schema, inherited = func.current_schema(), literal(False)
            clear = func.pg_clear_attribute_stats(schema, name, column.name, inherited)
            connection.execute(select(clear))


def _rewrite(
    connection: Connection, what: str, deadline: float, on_wait: Callable[[str], None]
) -> None:
    told = False
    while True:
        try:
            connection.execute(text(f"VACUUM {what}"))
            return
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) != LOCK_NOT_AVAILABLE:
                raise
        if not told:
            on_wait(f"others to let go of {what.rpartition(' ')[2]}")
            told = True
        _pause(deadline, f"others to let go of {what.rpartition(' ')[2]}")


def _pause(deadline: float, what: str) -> None:
    if time.monotonic() > deadline:
        raise ServiceUnavailableError(
            f"gave up waiting for {what}; the files still hold what was removed. End them, or give "
            "the command again later"
        )
    time.sleep(PAUSE_SECONDS)
