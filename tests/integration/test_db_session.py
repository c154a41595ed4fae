"""Opening the database: what is retried, and what an operator reads when something is wrong."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event, insert, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from textmill.core.errors import ConfigurationError, ServiceUnavailableError
from textmill.core.settings import load_settings
from textmill.db import postgresql as postgresql_limits
from textmill.db.clock import now
from textmill.db.models import jobs, sweeps
from textmill.db.results import ResultRow, write_results
from textmill.db.session import RETRIES, Database

from .. import builders
from ..builders import at_once, make_job, open_database, put, snapshot, with_tables
from ..servers import PASSWORD, PostgresServer, free_port, wait_until

# Fixtures; imported by name, they would be redefined by every test's parameter.
tables_url = builders.tables_url
postgresql = builders.postgresql
database = builders.database


def connect(url: str) -> None:
    database = Database.open(load_settings(database_url=url))
    try:
        with database.read() as connection:
            connection.execute(text("SELECT 1"))
    finally:
        database.close()


def test_an_old_sqlite_is_said_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 37, 2))
    monkeypatch.setattr(sqlite3, "sqlite_version", "3.37.2")
    with pytest.raises(ConfigurationError, match=r"SQLite 3\.37\.2.*needs 3\.38\.0 or newer"):
        connect(f"sqlite:///{tmp_path / 'textmill.db'}")
    assert list(tmp_path.iterdir()) == []


def test_a_deadlock_is_retried_until_both_changes_are_made(postgresql: Database) -> None:
    first, second = make_job(postgresql), make_job(postgresql)
    both_hold_one = threading.Barrier(2, timeout=20)
    attempts: list[str] = []

    def rename(connection: Connection, name: str, *order: str) -> None:
        connection.execute(text("SET LOCAL deadlock_timeout = '20ms'"))
        attempts.append(name)
        for job_id in order:
            connection.execute(update(jobs).where(jobs.c.id == job_id).values(name=name))
            if attempts.count(name) == 1 and job_id == order[0]:
                both_hold_one.wait()

    assert at_once(
        lambda: postgresql.transact(rename, "a", first, second),
        lambda: postgresql.transact(rename, "b", second, first),
    ) == [None, None]
    assert len(attempts) > 2, "nobody met the deadlock"
    with postgresql.read() as connection:
        assert len(set(connection.scalars(select(jobs.c.name)))) == 1


def test_a_change_that_always_meets_a_lock_gives_up_with_a_clear_error(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("textmill.db.session.time.sleep", lambda seconds: None)
    attempts = []

    def wait_for_lock(connection: Connection) -> None:
        attempts.append(1)
        connection.execute(text("SET LOCAL lock_timeout = '5ms'"))
        connection.execute(text("LOCK TABLE held"))

    with open_database(postgres_url) as database:
        with database.write() as connection:
            connection.execute(text("CREATE TABLE held (id int)"))
        with database.write() as holder:
            holder.execute(text("LOCK TABLE held"))
            with pytest.raises(ServiceUnavailableError, match="lock timeout"):
                database.transact(wait_for_lock)
    assert len(attempts) == RETRIES


def test_a_locked_sqlite_file_is_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "textmill.db"
    for database in with_tables(f"sqlite:///{path}"):
        database.engine.dispose()
        event.listen(
            database.engine, "connect", lambda raw, _: raw.execute("PRAGMA busy_timeout = 1")
        )
        other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        other.execute("BEGIN IMMEDIATE")
        refused: list[str] = []

        def free(context: Any, refused: list[str] = refused, other: Any = other) -> None:
            refused.append(str(context.original_exception))
            other.execute("ROLLBACK")

        event.listen(database.engine, "handle_error", free)
        database.transact(lambda connection: connection.execute(update(sweeps).values(swept_at=5)))
        other.close()
        assert refused == ["database is locked"]


def test_other_errors_are_not_retried_and_leave_nothing(database: Database) -> None:
    attempts = []

    def insert_twice(connection: Connection) -> None:
        attempts.append(1)
        connection.execute(insert(sweeps).values(name="new", swept_at=0))
        connection.execute(insert(sweeps).values(name="new", swept_at=0))

    before = snapshot(database)
    with pytest.raises(IntegrityError) as caught:
        database.transact(insert_twice)
    assert len(attempts) == 1
    assert snapshot(database) == before
    # An error that is its own cause sends printers of tracebacks round for ever.
    assert caught.value.__cause__ is not caught.value


def test_an_error_of_the_bulk_write_is_an_error_of_the_database_like_any_other(
    database: Database,
) -> None:
    job_id = make_job(database)
    before = snapshot(database)
    with pytest.raises(IntegrityError):
        database.transact(write_results, job_id, [ResultRow(0, "a"), ResultRow(0, "b")])
    with pytest.raises(IntegrityError), database.write() as connection:
        write_results(connection, job_id, [ResultRow(0, "a"), ResultRow(0, "b")])
    assert snapshot(database) == before


def test_a_bulk_write_that_waits_too_long_for_a_lock_is_tried_again(postgresql: Database) -> None:
    job_id = make_job(postgresql)
    attempts = []

    def write(connection: Connection) -> None:
        attempts.append(1)
        if len(attempts) > 1:
            holder.rollback()
        connection.execute(text("SET LOCAL lock_timeout = '20ms'"))
        write_results(connection, job_id, [ResultRow(0, "a")])

    with postgresql.engine.connect() as holder:
        holder.execute(text("LOCK TABLE results"))
        postgresql.transact(write)
    assert len(attempts) == 2


def test_time_goes_on_inside_a_transaction(database: Database) -> None:
    with database.write() as connection:
        start = connection.scalar(select(now()))
        assert start is not None
        wait_until(lambda: connection.scalar(select(now())) > start, what="later")


def test_time_is_in_seconds_since_1970_in_utc(database: Database) -> None:
    query = {"sqlite": "strftime('%s', 'now')", "postgresql": "extract(epoch FROM now())"}
    with database.read() as connection:
        expected = connection.scalar(text(f"SELECT {query[connection.dialect.name]}"))
        found = connection.scalar(select(now()))
    assert float(expected) == pytest.approx(found, abs=2)


def test_a_read_sees_one_moment_and_does_not_stop_a_writer(tmp_path: Path) -> None:
    for database in with_tables(f"sqlite:///{tmp_path / 'textmill.db'}"):
        with database.read() as reader:
            assert reader.scalar(select(sweeps.c.swept_at)) == 0
            put(database, sweeps, sweeps.c.name == "sweep", swept_at=9)
            assert reader.scalar(select(sweeps.c.swept_at)) == 0


def test_writers_of_one_sqlite_file_that_read_first_wait_for_each_other(tmp_path: Path) -> None:
    attempts = []

    def add_one(connection: Connection) -> None:
        attempts.append(1)
        found = connection.scalar(select(sweeps.c.swept_at))
        connection.execute(update(sweeps).values(swept_at=(found or 0) + 1))

    for database in with_tables(f"sqlite:///{tmp_path / 'textmill.db'}"):
        results = at_once(*[lambda it=database: it.transact(add_one) for _ in range(8)])
        assert results == [None] * 8
        assert len(attempts) == 8, "one was refused, and had to be tried again"
        with database.read() as connection:
            assert connection.scalar(select(sweeps.c.swept_at)) == 8


def test_a_worker_that_stops_inside_a_transaction_blocks_nobody_for_long(postgres_url: str) -> None:
    with open_database(postgres_url, transaction_seconds=0.5) as database:
        with database.read() as connection:
            for name in ("lock_timeout", "idle_in_transaction_session_timeout"):
                assert connection.scalar(text(f"SHOW {name}")) == "500ms"
            assert connection.scalar(text("SHOW transaction_timeout")) == "500ms"
        with pytest.raises(ServiceUnavailableError, match="timeout"), database.write() as writer:
            writer.execute(text("SELECT pg_sleep(5)"))


def test_a_command_that_stops_inside_a_transaction_does_not_hold_its_locks_for_ever(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-Z, say: its connection lives, so nothing else would end it."""
    monkeypatch.setattr(postgresql_limits, "IDLE_SECONDS", 1)
    with open_database(postgres_url) as database, open_database(postgres_url) as other:
        with pytest.raises(ServiceUnavailableError, match="idle"), database.write() as command:
            pid = command.scalar(text("SELECT pg_backend_pid() FROM pg_sleep(1.5)"))  # not idle
            sessions = text("SELECT count(*) FROM pg_stat_activity WHERE pid = :pid")

            def is_ended() -> bool:
                with other.read() as connection:
                    return connection.scalar(sessions, {"pid": pid}) == 0

            assert not is_ended()
            wait_until(is_ended, 30, what="ended")
            command.execute(text("SELECT 1"))
        with database.write() as command:
            command.execute(text("SELECT 1"))


def test_a_wrong_password_is_told_without_the_password(postgres: PostgresServer) -> None:
    url = postgres.url().replace(PASSWORD, "wrong-word")
    with pytest.raises(ServiceUnavailableError, match="password authentication failed") as caught:
        connect(url)
    assert "wrong-word" not in str(caught.value)
    assert "textmill doctor" in str(caught.value)


def test_a_server_that_is_away_is_told_without_the_password() -> None:
    with pytest.raises(ServiceUnavailableError, match="does not answer") as caught:
        connect(f"postgresql://me:{PASSWORD}@127.0.0.1:{free_port()}/x")
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        f"mysql://me:{PASSWORD}@host/x",
        f"postgresql+nodriver://me:{PASSWORD}@host/x",
        f"postgresql//me:{PASSWORD}@host",
        f"postgresql://me:{PASSWORD}",  # what comes after the colon is read as a port
        f"postgresql://me:{PASSWORD}@host:port/x",
        "textmill.db",
        "",
    ],
)
def test_a_url_that_is_none_names_its_setting_and_no_password(url: str) -> None:
    with pytest.raises(ConfigurationError, match="TEXTMILL_DATABASE_URL") as caught:
        connect(url)
    assert PASSWORD not in str(caught.value)


def test_an_option_in_the_url_that_no_driver_knows_is_told_without_the_password() -> None:
    with pytest.raises(ServiceUnavailableError, match="no_such_option") as caught:
        connect(f"postgresql://me:{PASSWORD}@host/x?no_such_option=1")
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize("content", ["no database " * 100, "SQLite format 3\0" + "x" * 4080])
def test_a_file_that_is_no_database_is_told_by_its_name(tmp_path: Path, content: str) -> None:
    path = tmp_path / "notes.txt"
    path.write_text(content)
    with pytest.raises(ServiceUnavailableError, match=r"notes\.txt.*not a database"):
        connect(f"sqlite:///{path}")
    assert path.read_text() == content


def test_a_folder_that_cannot_be_made_is_told_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ServiceUnavailableError, match="file"):
        connect(f"sqlite:///{tmp_path / 'file' / 'sub' / 'textmill.db'}")


def test_a_server_that_ends_a_connection_is_told_and_the_next_try_connects_anew(
    postgresql: Database,
) -> None:
    with pytest.raises(ServiceUnavailableError), postgresql.write() as connection:
        connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
    with postgresql.read() as connection:
        assert connection.scalar(text("SELECT 1")) == 1


def test_a_full_database_is_told_and_the_write_leaves_nothing(tmp_path: Path) -> None:
    for database in with_tables(f"sqlite:///{tmp_path / 'textmill.db'}"):
        job_id = make_job(database)
        limit_pages(database)
        before = snapshot(database)
        rows = [ResultRow(n, "x" * 4000) for n in range(100)]
        with pytest.raises(ServiceUnavailableError, match="no space left"):
            database.transact(write_results, job_id, rows)
        assert snapshot(database) == before
        database.transact(write_results, job_id, [ResultRow(0, "small")])


def limit_pages(database: Database, more: int = 20) -> None:
    """Let the SQLite file grow by only so many pages from here on."""
    with database.read() as connection:
        pages = connection.scalar(text("PRAGMA page_count")) + more
    database.engine.dispose()
    event.listen(
        database.engine,
        "connect",
        lambda raw, _: raw.execute(f"PRAGMA max_page_count = {pages}").close(),
    )


def test_a_programming_error_is_not_called_an_outage(postgresql: Database) -> None:
    with pytest.raises(DBAPIError), postgresql.read() as connection:
        connection.execute(text("SELECT nothing_of_this_name"))


def test_an_interrupted_statement_does_not_hold_the_lock(tmp_path: Path) -> None:
    long = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500000) "
        "INSERT INTO numbers SELECT i FROM n WHERE ?"
    )

    def fill(connection: Connection) -> None:
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
        for _ in range(100):
            connection.exec_driver_sql(long, [(1,), (2,)])

    database = Database(f"sqlite:///{tmp_path}/a.db")
    database.transact(lambda connection: connection.exec_driver_sql("CREATE TABLE numbers (n)"))
    with pytest.raises(KeyboardInterrupt) as caught:
        database.transact(fill)
    with closing(sqlite3.connect(f"{tmp_path}/a.db", timeout=0)) as other:
        other.execute("BEGIN IMMEDIATE")  # locked if not
        assert other.execute("SELECT count(*) FROM numbers").fetchone() == (0,)
    assert caught.traceback  # kept until here, as a caller that handles it does
    database.close()
