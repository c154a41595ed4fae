"""A person's own SQL, answered by a connection that can only read.

Nothing here decides by the words of a statement whether it may run: the connection and the server
do (``sqlite.py``, ``postgresql.py``). Printing and writing the rows is left to the producer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from textmill.core.errors import ConfigurationError, QueryError
from textmill.core.settings import Settings
from textmill.db.sql.answer import Answer, Question
from textmill.db.sql.parameters import check_text
from textmill.db.sql.postgresql import ask_postgresql
from textmill.db.sql.sqlite import ask_sqlite

TIMEOUT_SECONDS = 60.0

__all__ = ["TIMEOUT_SECONDS", "Answer", "ask"]


def ask(
    settings: Settings,
    statement: str,
    params: Mapping[str, Any] | None = None,
    *,
    timeout_seconds: float = TIMEOUT_SECONDS,
    limit: int | None = None,
) -> Answer:
    """Run one query; its rows are read as they are asked for.

    ``params`` are bound to ``:name``. ``timeout_seconds`` is how long the next rows may take, 0:
    as long as they want. At most ``limit`` rows are given. Raises QueryError if the statement is
    wrong or would do anything but read, ServiceUnavailableError if the database is away; so does
    the answer while it is read.
    """
    if not timeout_seconds >= 0 or math.isinf(timeout_seconds):
        raise QueryError(
            f"the timeout is {timeout_seconds:g} s; expected seconds from 0 (no limit)"
        )
    question = Question(_checked(statement), dict(params or {}), timeout_seconds, limit)
    url = settings.read_database_url
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # its message may hold a piece of the password
        parsed = None
    if parsed is None or parsed.get_backend_name() != "sqlite":
        return ask_postgresql(url, question)  # which says what is wrong with a URL of no use
    if not parsed.database:
        raise ConfigurationError(f"the database URL {url} names no file, so there is no data in it")
    return ask_sqlite(Path(parsed.database).absolute(), question)


def _checked(statement: str) -> str:
    if not statement.strip():
        raise QueryError('the statement is empty; expected one query, such as "SELECT * FROM jobs"')
    check_text(statement, "the statement")
    return statement
