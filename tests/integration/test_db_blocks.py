"""Indexes by blocks, asked of jobs that reach over many; and SQLite's log, kept short."""

from __future__ import annotations

import multiprocessing
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, insert

from textmill.db import sqlite_log
from textmill.db.filters import ResultFilter
from textmill.db.models import audits
from textmill.db.queries import iter_results, read_page
from textmill.db.result_rows import Result
from textmill.db.results import ResultRow
from textmill.db.session import Database

from .. import builders
from ..builders import with_tables
from ..filled import filled_job

# Fixtures; imported by name, they would be redefined by every test's parameter.
tables_url = builders.tables_url
postgresql = builders.postgresql
database = builders.database

DRAW = random.Random(11)
PLACES = sorted(DRAW.sample(range(400_000), 1500))  # in 25 blocks of scores and 98 of ids
ROWS = [
    ResultRow(
        place,
        f"r{DRAW.randrange(1000)}",  # some ids twice
        "x",
        None,
        label := DRAW.choice(["ham", "ham", "ham", "ham", "spam", None]),
        None
        if label is None and DRAW.random() < 0.5
        else DRAW.choice([1.0, 1.0, 0.5, place / 4e5]),
    )
    for place in PLACES
]
FILTERS: list[tuple[dict[str, Any], Any]] = [
    ({}, lambda row: True),
    ({"label": "spam"}, lambda row: row.label == "spam"),
    ({"label": "spam", "min_score": 0.5}, lambda row: row.label == "spam" and row.score >= 0.5),
    ({"min_score": 0.25, "max_score": 0.5}, lambda row: 0.25 <= (row.score or 0) <= 0.5),
    ({"min_score": 1}, lambda row: row.score == 1),
    ({"record_id": "r7"}, lambda row: row.record_id == "r7"),
    ({"label": "none of them"}, lambda row: False),
]


@pytest.fixture
def job(database: Database) -> Iterator[Any]:
    filled_job(database, ROWS[:50])  # which has rows in the first blocks too
    yield filled_job(database, ROWS)


def by_score(row: ResultRow) -> tuple[float, int]:
    assert row.score is not None
    return -row.score, row.record_index


@pytest.mark.parametrize(("conditions", "is_wanted"), FILTERS)
@pytest.mark.parametrize("order", ["input", "score"])
def test_rows_of_many_blocks_come_in_order_and_page_by_page(
    database: Database, job: Any, conditions: dict[str, Any], is_wanted: Any, order: Any
) -> None:
    wanted = [row for row in ROWS if is_wanted(row)]
    if order == "score":
        wanted = sorted((row for row in wanted if row.score is not None), key=by_score)
    expected = [row.record_index for row in wanted]
    found = iter_results(database, job, ResultFilter(**conditions, order=order))
    assert indexes(found) == expected
    paged: list[int] = []
    after = None
    while True:
        asked = ResultFilter(**conditions, order=order, after=after)
        page = read_page(database, job, asked, 70)
        paged += indexes(page.rows)
        if page.after is None:
            break
        after = page.after
    assert paged == expected


def indexes(rows: Any) -> list[int]:
    return [row.record_index for row in rows]


def test_a_page_by_score_looks_into_few_blocks_of_equal_scores(database: Database) -> None:
    """Of a saturated model most scores are 1: the first of them are in the first block."""
    rows = [ResultRow(n << 16, f"r{n}", "x", None, "a", 1.0) for n in range(200)]
    job = filled_job(database, rows)
    statements: list[str] = []
    event.listen(database.engine, "before_cursor_execute", lambda *told: statements.append(told[2]))
    page = read_page(database, job, ResultFilter(order="score", after=f"1.0:{100 << 16}"), 20)
    assert indexes(page.rows) == [n << 16 for n in range(101, 121)]
    parts = sum(statement.count("LIMIT") for statement in statements)
    assert parts < 80, "more than one set of blocks was opened"


def read_by_id(database: Database, job: Any, record_id: str) -> list[Result]:
    return list(iter_results(database, job, ResultFilter(record_id=record_id)))


def test_a_record_is_found_in_whichever_block_it_lies(database: Database) -> None:
    rows = [ResultRow(n * 4096, f"r{n}", "x", None, "a", 0.5) for n in range(30)]
    job = filled_job(database, rows)
    assert [row.record_index for row in read_by_id(database, job, "r29")] == [29 * 4096]
    assert read_by_id(database, job, "r30") == []


def write_audits(url: str, start: Any, times: int) -> None:
    """Write without a pause, as a worker under load does."""
    database = Database(url)
    start.wait()
    for _ in range(times):
        database.transact(
            lambda connection: connection.execute(
                insert(audits), [{"at": 0, "action": "x" * 3000, "records": 0}] * 200
            )
        )
    database.close()


def test_the_log_of_a_database_that_is_written_without_a_pause_stays_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "textmill.db"
    log = tmp_path / "textmill.db-wal"
    context = multiprocessing.get_context("fork")
    monkeypatch.setattr(sqlite_log, "LOG_BYTES", 4 << 20)
    for database in with_tables(f"sqlite:///{path}"):
        start = context.Barrier(2)
        writers = [
            context.Process(target=write_audits, args=(database.url, start, 60)) for _ in range(2)
        ]
        for writer in writers:
            writer.start()
        longest = 0
        while any(writer.is_alive() for writer in writers):
            longest = max(longest, log.stat().st_size if log.exists() else 0)
            for writer in writers:
                writer.join(0.01)
        assert [writer.exitcode for writer in writers] == [0, 0]
        with database.read() as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM audits").scalar() == 24_000
        assert 0 < longest < 16 << 20, f"{longest >> 20} MiB of log for {path.stat().st_size >> 20}"


def test_a_log_that_somebody_reads_is_emptied_later_and_no_change_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "textmill.db"
    log = tmp_path / "textmill.db-wal"
    monkeypatch.setattr(sqlite_log, "LOG_BYTES", 1 << 20)
    monkeypatch.setattr(sqlite_log, "BUSY_MS", 1)
    for _ in with_tables(f"sqlite:///{path}"):
        database = Database(f"sqlite:///{path}")

        def write(database: Database = database) -> None:
            database.transact(
                lambda connection: connection.execute(
                    insert(audits), [{"at": 0, "action": "x" * 3000, "records": 0}] * 200
                )
            )

        with database.read() as reader:
            assert reader.exec_driver_sql("SELECT count(*) FROM audits").scalar() == 0
            for _ in range(10):
                write()
            assert log.stat().st_size > 4 << 20
        for _ in range(4):
            write()
        assert log.stat().st_size < 4 << 20
        with database.read() as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM audits").scalar() == 2800
        database.close()
