"""SQLite that can only read: a read-only file, and an authorizer that knows nothing but reading.

The authorizer (https://www.sqlite.org/c3ref/set_authorizer.html) is asked while a statement is
compiled, for each thing that it would do; what is not on the list is refused before anything runs.
``mode=ro`` and ``query_only`` are two further locks on the same door.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from textmill.core.errors import QueryError, ServiceUnavailableError
from textmill.core.folders import folder_problem
from textmill.db.sql.advice import Tables, unknown_column, unknown_table
from textmill.db.sql.answer import Answer, Question
from textmill.db.sql.parameters import named_parameters

STEPS = 20_000  # of SQLite's machine between two looks at the clock and at Ctrl-C: about 1 ms
PRAGMAS = (
    "PRAGMA busy_timeout = 15000",
    "PRAGMA query_only = ON",
    "PRAGMA cache_size = -65536",
    "PRAGMA temp_store = FILE",  # a sort of ten million rows must not fill the memory
)
ALLOWED = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE}
ALLOWED_PRAGMAS = {  # they tell something; data_version is read by FTS5
    *("collation_list", "compile_options", "data_version", "database_list", "function_list"),
    *("index_info", "index_list", "index_xinfo", "table_info", "table_list", "table_xinfo"),
}
# So SQLite calls it that json_each or a full-text index declares its columns. A statement's own
# UPDATE of the schema is refused by SQLite itself, unless a pragma is set that is not allowed here.
DECLARES = (sqlite3.SQLITE_UPDATE, "sqlite_master")
REFUSED_FUNCTIONS = {"load_extension", "fts3_tokenizer"}
ACTIONS = {
    value: name.removeprefix("SQLITE_").replace("_", " ")
    for name, value in vars(sqlite3).items()
    if name.startswith(("SQLITE_CREATE_", "SQLITE_DROP_", "SQLITE_ALTER_"))
    or name in ("SQLITE_INSERT", "SQLITE_UPDATE", "SQLITE_DELETE", "SQLITE_PRAGMA")
    or name in ("SQLITE_ATTACH", "SQLITE_DETACH", "SQLITE_TRANSACTION", "SQLITE_SAVEPOINT")
    or name in ("SQLITE_REINDEX", "SQLITE_ANALYZE", "SQLITE_FUNCTION")
}
# Not the statement's fault: https://www.sqlite.org/rescode.html
OUTAGES = {
    *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOTADB),
    *(sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_NOMEM),
    *(sqlite3.SQLITE_PERM, sqlite3.SQLITE_PROTOCOL),
}
TABLES = """
    SELECT m.name, c.name FROM sqlite_master AS m, pragma_table_info(m.name) AS c
    WHERE m.type IN ('table', 'view') AND m.name NOT LIKE 'sqlite\\_%' ESCAPE '\\'
      AND NOT EXISTS (  -- the tables that a full-text index keeps for itself
        SELECT 1 FROM sqlite_master AS v
        WHERE v.sql LIKE 'CREATE VIRTUAL %' AND m.name LIKE v.name || '\\_%' ESCAPE '\\')
    ORDER BY m.name, c.cid
"""


def ask_sqlite(file: Path, question: Question) -> Answer:
    """Run the query on the file, which is never written."""
    params = named_parameters(question.statement, question.params)
    reader = _Reader(file, question)
    try:
        cursor = reader.execute(params)
        names = [column[0] for column in cursor.description or ()]
        if not names:
            raise QueryError("the statement gives no rows; expected one query, such as SELECT …")
    except BaseException:
        reader.close()
        raise
    return Answer(names, reader.rows(cursor), reader.close, question.limit)


class _Reader:
    """A connection that reads, and what is known when it fails."""

    def __init__(self, file: Path, question: Question) -> None:
        self._file = file
        self._question = question
        self._refused = ""
        self._until = float("inf")
        self._state: object = None  # of a file that is read as if nobody could change it
        self._connection = self._open()
        self._connection.set_authorizer(self._authorize)
        self._connection.set_progress_handler(self._is_late, STEPS)

    def execute(self, params: dict[str, Any]) -> sqlite3.Cursor:
        with self._explained():
            self._restart()
            return self._connection.execute(self._question.statement, params)

    def rows(self, cursor: sqlite3.Cursor) -> Iterator[tuple[Any, ...]]:
        with self._explained():
            while True:
                self._restart()  # the time that the caller took for the last row does not count
                row = cursor.fetchone()
                if row is None:
                    break
                yield row
        if self._state is not None and self._state != _state_of(self._file):
            raise ServiceUnavailableError(
                f"{self._file} changed while it was read, and the rows may not fit together; "
                "ask again"
            )

    def close(self) -> None:
        self._connection.close()

    def _open(self) -> sqlite3.Connection:
        if not self._file.exists():
            raise ServiceUnavailableError(
                f"there is no database yet at {self._file}; `textmill submit` or `textmill run` "
                "makes it, TEXTMILL_HOME and TEXTMILL_DATABASE_URL name another"
            )
        try:
            return _connect(self._file)
        except sqlite3.Error as error:
            problem = folder_problem(self._file.parent)
            log = self._file.with_name(self._file.name + "-wal")
            if problem is None or (log.exists() and log.stat().st_size):
                raise self._outage(error) from None
        # SQLite needs its log's index even to read, and cannot make it here. Without a log the
        # file is whole as it is; what another user writes meanwhile is found out at the end.
        self._state = _state_of(self._file)
        try:
            return _connect(self._file, "&immutable=1")
        except sqlite3.Error as error:
            raise self._outage(error) from None

    def _restart(self) -> None:
        if self._question.timeout_seconds:
            self._until = time.monotonic() + self._question.timeout_seconds

    def _is_late(self) -> bool:
        # A Ctrl-C is raised in here, where SQLite takes it for a wish to interrupt.
        return time.monotonic() > self._until

    def _authorize(
        self, action: int, first: str | None, second: str | None, database: object, by: object
    ) -> int:
        if action in ALLOWED:
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_FUNCTION and str(second).lower() not in REFUSED_FUNCTIONS:
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_PRAGMA and str(first).lower() in ALLOWED_PRAGMAS:
            return sqlite3.SQLITE_OK
        if (action, first) == DECLARES:
            return sqlite3.SQLITE_OK
        what = second if action == sqlite3.SQLITE_FUNCTION else first
        self._refused = f"{ACTIONS.get(action, 'action ' + str(action))} {what or ''}".strip()
        return sqlite3.SQLITE_DENY

    @contextmanager
    def _explained(self) -> Iterator[None]:
        self._refused = ""
        try:
            yield
        except (sqlite3.Error, sqlite3.Warning, OverflowError) as error:
            raise self._explain(error) from None

    def _explain(self, error: Exception) -> BaseException:
        code = getattr(error, "sqlite_errorcode", None)
        plain = None if code is None else code & 0xFF
        if plain == sqlite3.SQLITE_INTERRUPT:
            if time.monotonic() <= self._until:
                return KeyboardInterrupt()
            return QueryError(
                f"the next row took longer than {self._question.timeout_seconds:g} s; allow it "
                "more with --timeout SECONDS, or ask for less"
            )
        if self._refused or plain in (sqlite3.SQLITE_AUTH, sqlite3.SQLITE_READONLY):
            what = f" ({self._refused})" if self._refused else ""
            return QueryError(
                f"the connection is read-only and refused the statement: {error}{what}; "
                "expected one query, such as SELECT …"
            )
        if plain in OUTAGES:
            return self._outage(error)
        return QueryError(f"the database cannot run the statement: {error}{self._advice(error)}")

    def _advice(self, error: Exception) -> str:
        kind, _, name = str(error).partition(": ")
        if kind == "no such table":
            return unknown_table(name, self._tables())
        if kind == "no such column":
            return unknown_column(name, self._question.statement, self._tables())
        return ""

    def _tables(self) -> Tables:
        self._restart()
        tables: dict[str, list[str]] = {}
        for table, column in self._connection.execute(TABLES):
            tables.setdefault(table, []).append(column)
        return tables

    def _outage(self, error: Exception) -> ServiceUnavailableError:
        problem = folder_problem(self._file.parent)
        return ServiceUnavailableError(
            f"the database {self._file} cannot be read: {error}"
            + (f" ({problem})" if problem else "")
        )


def _connect(file: Path, more: str = "") -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"file:{quote(str(file))}?mode=ro{more}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,  # an answer that nobody holds is closed by whoever finds it
    )
    connection.text_factory = _decode
    try:
        for pragma in PRAGMAS:
            connection.execute(pragma)
        connection.execute("SELECT 1 FROM sqlite_master").fetchone()  # opens the file, and its log
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _decode(data: bytes) -> str:
    return data.decode(errors="replace")  # a CAST of bytes need not be UTF-8


def _state_of(file: Path) -> object:
    found = file.stat()
    log = file.with_name(file.name + "-wal")
    return found.st_mtime_ns, found.st_size, log.exists() and log.stat().st_size
