"""Which schema the database has, and bringing it to the one this version needs (Alembic)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sqlalchemy import inspect, text

from textmill.core.errors import ServiceUnavailableError
from textmill.core.settings import Settings
from textmill.db.session import Database
from textmill.db.views import drop_views, make_views

HEAD = "0004"  # the newest file in migrations/versions; a test holds it to that
UPGRADE_LOCK = 7_463_782  # any number, the same in every process: one upgrades at a time
DURATION = "with a million results that takes some 20 seconds"  # measured for 0002 to 0003
MIGRATIONS = Path(__file__).parent / "migrations"


def current_revision(database: Database) -> str | None:
    """The database's revision; None if it has no Textmill tables."""
    with database.read() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return None
        found = connection.scalar(text("SELECT version_num FROM alembic_version"))
        return None if found is None else str(found)


def upgrade(database: Database, revision: str = "head") -> None:
    """Run the migrations up to ``revision`` and make the views, in one transaction: all or nothing.

    Raises ServiceUnavailableError if the database has a revision that this version does not know,
    or views of somebody's own on the views.
    """
    from alembic import command  # 0.1 s to import, needed once in a database's life
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    with database.write() as connection:
        if not database.is_sqlite:  # whose write transaction is the only one anyway
            connection.execute(text(f"SELECT pg_advisory_xact_lock({UPGRADE_LOCK})"))
        config.attributes["connection"] = connection
        drop_views(connection)
        try:
            command.upgrade(config, revision)
        except CommandError as error:
            raise ServiceUnavailableError(
                f"the database cannot be upgraded to schema {HEAD}: {error}; "
                "install the newer Textmill that made its schema"
            ) from error
        if revision == "head":
            make_views(connection)


def ensure_schema(
    database: Database, settings: Settings, on_upgrade: Callable[[str], None] = lambda what: None
) -> None:
    """Make or upgrade the embedded SQLite file's tables; for any other database only look.

    ``on_upgrade`` is told of an upgrade before it begins. Raises ServiceUnavailableError that says
    which command brings the schema up to date.
    """
    revision = current_revision(database)
    if revision == HEAD:
        return
    if settings.database_url is None and (revision is None or revision < HEAD):
        if revision is not None:
            on_upgrade(f"the database is upgraded from schema {revision} to {HEAD}; {DURATION}")
        upgrade(database)
        return
    found = "no Textmill tables" if revision is None else f"schema {revision}"
    newer = revision is not None and revision > HEAD
    todo = "install the newer Textmill that made it" if newer else "run `textmill db upgrade`"
    raise ServiceUnavailableError(
        f"the database has {found}; this version needs schema {HEAD}: {todo}"
    )
