"""Opening the database: one `Database` a process, short transactions, bounded retries.

The same code runs on SQLite and PostgreSQL; connections (with ``postgresql.py``), transactions and
errors differ here, the rest of what differs is ``clock.py``, the bulk write, the upsert of label
counts and two conditions (``filters.py``, ``extra_values.py``).
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import orjson
from sqlalchemy import Connection, Engine, ExceptionContext, create_engine, event, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    DBAPIError,
    NoSuchModuleError,
    OperationalError,
)

from textmill.core.errors import ConfigurationError, NoSpaceError, ServiceUnavailableError
from textmill.core.folders import folder_problem
from textmill.core.settings import Settings
from textmill.db.extra_values import SQLITE_FUNCTION, has_value
from textmill.db.postgresql import CONNECT_ARGS, bound_transactions
from textmill.db.sqlite_log import SqliteLog

P = ParamSpec("P")
R = TypeVar("R")

RETRIED_SQLSTATES = {"40001", "40P01", "55P03"}  # serialization, deadlock, lock not available
READ_ONLY_SQLSTATE = "25006"
# The server ended the session: it was idle inside a transaction, or that took too long.
ENDED_SQLSTATES = {"25P03", "25P04"}
RETRIES = 8
SQLITE_OLDEST = (3, 38, 0)  # which has the operators -> and ->> of the views
PRAGMA_TRIES = 100
SQLITE_INDEX_BYTES = 32 << 10  # https://www.sqlite.org/walformat.html#the_wal_index_file_format
SQLITE_FILE_ERRORS = ("unable to open database file", "readonly database", "disk I/O error")
MEND_FOLDER = "mend that, or set TEXTMILL_HOME or TEXTMILL_DATABASE_URL to another place"
SQLITE_PRAGMAS = (  # busy_timeout first: setting WAL on a busy file would fail otherwise
    "PRAGMA busy_timeout = 15000",
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = NORMAL",
    "PRAGMA cache_size = -65536",
    "PRAGMA wal_autocheckpoint = 4000",
    "PRAGMA temp_store = MEMORY",
)


class Database:
    """A connection pool and the way transactions are run on it."""

    def __init__(
        self, url: str, *, pool_size: int = 5, transaction_seconds: float | None = None
    ) -> None:
        self.url = url
        self.engine = _make_engine(url, pool_size, transaction_seconds)
        self.is_sqlite = self.engine.dialect.name == "sqlite"
        file = self.engine.url.database if self.is_sqlite else None
        self._log = SqliteLog(file) if file else None

    @classmethod
    def open(
        cls, settings: Settings, *, pool_size: int = 5, transaction_seconds: float | None = None
    ) -> Database:
        """The database the settings name; ``schema.ensure_schema`` looks at its tables.

        ``transaction_seconds`` bounds each transaction on PostgreSQL. Workers set it below the
        lease: one that is stopped inside a transaction must not block the chunk's new owner.
        """
        return cls(
            settings.effective_database_url,
            pool_size=pool_size,
            transaction_seconds=transaction_seconds,
        )

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A read transaction; keep it short, SQLite cannot reset its log under a long one."""
        with self._explained(), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A write transaction, committed on leaving; not retried, so prefer ``transact``."""
        with (
            self._explained(),
            self.engine.connect().execution_options(textmill_write=True) as connection,
            connection.begin(),
        ):
            yield connection

    def transact(
        self,
        change: Callable[Concatenate[Connection, P], R],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R:
        """Run ``change(connection, …)`` in a write transaction; again after a deadlock.

        Raises ServiceUnavailableError if the database cannot be reached or refuses the write.
        """
        for retry in range(RETRIES):
            try:
                with self.engine.connect().execution_options(textmill_write=True) as connection:
                    with connection.begin():
                        result = change(connection, *args, **kwargs)
                    if self._log is not None:
                        self._log.bound(connection)
                return result
            except DBAPIError as error:
                if not _may_retry(error) or retry == RETRIES - 1:
                    with self._explained():
                        raise
                time.sleep(random.uniform(0, 0.01 * 2**retry))
        raise AssertionError("unreachable")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            explained = explain(error, self.url)
            if explained is error:
                raise  # not from itself: printers of tracebacks would go round for ever
            raise explained from error

    def close(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()


def _make_engine(url: str, pool_size: int, transaction_seconds: float | None) -> Engine:
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
        if backend not in ("sqlite", "postgresql"):
            raise ConfigurationError(
                f"TEXTMILL_DATABASE_URL names the database {backend!r}; "
                "expected sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME"
            )
        options: dict[str, Any] = {
            "pool_size": pool_size,
            "max_overflow": 10,
            "hide_parameters": True,  # in its errors, which may be logged
            "json_serializer": lambda value: orjson.dumps(value).decode(),
            "json_deserializer": orjson.loads,
        }
        if backend == "postgresql":
            options |= {"pool_pre_ping": True, "connect_args": CONNECT_ARGS}
        engine = create_engine(parsed, **options)
    except (ArgumentError, NoSuchModuleError) as error:
        raise ConfigurationError(f"TEXTMILL_DATABASE_URL is no database URL: {error}") from None
    except ValueError:  # its message may hold a piece of the password
        raise ConfigurationError(
            "TEXTMILL_DATABASE_URL is no database URL: its port is no number; "
            "expected postgresql://USER:PASSWORD@HOST:PORT/NAME"
        ) from None
    if backend == "sqlite":
        _prepare_sqlite(engine)
    else:
        bound_transactions(engine, transaction_seconds)
    return engine


def _prepare_sqlite(engine: Engine) -> None:
    if sqlite3.sqlite_version_info < SQLITE_OLDEST:
        raise ConfigurationError(
            f"this Python has SQLite {sqlite3.sqlite_version}, and Textmill needs "
            f"{'.'.join(map(str, SQLITE_OLDEST))} or newer; take a newer Python, or set "
            "TEXTMILL_DATABASE_URL to a PostgreSQL database"
        )
    if engine.url.database:
        _make_folder(Path(engine.url.database).parent)
    _heal_connections(engine)

    @event.listens_for(engine, "connect")
    def _connect(connection: sqlite3.Connection, record: Any) -> None:
        connection.isolation_level = None  # BEGIN is ours: see _begin
        try:
            for pragma in SQLITE_PRAGMAS:
                _execute_pragma(connection, pragma)
            connection.create_function(SQLITE_FUNCTION, 3, has_value, deterministic=True)
        except sqlite3.Error:
            connection.close()  # while it is open, others of this process share its read-only state
            raise

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A transaction that reads first and writes later cannot wait for another writer: it fails
        # with SQLITE_BUSY at once. Writers therefore take the lock at the start.
        write = connection.get_execution_options().get("textmill_write")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # it holds texts
    except OSError as error:
        problem = folder_problem(folder) or error.strerror
        raise ServiceUnavailableError(
            f"the database's folder {folder} cannot be made: {problem}; {MEND_FOLDER}"
        ) from error


def _heal_connections(engine: Engine) -> None:
    """Decide after an error which of SQLite's connections are of use again."""

    @event.listens_for(engine, "handle_error")
    def _give_up(context: ExceptionContext) -> None:
        # A file that was opened while its disk was read-only stays so in that connection, also
        # when the disk has healed: the pool must open it anew.
        if _is_file_error(context.original_exception):
            context.is_disconnect = True
            execution = context.execution_context
            if execution is not None:  # an open statement would keep the closed connection's file
                execution.cursor.close()

    @event.listens_for(engine, "handle_error")
    def _keep_interrupted(context: ExceptionContext) -> None:
        # After Ctrl-C in a statement SQLAlchemy would close the connection, and SQLite keeps the
        # lock of a closed one until the last cursor is gone, which the traceback holds. A
        # connection that stays is rolled back as after any error.
        if not isinstance(context.original_exception, Exception):
            context.is_disconnect = False


def _execute_pragma(connection: sqlite3.Connection, pragma: str) -> None:
    """Run a pragma; two processes that switch a new file to WAL at once ignore busy_timeout."""
    for _ in range(PRAGMA_TRIES):
        try:
            connection.execute(pragma)
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
            time.sleep(0.05)
        else:
            return
    connection.execute(pragma)


def _may_retry(error: DBAPIError) -> bool:
    if getattr(error.orig, "sqlstate", None) in RETRIED_SQLSTATES:
        return True
    return isinstance(error.orig, sqlite3.OperationalError) and "locked" in str(error.orig)


def explain(error: DBAPIError, url: str) -> Exception:
    """A ServiceUnavailableError for what the operator must mend; any other error as it is."""
    reason = str(error.orig).strip().split("\n")[0]
    where = make_url(url).render_as_string(hide_password=True)
    problem = _file_problem(error, url)
    if problem is not None:
        return ServiceUnavailableError(
            f"the database {where} cannot be opened or written: {problem} ({reason}); {MEND_FOLDER}"
        )
    if _is_full(error, url):
        return NoSpaceError(
            f"the database {where} has no space left ({reason}); free some and try again"
        )
    if _is_read_only(error):
        return ServiceUnavailableError(
            f"the database {where} takes no writes ({reason}); make it writable and try again"
        )
    if _is_outage(error):
        return ServiceUnavailableError(
            f"the database {where} does not answer or refused: {reason}; "
            "check TEXTMILL_DATABASE_URL and `textmill doctor`"
        )
    return error


def _is_outage(error: DBAPIError) -> bool:
    # Without a statement it failed to connect. DatabaseError itself: the file is none, or damaged.
    no_connection = error.connection_invalidated or error.statement is None
    ended = getattr(error.orig, "sqlstate", None) in ENDED_SQLSTATES
    damaged = type(error) is DatabaseError
    return no_connection or ended or damaged or isinstance(error, OperationalError)


def _is_read_only(error: DBAPIError) -> bool:
    """A standby, or a server whose ``default_transaction_read_only`` is on."""
    return getattr(error.orig, "sqlstate", None) == READ_ONLY_SQLSTATE


def _is_file_error(error: BaseException | None) -> bool:
    return isinstance(error, sqlite3.OperationalError) and any(
        words in str(error) for words in SQLITE_FILE_ERRORS
    )


def _file_problem(error: DBAPIError, url: str) -> str | None:
    """What keeps SQLite from its file: it needs to write beside it, even to read."""
    file = make_url(url).database
    if not _is_file_error(error.orig) or not file:
        return None
    path = Path(file).absolute()
    problem = folder_problem(path.parent)
    if problem is not None:
        return problem
    if path.is_dir():
        return f"{path} is a folder, not a file"
    return f"this user may not write {path}" if not os.access(path, os.W_OK) else None


def _is_full(error: DBAPIError, url: str) -> bool:
    state = getattr(error.orig, "sqlstate", None)
    if state == "53100" or "database or disk is full" in str(error.orig):
        return True
    # SQLite does not say so where it has no room for the index of its log.
    folder = Path(make_url(url).database or "").absolute().parent
    unsaid = _is_file_error(error.orig) and folder.is_dir()
    return unsaid and shutil.disk_usage(folder).free < SQLITE_INDEX_BYTES
