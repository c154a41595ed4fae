"""Migrations: they make the tables the code expects, and all of a migration happens or nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text
from sqlalchemy.exc import DBAPIError

from textmill.core.errors import ServiceUnavailableError
from textmill.core.settings import Settings
from textmill.db import schema
from textmill.db.models import SQLITE_WORDS, metadata, words_metadata
from textmill.db.schema import HEAD, MIGRATIONS, current_revision, ensure_schema, upgrade
from textmill.db.session import Database
from textmill.db.sweep import take_turn

from ..builders import at_once, open_database

MakeSettings = Callable[..., Settings]

BROKEN = '''
"""A migration that fails after it has changed something."""
from alembic import op
revision, down_revision = "9000", "0003"

def upgrade() -> None:
    op.execute("CREATE TABLE half (id INTEGER)")
    op.execute("UPDATE sweeps SET swept_at = 7")
    op.execute("INSERT INTO no_such_table VALUES (1)")
'''


# Of a virtual table SQLite shows what FTS5 keeps it in.
FTS5_TABLES = {"result_words", *(f"result_words_{part}" for part in ("data", "idx", "config"))}


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with open_database(database_url) as database:
        yield database


def tables(database: Database) -> set[str]:
    with database.read() as connection:
        return set(inspect(connection).get_table_names())


def stamp(database: Database, revision: str) -> None:
    with database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :it"), {"it": revision})


def test_migrated_tables_equal_the_models(database: Database) -> None:
    upgrade(database)
    with database.read() as connection:
        options = {
            "compare_type": True,
            "compare_server_default": True,
            "include_name": lambda name, kind, parents: kind != "table" or name not in FTS5_TABLES,
        }
        context = MigrationContext.configure(connection, opts=options)
        declared = metadata if database.is_sqlite else [metadata, words_metadata]
        assert compare_metadata(context, declared) == []
        for table in metadata.sorted_tables:  # which alembic does not compare
            key = inspect(connection).get_pk_constraint(table.name)["constrained_columns"]
            assert key == [column.name for column in table.primary_key.columns], table.name


def test_partial_indexes_and_tables_without_rowid_are_migrated_as_declared(
    database: Database,
) -> None:
    upgrade(database)
    with database.read() as connection:
        indexes = {index["name"]: index for index in inspect(connection).get_indexes("results")}
        options = indexes["ix_results_error"]["dialect_options"]
        assert "error_code IS NOT NULL" in str(options[f"{connection.dialect.name}_where"])
        if database.is_sqlite:
            made = connection.scalar(text("SELECT sql FROM sqlite_master WHERE name = 'results'"))
            assert "WITHOUT ROWID" in str(made)
            made = connection.scalar(
                text("SELECT sql FROM sqlite_master WHERE name = 'result_words'")
            )
            assert made == SQLITE_WORDS


def test_a_migrated_database_can_be_swept(database: Database) -> None:
    upgrade(database)
    assert database.transact(take_turn, 5)


def test_head_is_the_newest_revision_and_there_is_only_one() -> None:
    assert ScriptDirectory(str(MIGRATIONS)).get_heads() == [HEAD]


def test_upgrading_twice_changes_nothing(database: Database) -> None:
    assert current_revision(database) is None
    upgrade(database)
    upgrade(database)
    assert current_revision(database) == HEAD


def test_an_empty_embedded_database_gets_its_tables(settings: MakeSettings) -> None:
    embedded = settings()
    database = Database.open(embedded)
    ensure_schema(database, embedded)
    assert tables(database) == {*metadata.tables, *FTS5_TABLES, "alembic_version"}
    database.close()


def test_two_first_commands_at_once_make_the_embedded_tables_once(settings: MakeSettings) -> None:
    embedded = settings()
    databases = [Database.open(embedded) for _ in range(2)]
    assert at_once(*[lambda it=it: ensure_schema(it, embedded) for it in databases]) == [None, None]
    for database in databases:
        assert current_revision(database) == HEAD
        database.close()


def test_an_empty_database_of_ones_own_is_left_alone_and_the_command_is_named(
    database: Database, settings: MakeSettings
) -> None:
    with pytest.raises(ServiceUnavailableError, match=r"no Textmill tables.*`textmill db upgrade`"):
        ensure_schema(database, settings(database_url=database.url))
    assert tables(database) == set()


def test_an_upgraded_database_of_ones_own_is_accepted(
    database: Database, settings: MakeSettings
) -> None:
    upgrade(database)
    ensure_schema(database, settings(database_url=database.url))


@pytest.mark.parametrize("embedded", [True, False])
def test_a_newer_schema_is_refused_and_left_as_it_is(
    embedded: bool, database: Database, settings: MakeSettings
) -> None:
    upgrade(database)
    stamp(database, "9999")
    with pytest.raises(ServiceUnavailableError, match=r"schema 9999.*install the newer Textmill"):
        ensure_schema(database, settings(database_url=None if embedded else database.url))
    assert current_revision(database) == "9999"


def test_a_newer_schema_is_not_upgraded(database: Database) -> None:
    upgrade(database)
    stamp(database, "9999")
    with pytest.raises(ServiceUnavailableError, match=r"'9999'; install the newer Textmill"):
        upgrade(database)
    assert current_revision(database) == "9999"


def test_an_older_schema_of_ones_own_is_not_upgraded_unasked(
    database: Database, settings: MakeSettings
) -> None:
    upgrade(database)
    stamp(database, "0000")
    with pytest.raises(ServiceUnavailableError, match=r"schema 0000.*`textmill db upgrade`"):
        ensure_schema(database, settings(database_url=database.url))


@pytest.mark.parametrize("before", [None, HEAD])
def test_a_migration_that_fails_rolls_back_and_stays_pending(
    before: str | None, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if before is not None:
        upgrade(database)
    scripts = tmp_path / "migrations"
    (scripts / "versions").mkdir(parents=True)
    (scripts / "env.py").write_bytes((MIGRATIONS / "env.py").read_bytes())
    for script in (MIGRATIONS / "versions").glob("*.py"):
        (scripts / "versions" / script.name).write_bytes(script.read_bytes())
    (scripts / "versions" / "9000_broken.py").write_text(BROKEN)
    monkeypatch.setattr(schema, "MIGRATIONS", scripts)
    there = tables(database)

    with pytest.raises((DBAPIError, ServiceUnavailableError), match="no_such_table"):
        upgrade(database)

    assert current_revision(database) == before
    assert tables(database) == there
    if before is not None:
        with database.read() as connection:
            assert connection.scalar(text("SELECT swept_at FROM sweeps")) == 0
