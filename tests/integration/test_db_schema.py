"""Migrations: they make the tables the code expects, and all of a migration happens or nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text
from sqlalchemy.exc import DBAPIError

from textmill.core.errors import ServiceUnavailableError
from textmill.core.settings import Settings
from textmill.db import schema
from textmill.db.chunks import complete_chunk
from textmill.db.filters import ResultFilter
from textmill.db.jobs import get_job
from textmill.db.models import SQLITE_WORDS, metadata, words_metadata
from textmill.db.queries import is_streamed, iter_results
from textmill.db.rerun import rerun_job
from textmill.db.schema import HEAD, MIGRATIONS, current_revision, ensure_schema, upgrade
from textmill.db.session import Database
from textmill.db.sweep import take_turn

from ..builders import (
    at_once,
    claim_all,
    indexed,
    make_job,
    open_database,
    outcome,
    with_further_label,
)
from ..entries import read_values, read_words

MakeSettings = Callable[..., Settings]

BROKEN = '''
"""A migration that fails after it has changed something."""
from alembic import op
revision, down_revision = "9000", "0004"

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


# Of indexes by block, which have a test of their own.
REFLECTED = pytest.mark.filterwarnings(
    "ignore:Skipped unsupported reflection of expression", "ignore:autogenerate skipping metadata"
)
BY_BLOCK = {
    "ix_results_score": [
        "job_id",
        "(record_index >> 16)",
        "label",
        "score DESC",
        "record_index",
    ],
    "ix_results_record_id": ["job_id", "(record_index >> 12)", "record_id"],
}


def stamp(database: Database, revision: str) -> None:
    with database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :it"), {"it": revision})


@REFLECTED
def test_migrated_tables_equal_the_models(database: Database) -> None:
    upgrade(database)
    with database.read() as connection:
        options = {
            "compare_type": True,
            "compare_server_default": True,
            # Whose expressions it cannot compare; these indexes have a test of their own.
            "include_object": lambda made, name, *rest: name not in BY_BLOCK,
            "include_name": lambda name, *rest: not database.is_sqlite or name not in FTS5_TABLES,
        }
        context = MigrationContext.configure(connection, opts=options)
        declared = metadata if database.is_sqlite else [metadata, words_metadata]
        assert compare_metadata(context, declared) == []
        for table in metadata.sorted_tables:  # which alembic does not compare
            key = inspect(connection).get_pk_constraint(table.name)["constrained_columns"]
            assert key == [column.name for column in table.primary_key.columns], table.name


@REFLECTED
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


def test_indexes_by_block_are_migrated_as_declared(database: Database) -> None:
    upgrade(database)
    for name, columns in BY_BLOCK.items():
        made = (
            f"SELECT sql FROM sqlite_master WHERE name = '{name}'"
            if database.is_sqlite
            else f"SELECT indexdef FROM pg_indexes WHERE indexname = '{name}'"
        )
        with database.read() as connection:
            definition = str(connection.scalar(text(made)))
        declared = next(index for index in metadata.tables["results"].indexes if index.name == name)
        words = [str(column).removeprefix("results.") for column in declared.expressions]
        assert words == columns
        written = definition.replace("((record_index", "(record_index").replace(")), ", "), ")
        assert written.endswith(f"{', '.join(columns)})")


ROWS_OF_0002 = [  # index, text, label, score, detail, error code
    (0, "a free prize", "spam", 0.9, {"labels": ["spam", "ad", "rude"]}, None),
    (1, "free for lunch", "ham", 0.8, {"labels": ["ham"], "scores": {"ham": 0.8}}, None),
    (2, "see you", None, None, {"labels": []}, None),
    (3, "an advert", "ad", 0.7, {"labels": ["ad", "ad", "spam"]}, None),
    (4, "no list", "ham", 0.6, {"labels": "ham"}, None),
    (5, "no detail", "ham", 0.5, None, None),
    (6, "", None, None, None, "empty_text"),
]


def fill_0002(database: Database) -> None:
    """A job as the version before left it, written without any of ours."""
    with database.write() as connection:
        connection.execute(
            text(
                "INSERT INTO jobs (id, task, model, dtype, params, extra_columns, queue, priority,"
                " status, total_records, done_records, error_records, created_at, queued_at,"
                " finished_at) VALUES ('job', 'classification', 'm', 'auto', '{}', '[]', 'default',"
                " 'normal', 'completed_with_errors', 7, 6, 1, 1, 1, 2)"
            )
        )
        for index, words, label, score, detail, code in ROWS_OF_0002:
            connection.execute(
                text(
                    "INSERT INTO results (job_id, record_index, record_id, text, text_hash, label,"
                    " score, detail, error_code) VALUES ('job', :index, :id, :words, :hash, :label,"
                    " :score, :detail, :code)"
                ),
                {"index": index, "id": f"r{index}", "words": words, "hash": b"h" * 16,
                 "label": label, "score": score, "code": code,
                 "detail": None if detail is None else json.dumps(detail)},
            )  # fmt: skip
        for label, records in (("spam", 2), ("ham", 3), ("ad", 2), ("rude", 1)):
            given = {"label": label, "records": records}
            connection.execute(
                text("INSERT INTO label_counts VALUES ('job', :label, :records)"), given
            )


def found(database: Database, **wanted: Any) -> list[int]:
    with database.read() as connection:
        job = get_job(connection, "job")
    return [row.record_index for row in iter_results(database, job, ResultFilter(**wanted))]


def test_a_job_of_the_schema_before_answers_as_ever(database: Database) -> None:
    upgrade(database, "0002")
    fill_0002(database)
    upgrade(database)

    with database.read() as connection:
        job = get_job(connection, "job")
        assert read_values(connection) == {
            ("job", "", "ad", 0),
            ("job", "", "rude", 0),
            ("job", "", "spam", 3),
        }
        assert read_words(connection) == {}
    assert (job.full_text, job.index_columns, job.number, job.store_text) == (
        False,
        None,
        None,
        "full",
    )
    assert found(database) == list(range(7))
    assert found(database, label="spam") == [0, 3]
    assert found(database, label="ad") == [0, 3]
    assert found(database, order="score") == [0, 1, 3, 4, 5]
    assert found(database, errors=True) == [6]
    # Its words have no index: they are looked for in each row, and that is said.
    assert found(database, search="free -lunch") == [0]
    wanted = ResultFilter(search="free")
    assert "the words of this job have no index" in str(is_streamed(database, job, wanted))


def test_a_job_of_the_schema_before_runs_again_and_a_new_one_beside_it(database: Database) -> None:
    upgrade(database, "0002")
    fill_0002(database)
    upgrade(database)
    assert database.transact(rerun_job, "job") == 7
    with database.read() as connection:
        assert read_values(connection) == set()
    new = make_job(database)
    for job_id in ("job", new):
        for claimed in claim_all(database, job_id):
            done = indexed(database, claimed, with_further_label(outcome(claimed)))
            database.transact(complete_chunk, claimed, done, window=9)
    assert found(database, label="odd") == [1, 3, 5]
    assert found(database, search="free") == [0, 1]
    with database.read() as connection:
        (place,) = read_words(connection)  # of the new job
        assert place == get_job(connection, new).number << 40


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


def test_an_upgrade_of_the_embedded_database_is_told_before_it_begins(
    settings: MakeSettings,
) -> None:
    embedded = settings()
    database = Database.open(embedded)
    told: list[tuple[str, str | None]] = []

    def tell(what: str) -> None:
        told.append((what, current_revision(database)))

    upgrade(database, "0002")
    ensure_schema(database, embedded, tell)
    ensure_schema(database, embedded, tell)
    ((what, before),) = told
    assert (before, current_revision(database)) == ("0002", HEAD)
    assert what.startswith(f"the database is upgraded from schema 0002 to {HEAD}; ")
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
