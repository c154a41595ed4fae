"""A person's own SQL: it reads whatever a query can read, and nothing that it says can write."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import text

from textmill.core.errors import InvalidJobError, QueryError, ServiceUnavailableError
from textmill.core.settings import load_settings
from textmill.db.session import Database
from textmill.db.sql import Answer, ask

from .. import builders
from ..builders import claim_all, complete, make_job, open_database, snapshot
from ..servers import PASSWORD, PostgresServer

tables_url = builders.tables_url
postgresql = builders.postgresql
database = builders.database

Ask = Callable[..., Answer]
FOREVER = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT {} FROM n"


def asker(url: str) -> Ask:
    """``ask(statement, name=value)`` on this database."""

    def given(
        statement: str, timeout_seconds: float = 30, limit: int | None = None, **params: Any
    ) -> Answer:
        settings = load_settings(database_url=url)
        return ask(settings, statement, params, timeout_seconds=timeout_seconds, limit=limit)

    return given


@pytest.fixture
def filled(database: Database) -> Database:
    """A job with three outputs, one error, and a chunk that is not done."""
    job = make_job(database, [3, 1], bad=1)
    complete(database, claim_all(database, job)[0])
    return database


@pytest.fixture
def sql(filled: Database) -> Ask:
    return asker(filled.url)


def connect(database: Database, **options: Any) -> psycopg.Connection[Any]:
    """A session of somebody else."""
    return psycopg.connect(database.url.replace("+psycopg", ""), **options)


def rows_of(answer: Answer) -> list[tuple[Any, ...]]:
    return list(answer.rows())


def everything(database: Database) -> Any:
    """Rows, schema and what else a statement could leave behind."""
    with database.read() as connection:
        if database.is_sqlite:
            others = ["SELECT * FROM sqlite_master", "PRAGMA journal_mode", "PRAGMA user_version"]
        else:
            others = [
                "SELECT oid, relname, relkind FROM pg_class WHERE relname !~ '^pg_temp' ORDER BY 1",
                "SELECT last_value, is_called FROM chunks_id_seq",
                "SELECT oid FROM pg_largeobject_metadata ORDER BY 1",
                "SELECT rolname FROM pg_roles ORDER BY 1",
                "SELECT datname FROM pg_database WHERE datname !~ '^test_' ORDER BY 1",
            ]
        found = [connection.execute(text(one)).all() for one in others]
    return snapshot(database), found


# Each with a part of what is said of it: what the connection is, or the database's own words.
WRITES = [
    ("INSERT INTO sweeps VALUES ('x', 1)", "read-only"),
    ("INSERT INTO sweeps VALUES ('x', 1) RETURNING name", "read-only"),
    ("UPDATE jobs SET name = 'x'", "read-only"),
    ("UPDATE jobs SET name = 'x' RETURNING id", "read-only"),
    ("DELETE FROM results", "read-only"),
    ("DELETE FROM results RETURNING record_id", "read-only"),
    ("WITH x AS (SELECT 1) DELETE FROM results", "read-only"),
    ("INSERT INTO sweeps VALUES ('x', 1) ON CONFLICT DO NOTHING", "read-only"),
    ("CREATE TABLE x (a int)", "read-only"),
    ("CREATE TEMP TABLE x (a int)", "read-only"),
    ("CREATE TABLE x AS SELECT * FROM jobs", "read-only"),
    ("CREATE VIEW x AS SELECT * FROM jobs", "read-only"),
    ("CREATE TEMP VIEW x AS SELECT * FROM jobs", "read-only"),
    ("CREATE INDEX x ON results (text)", "read-only"),
    ("ALTER TABLE jobs ADD COLUMN x int", "read-only"),
    ("ALTER TABLE jobs RENAME TO x", "read-only"),
    ("DROP TABLE jobs", "read-only"),
    ("DROP INDEX ix_results_score", "read-only"),
    ("BEGIN", "read-only"),
    ("COMMIT", "read-only"),
    ("ROLLBACK", "read-only"),
    ("SAVEPOINT x", "read-only"),
    ("ANALYZE", "read-only"),
    ("VACUUM", "read-only"),
    ("SELECT 1; DELETE FROM jobs", "one statement"),
    ("COMMIT; DELETE FROM jobs", "one statement|read-only"),
    ("SELECT 1; SELECT 2", "one statement"),
    ("WITH x AS (DELETE FROM jobs RETURNING *) SELECT * FROM x", ""),
    ("EXPLAIN ANALYZE DELETE FROM jobs", ""),
    ("EXPLAIN DELETE FROM jobs", "read-only"),
    ("SELECT * INTO x FROM jobs", ""),
    ("SELECT * FROM jobs FOR UPDATE", ""),
    ("-- nothing", "read-only|no rows"),
]
SQLITE_WRITES = [
    ("REPLACE INTO sweeps VALUES ('x', 1)", "read-only"),
    ("ATTACH 'other.db' AS other", r"read-only.*ATTACH other\.db"),
    ("ATTACH ':memory:' AS other", "read-only"),
    ("ATTACH 'file:other.db?mode=rwc' AS other", "read-only"),
    ("DETACH main", "read-only"),
    ("VACUUM INTO 'other.db'", "read-only"),
    ("REINDEX", "read-only"),
    ("PRAGMA query_only = OFF", "read-only"),
    ("PRAGMA journal_mode = DELETE", "read-only"),
    ("PRAGMA user_version = 7", "read-only"),
    ("PRAGMA writable_schema = ON", "read-only"),
    ("PRAGMA wal_checkpoint(TRUNCATE)", "read-only"),
    ("PRAGMA optimize", "read-only"),
    ("SELECT * FROM pragma_wal_checkpoint", "no such table"),
    ("UPDATE sqlite_master SET sql = ''", "may not be modified|read-only"),
    ("DELETE FROM sqlite_master", "may not be modified|read-only"),
    ("SELECT load_extension('x')", "read-only.*load_extension"),
    ("SELECT fts3_tokenizer('simple')", "read-only|no such function|fts3_tokenizer"),
    ("SELECT writefile('other.db', 'x')", "no such function"),
    ("CREATE VIRTUAL TABLE x USING fts5(a)", "read-only"),
    ("CREATE TRIGGER x AFTER INSERT ON jobs BEGIN SELECT 1; END", "read-only"),
    ("CREATE TEMP TRIGGER x AFTER INSERT ON jobs BEGIN SELECT 1; END", "read-only"),
]
POSTGRESQL_WRITES = [
    ("MERGE INTO jobs USING sweeps ON true WHEN MATCHED THEN DELETE", "read-only"),
    ("TRUNCATE results", "read-only"),
    ("COPY results TO PROGRAM 'touch other.db'", "read-only"),
    ("COPY results TO STDOUT", "read-only"),
    ("COPY (DELETE FROM jobs RETURNING *) TO STDOUT", "read-only|data-modifying|RETURNING|COPY"),
    ("COPY results FROM STDIN", "read-only"),
    ("DO $$ BEGIN DELETE FROM jobs; END $$", "read-only"),
    ("CALL x()", "x"),
    ("SET transaction_read_only = off", "read-only"),
    ("SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE", "read-only"),
    ("SET ROLE postgres", "read-only"),
    ("RESET ALL", "read-only"),
    ("PREPARE x AS DELETE FROM jobs", "read-only"),
    ("EXECUTE x", "x|read-only"),
    ("DECLARE x CURSOR WITH HOLD FOR SELECT 1", "read-only"),
    ("LOCK TABLE jobs", "read-only"),
    ("LISTEN x", "read-only"),
    ("NOTIFY x", "read-only"),
    ("REINDEX TABLE jobs", "read-only"),
    ("CLUSTER", "read-only"),
    ("CHECKPOINT", "read-only"),
    ("REFRESH MATERIALIZED VIEW x", "read-only"),
    ("GRANT ALL ON jobs TO PUBLIC", "read-only"),
    ("CREATE ROLE x", "read-only"),
    ("CREATE DATABASE x", "read-only"),
    ("CREATE FUNCTION x() RETURNS int LANGUAGE sql AS 'SELECT 1'", "read-only"),
    ("COMMENT ON TABLE jobs IS 'x'", "read-only"),
    ("CREATE EXTENSION dblink", "read-only"),
    ("LOAD 'x'", "read-only"),
    ("SELECT * FROM jobs FOR SHARE", "read-only"),
    ("SELECT nextval('chunks_id_seq')", "read-only|permission denied"),
    ("SELECT setval('chunks_id_seq', 1)", "read-only|permission denied"),
    ("SELECT lo_creat(-1)", "read-only"),
    ("SELECT lo_from_bytea(0, 'x')", "read-only"),
    ("SELECT set_config('transaction_read_only', 'off', false)", "before any query"),
    ("SELECT set_config('transaction_read_only', 'off', true)", "before any query"),
    ("SELECT query_to_xml('DELETE FROM jobs', true, true, '')", "not allowed"),
    ("SELECT lo_export(1, '/tmp/other.db')", "permission denied"),
    ("SELECT pg_read_file('postgresql.conf')", "permission denied"),
    ("SELECT pg_ls_dir('.')", "permission denied"),
    ("SELECT pg_reload_conf()", "permission denied"),
    ("SELECT pg_switch_wal()", "permission denied"),
    ("SELECT pg_stat_reset()", "permission denied"),
]


def check_refused(database: Database, statement: str, part: str) -> None:
    before = everything(database)
    with pytest.raises(QueryError, match=f"(?s){part}"):
        rows_of(asker(database.url)(statement))
    assert everything(database) == before


@pytest.mark.parametrize(("statement", "part"), WRITES, ids=[one for one, _ in WRITES])
def test_nothing_is_written(filled: Database, statement: str, part: str) -> None:
    check_refused(filled, statement, part)


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("statement", "part"), SQLITE_WRITES, ids=[one for one, _ in SQLITE_WRITES]
)
def test_nothing_is_written_by_what_only_sqlite_has(
    filled: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statement: str, part: str
) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    check_refused(filled, statement, part)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
@pytest.mark.parametrize(
    ("statement", "part"), POSTGRESQL_WRITES, ids=[one for one, _ in POSTGRESQL_WRITES]
)
def test_nothing_is_written_by_what_only_postgresql_has(
    filled: Database, statement: str, part: str
) -> None:
    check_refused(filled, statement, part)


@pytest.fixture
def plain_url(postgres: PostgresServer, postgresql: Database) -> Iterator[str]:
    """The database for a role that owns nothing and may write all: no superuser."""
    with connect(postgresql, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE plain LOGIN PASSWORD '{PASSWORD}'")
        connection.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO plain")
        connection.execute("GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO plain")
        try:
            yield postgresql.url.replace("//postgres:", "//plain:")
        finally:
            connection.execute("DROP OWNED BY plain")
            connection.execute("DROP ROLE plain")


@pytest.mark.parametrize(
    ("statement", "part"),
    [
        ("DELETE FROM results", "read-only"),
        ("SELECT nextval('chunks_id_seq')", "read-only"),
        ("SELECT setval('chunks_id_seq', 1)", "read-only"),
        ("SELECT lo_creat(-1)", "read-only"),
        ("SELECT * FROM jobs FOR UPDATE", "read-only"),
        ("WITH x AS (DELETE FROM jobs RETURNING *) SELECT * FROM x", "read-only"),
        ("SELECT set_config('transaction_read_only', 'off', false)", "before any query"),
        ("SELECT set_config('role', 'postgres', false)", "permission denied"),
    ],
)
def test_a_role_that_may_write_writes_nothing(
    postgresql: Database, plain_url: str, statement: str, part: str
) -> None:
    make_job(postgresql, [2])
    before = everything(postgresql)
    with pytest.raises(QueryError, match=part):
        rows_of(asker(plain_url)(statement))
    assert everything(postgresql) == before


def test_a_superuser_cannot_end_the_sessions_of_others(postgresql: Database) -> None:
    with connect(postgresql) as other:
        with pytest.raises(QueryError, match="permission denied to terminate"):
            rows_of(
                asker(postgresql.url)(
                    "SELECT pg_terminate_backend(:pid)", pid=other.info.backend_pid
                )
            )
        assert other.execute("SELECT 1").fetchone() == (1,)


def test_a_url_of_its_own_has_a_role_of_its_own(postgresql: Database, plain_url: str) -> None:
    settings = load_settings(database_url=postgresql.url, sql_database_url=plain_url)
    assert rows_of(ask(settings, "SELECT session_user")) == [("plain",)]


def test_rows_come_with_names_and_values(sql: Ask) -> None:
    answer = sql(
        "SELECT record_id, score, text_hash, record_index AS n, n.n AS n, error_code"
        " FROM results, (SELECT 'x' AS n) AS n WHERE record_index < :end ORDER BY 4 DESC",
        end=2,
    )
    assert answer.columns == ("record_id", "score", "text_hash", "n", "n_2", "error_code")
    assert list(answer) == [
        {
            "record_id": f"id{i}",
            "score": 0.9,
            "text_hash": None,
            "n": i,
            "n_2": "x",
            "error_code": None,
        }
        for i in (1, 0)
    ]


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT count(*) FROM results",
        "  select count(*) from results ; -- done",
        "/* how many? */ WITH x AS (SELECT * FROM results) SELECT count(*) FROM x",
        "VALUES (4)",
        "(SELECT 4) EXCEPT SELECT 5",
        "SELECT count(*) FROM results WHERE job_id = (SELECT max(id) FROM jobs)",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4)"
        " SELECT max(i) FROM n",
        "SELECT sum(n) FROM (SELECT count(*) OVER (PARTITION BY label) AS n FROM results"
        " WHERE label = 'ham' LIMIT 1) AS x UNION SELECT 4 ORDER BY 1 DESC LIMIT 1",
    ],
)
def test_any_query_is_answered(sql: Ask, statement: str, filled: Database) -> None:
    if filled.is_sqlite:
        statement = statement.replace("(SELECT 4)", "SELECT 4")
    assert rows_of(sql(statement)) == [(4,)]


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_json_and_full_text_and_pragmas_of_sqlite_are_read(filled: Database, sql: Ask) -> None:
    with filled.write() as connection:
        connection.execute(text("CREATE VIRTUAL TABLE words USING fts5(body)"))
        connection.execute(text("INSERT INTO words VALUES ('a free gift')"))
    assert rows_of(sql("SELECT sum(value) FROM json_each('[1, 2]')")) == [(3,)]
    assert rows_of(sql("SELECT body FROM words WHERE words MATCH :q ORDER BY rank", q="gift")) == [
        ("a free gift",)
    ]
    assert rows_of(sql("SELECT count(*) FROM pragma_table_info('sweeps')")) == [(2,)]
    assert ("name", "TEXT") in [row[1:3] for row in sql("PRAGMA table_info(sweeps)").rows()]
    assert len(rows_of(sql("EXPLAIN QUERY PLAN SELECT * FROM jobs"))) == 1


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_values_of_postgresql_come_as_from_sqlite(sql: Ask) -> None:
    answer = sql(
        "SELECT 1.5::numeric, 12345678901234567890::numeric, 7::numeric, true, '\\x00ff'::bytea,"
        " DATE '0044-03-15 BC', 'infinity'::timestamp, '{\"a\": [1]}'::jsonb, ARRAY[1, 2], NULL"
    )
    numbers = (1.5, "12345678901234567890", 7, True, b"\x00\xff")
    texts = ("0044-03-15 BC", "infinity", '{"a": [1]}', "{1,2}", None)
    assert rows_of(answer) == [numbers + texts]


def test_values_go_apart_from_the_statement(sql: Ask) -> None:
    evil = "x' OR 1 = 1; DELETE FROM jobs; --"
    assert rows_of(sql("SELECT record_id FROM results WHERE record_id = :id", id=evil)) == []
    assert rows_of(sql("SELECT CAST(:id AS text) || CAST(:id AS text)", id=evil)) == [(evil * 2,)]


@pytest.mark.parametrize(
    ("statement", "parts"),
    [
        ("SELEC 1", ["syntax error", "SELEC"]),
        ("SELECT FROM WHERE", ["syntax error"]),
        ("SELECT * FROM", ["syntax error|incomplete input"]),
        (
            "SELECT labl FROM results",
            ["labl", "did you mean 'label'", "results has job_id, record"],
        ),
        ("SELECT r.labl FROM results r", ["labl", "did you mean 'label'"]),
        ("SELECT * FROM result", ["result", "mean 'results'", "the tables are .*jobs, .*workers"]),
        ("SELECT nofunction(1)", ["nofunction"]),
        ("SELECT :a", ["statement has :a and there is no value", "--param a=VALUE"]),
        ("SELECT 1 FROM results ORDER BY 5", ["ORDER BY"]),
        ("   ", ["statement is empty"]),
        ("SELECT 1\0; DELETE FROM jobs", ["NUL"]),
        ("SELECT '\udc80'", ["no UTF-8 text at character 9"]),
    ],
)
def test_what_is_wrong_is_said_in_the_databases_words(
    sql: Ask, statement: str, parts: list[str]
) -> None:
    with pytest.raises(QueryError) as caught:
        rows_of(sql(statement))
    for part in parts:
        assert caught.match(part)
    assert isinstance(caught.value, InvalidJobError)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("value", [{"a": 1}, object(), 2**70, "\udc80"])
def test_a_value_of_no_use_is_named(sql: Ask, value: Any) -> None:
    with pytest.raises(QueryError):
        rows_of(sql("SELECT CAST(:a AS integer)", a=value))


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
@pytest.mark.parametrize(
    "statement", ["SELECT 1 / i FROM generate_series(-200, 9) i", "SELECT 'x'::int"]
)
def test_an_error_in_the_middle_is_told(sql: Ask, statement: str) -> None:
    with pytest.raises(QueryError, match=r"division by zero|invalid input syntax"):
        rows_of(sql(statement))


def test_a_query_without_an_end_streams_and_ends_when_it_is_left(sql: Ask) -> None:
    answer = sql(FOREVER.format("i"))
    rows = answer.rows()
    assert [next(rows) for _ in range(3)] == [(1,), (2,), (3,)]
    answer.close()
    with sql(FOREVER.format("i"), limit=2) as limited:
        assert list(limited) == [{"i": 1}, {"i": 2}]
    assert list(limited) == []


def test_a_query_that_takes_too_long_is_ended(sql: Ask) -> None:
    with pytest.raises(QueryError, match=r"took longer than 0\.2 s.*--timeout"):
        rows_of(sql(FOREVER.format("count(*)"), timeout_seconds=0.2))


def test_the_time_between_two_rows_is_the_readers(sql: Ask) -> None:
    rows = sql("SELECT record_id FROM results", timeout_seconds=0.2).rows()
    next(rows)
    time.sleep(0.4)
    assert len(list(rows)) == 3


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf")])
def test_a_time_that_is_none_is_refused(sql: Ask, seconds: float) -> None:
    with pytest.raises(QueryError, match="expected seconds"):
        sql("SELECT 1", timeout_seconds=seconds)


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_a_locked_table_is_not_waited_for_long(sql: Ask, filled: Database) -> None:
    with connect(filled) as other:
        other.execute("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(ServiceUnavailableError, match="lock timeout"):
            sql("SELECT * FROM jobs")


def test_a_page_that_is_written_meanwhile_is_not_seen(sql: Ask, filled: Database) -> None:
    rows = sql("SELECT name FROM sweeps UNION ALL SELECT record_id FROM results").rows()
    first = next(rows)
    with filled.write() as connection:
        connection.execute(text("DELETE FROM results"))
    assert len([first, *rows]) == 5
    assert rows_of(sql("SELECT count(*) FROM results")) == [(0,)]


def test_no_database_is_said(tmp_path: Path, postgres: PostgresServer) -> None:
    file = tmp_path / "none" / "textmill.db"
    with pytest.raises(ServiceUnavailableError, match=f"no database yet at {file}"):
        asker(f"sqlite:///{file}")("SELECT 1")
    assert not file.parent.exists()
    with pytest.raises(ServiceUnavailableError, match="does not answer or refused"):
        asker(postgres.url("nosuch"))("SELECT 1")
    with pytest.raises(InvalidJobError, match="names no file"):
        asker("sqlite://")("SELECT 1")


def test_a_file_that_is_no_database_is_said(tmp_path: Path) -> None:
    file = tmp_path / "textmill.db"
    file.write_text("not a database, but long enough to be taken for one" * 100)
    with pytest.raises(ServiceUnavailableError, match=f"{file} cannot be read: file is not a data"):
        asker(f"sqlite:///{file}")("SELECT 1")


def test_a_file_with_a_name_that_means_something_in_a_url(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'a%20b.db'}"
    with open_database(url) as database, database.write() as connection:
        connection.execute(text("CREATE TABLE here (a int)"))
    assert rows_of(asker(url)("SELECT count(*) FROM here")) == [(0,)]
