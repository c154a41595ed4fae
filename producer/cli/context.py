"""What nearly every command opens: settings, database, publisher, and the job it is about."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy import Row

    from textmill.core.broker import Publisher
    from textmill.core.settings import Settings
    from textmill.db.session import Database


@dataclass(frozen=True, slots=True)
class Context:
    """The open database and how to publish."""

    settings: Settings
    database: Database
    publisher: Publisher

    def job(self, reference: str) -> Row[Any]:
        """The job's row; raises JobNotFoundError that offers the nearest ids."""
        from textmill.db.jobs import find_job

        with self.database.read() as connection:
            return find_job(connection, reference)


@contextmanager
def open_context(settings: Settings | None = None) -> Iterator[Context]:
    """The database with its schema looked at, and a publisher; for settings that were read.

    Without them they are read here, and the plugins that they name are loaded.
    """
    from textmill.core.broker import Publisher
    from textmill.core.settings import load_settings
    from textmill.core.tasks import load_plugins
    from textmill.db.schema import ensure_schema
    from textmill.db.session import Database
    from textmill.producer.terminal import say

    if settings is None:
        settings = load_settings()
        load_plugins(settings.plugins)
    database = Database.open(settings)
    publisher = Publisher(settings)
    try:
        ensure_schema(database, settings, lambda what: say(f"note: {what}"))
        yield Context(settings, database, publisher)
    finally:
        publisher.close()
        database.close()
