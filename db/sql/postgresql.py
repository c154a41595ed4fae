"""PostgreSQL that can only read: a cursor declared in a read-only transaction.

``DECLARE … CURSOR FOR`` takes one SELECT, VALUES or TABLE, also after WITH, and nothing else: what
follows it can be no COPY, DO, CALL or SET, by the server's own grammar. The extended protocol takes
one statement, so that none can follow. The transaction is READ ONLY, which a query cannot undo.
What its role may do by calling functions is limited only by the role: see docs/sql.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, cast

import psycopg
from psycopg import postgres
from psycopg.adapt import Loader
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus
from psycopg.types.string import TextLoader

from textmill.core.errors import QueryError, ServiceUnavailableError
from textmill.db.session import Database
from textmill.db.sql.advice import Tables, unknown_column, unknown_table
from textmill.db.sql.answer import Answer, Question
from textmill.db.sql.parameters import INTEGERS, number_parameters

LOCK_SECONDS = 5  # an answer waits so long for a table that is being changed
MAX_TIMEOUT = 2**31 - 1  # milliseconds, 24 days
FIRST_PAGE = 100  # rows
MAX_PAGE_ROWS = 5000
PAGE_CHARACTERS = 4 << 20  # that a page is to hold, as far as the rows before it tell
# All else comes as the server writes it, as from SQLite: no date that Python cannot hold fails.
LOADED = {"bool", "bytea", "float4", "float8", "int2", "int4", "int8", "numeric", "oid"}
READ_ONLY = "25006"
CANCELED = "57014"
LOCKED = "55P03"
FORBIDDEN = "42501"
UNKNOWN_COLUMN = "42703"
UNKNOWN_TABLE = "42P01"
NOT_DECLARED = {"42601", "42P11", "0A000"}  # syntax, invalid cursor, not supported
# Classes of states that are not the statement's fault: connection, resources, operator, system.
OUTAGES = ("08", "53", "57P", "58", "XX")
NO_ANSWER = (psycopg.OperationalError, psycopg.InterfaceError)  # without any state
SETTINGS = """
SELECT set_config('statement_timeout', %s, true), set_config('lock_timeout', %s, true),
       set_config('cursor_tuple_fraction', %s, true), set_config('DateStyle', 'ISO', true),
       set_config('bytea_output', 'hex', true)
"""
# A superuser's query runs as one who may read every table and do nothing more.
LOWER_ROLE = """
SELECT set_config('role', 'pg_read_all_data', true) FROM pg_roles
WHERE rolname = current_user AND rolsuper
  AND EXISTS (SELECT FROM pg_roles WHERE rolname = 'pg_read_all_data')
"""
TABLES = """
SELECT table_name, column_name FROM information_schema.columns
WHERE table_schema = ANY (current_schemas(false)) ORDER BY table_name, ordinal_position
"""


def ask_postgresql(url: str, question: Question) -> Answer:
    """Run the query in a session of its own."""
    statement, values = number_parameters(question.statement, question.params)
    reader = _Reader(url, question)
    try:
        names = reader.declare(statement, values)
    except BaseException:
        reader.close()
        raise
    return Answer(names, reader.rows(), reader.close, question.limit)


class _Reader:
    """A session that reads, and what is known when it fails."""

    def __init__(self, url: str, question: Question) -> None:
        self._question = question
        self._held, self._connection = _connect(url)
        self._cursor = psycopg.RawServerCursor(self._connection, "textmill", scrollable=False)

    def declare(self, statement: str, values: list[Any]) -> list[str]:
        """Begin the query; the names of its columns."""
        query = statement.encode()
        try:
            self._begin()
            self._cursor.execute(query, values)
        except psycopg.Error as error:
            raise self._explain(self._diagnosed(error, query)) from None
        return [column.name for column in self._cursor.description or ()]

    def rows(self) -> Iterator[tuple[Any, ...]]:
        size = FIRST_PAGE
        try:
            while page := self._cursor.fetchmany(size):
                yield from page
                size = _next_size(page)
        except psycopg.Error as error:
            raise self._explain(error) from None

    def close(self) -> None:
        self._held.close()
        self._cursor.close()

    def _begin(self) -> None:
        timeout = f"{min(MAX_TIMEOUT, round(self._question.timeout_seconds * 1000))}ms"
        wanted = "1" if self._question.limit is None else "0.1"  # plan for all rows, or the first
        with self._connection.cursor() as cursor:  # its first statement begins the transaction
            cursor.execute(SETTINGS, [timeout, f"{LOCK_SECONDS}s", wanted])
            cursor.execute(LOWER_ROLE)

    def _diagnosed(self, error: psycopg.Error, query: bytes) -> psycopg.Error:
        """What is wrong with the statement alone: it is parsed, not run.

        Nothing is wrong with one that DECLARE refused because it is no query.
        """
        if error.sqlstate not in NOT_DECLARED:
            return error
        self._connection.rollback()
        self._connection.execute("SELECT")  # begins a transaction, in which a parse sees tables
        parsed = self._connection.pgconn.prepare(b"", query)
        if parsed.status == ExecStatus.COMMAND_OK:
            return _NotAQueryError(error.diag.message_primary or "")
        return error_from_result(parsed)

    def _explain(self, error: psycopg.Error) -> Exception:
        state = error.sqlstate or ""
        words = error.diag.message_primary or str(error).strip()
        if isinstance(error, _NotAQueryError):
            words = f"it is no query ({words})"
        if isinstance(error, _NotAQueryError) or state == READ_ONLY:
            return QueryError(
                f"the connection is read-only and refused the statement: {words}; "
                "expected one query, such as SELECT …"
            )
        if state == CANCELED:
            return QueryError(
                f"the next rows took longer than {self._question.timeout_seconds:g} s ({words}); "
                "allow them more with --timeout SECONDS, or ask for less"
            )
        silent = not state and isinstance(error, NO_ANSWER)
        if silent or state == LOCKED or state.startswith(OUTAGES):
            return ServiceUnavailableError(f"the database did not answer: {words}")
        return QueryError(f"the database cannot run the statement: {words}{self._advice(error)}")

    def _advice(self, error: psycopg.Error) -> str:
        """The server's own hint, and what there is."""
        hint = f" ({error.diag.message_hint})" if error.diag.message_hint else ""
        if "multiple commands" in str(error):
            return "; expected one statement at a time"
        if error.sqlstate == FORBIDDEN:
            return f"{hint}; a superuser's statement runs with the rights of pg_read_all_data"
        named = re.search(r'(?:relation|column) "?([^" ]+)', error.diag.message_primary or "")
        if named is None or error.sqlstate not in (UNKNOWN_TABLE, UNKNOWN_COLUMN):
            return hint
        tables = self._tables()
        if error.sqlstate == UNKNOWN_TABLE:
            return unknown_table(named[1], tables)
        return unknown_column(named[1], self._question.statement, tables)

    def _tables(self) -> Tables:
        self._connection.rollback()
        tables: dict[str, list[str]] = {}
        for table, column in self._connection.execute(TABLES):
            tables.setdefault(table, []).append(column)
        return tables


class _NotAQueryError(psycopg.ProgrammingError):
    """One statement that is right, and no query."""


class _NumericLoader(Loader):
    """A number without a point as int, any other as float; one that is too large as text."""

    def load(self, data: Any) -> int | float | str:
        text = bytes(data).decode()
        if not text.lstrip("-").isdigit():
            return float(text)
        return int(text) if int(text) in INTEGERS else text


def _next_size(page: list[tuple[Any, ...]]) -> int:
    """How many rows like these make a page."""
    held = sum(len(value) for row in page for value in row if isinstance(value, str | bytes))
    return max(1, min(MAX_PAGE_ROWS, PAGE_CHARACTERS * len(page) // max(1, held)))


def _read_plainly(connection: psycopg.Connection[Any]) -> None:
    connection.rollback()
    connection.read_only = True
    for info in postgres.types:
        if info.name not in LOADED:
            connection.adapters.register_loader(info.oid, TextLoader)
        connection.adapters.register_loader(info.array_oid, TextLoader)
    connection.adapters.register_loader("numeric", _NumericLoader)


def _connect(url: str) -> tuple[ExitStack, psycopg.Connection[Any]]:
    """A read-only session from an engine, which reads the URL; and what closes them."""
    with ExitStack() as held:
        database = Database(url, pool_size=1)
        held.callback(database.close)
        pooled = held.enter_context(database.read())
        held.callback(pooled.invalidate)  # ends the session, in whatever state it is
        connection = cast("psycopg.Connection[Any]", pooled.connection.driver_connection)
        _read_plainly(connection)
        return held.pop_all(), connection
