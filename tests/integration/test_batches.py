"""Result rows as columns: which rows come, in which order, and in pages of bounded size."""

from __future__ import annotations

import random

import pytest
from sqlalchemy import select, text

from textmill.db.batches import iter_batches
from textmill.db.models import results
from textmill.db.results import ResultRow
from textmill.db.session import Database

from .. import builders
from ..exported import fill
from ..servers import wait_until

database, postgresql, tables_url = builders.database, builders.postgresql, builders.tables_url


def test_rows_come_in_the_order_that_is_asked_for(database: Database) -> None:
    scores = [0.5, None, 0.9, 0.5, 0.1, 0.9]
    rows = [ResultRow(at, f"r{at}", score=score) for at, score in enumerate(scores)]
    job = fill(database, rows, [])
    for order, expected in {
        "input": [0, 1, 2, 3, 4, 5],
        "fastest": [0, 1, 2, 3, 4, 5],
        "score": [2, 5, 0, 3, 4],
    }.items():
        for page_rows in (1, 2, 3, 100):
            for limit in (None, 0, 1, 2, 4, 99):
                batches = iter_batches(
                    database,
                    job,
                    columns=["record_index"],
                    order=order,  # type: ignore[arg-type]
                    limit=limit,
                    page_rows=page_rows,
                )
                found = [index for batch in batches for index in batch.column(0).to_pylist()]
                assert found == expected[:limit], (order, page_rows, limit)


def test_a_query_of_conditions_decides_which_rows(database: Database) -> None:
    rows = [ResultRow(at, f"r{at}", label="spam" if at % 3 else "ham") for at in range(20)]
    job = fill(database, rows, [])
    query = select(results.c.text).where(
        results.c.job_id == job.id, results.c.label == "spam", results.c.record_id.in_(["r1", "r8"])
    )
    batches = iter_batches(database, job, query, columns=["record_id", "label"], page_rows=1)
    assert [row for batch in batches for row in batch.to_pylist()] == [
        {"record_id": "r1", "label": "spam"},
        {"record_id": "r8", "label": "spam"},
    ]


@pytest.mark.parametrize("page_rows", [1, 8, 50])
def test_rows_are_found_however_they_lie(database: Database, page_rows: int) -> None:
    """Few in a wide window, many in the next; a job that was interrupted has gaps."""
    dice = random.Random(page_rows)
    shares = [0.0, 0.01, 1.0, 0.0, 0.5, 1.0, 0.02]
    labels = ["spam" if dice.random() < share else "ham" for share in shares for _ in range(150)]
    rows = [ResultRow(3 * at, f"r{at}", label=label) for at, label in enumerate(labels)]
    job = fill(database, [row for row in rows if dice.random() < 0.9 or row.label == "spam"], [])
    query = select(results).where(results.c.job_id == job.id, results.c.label == "spam")
    expected = [row.record_index for row in rows if row.label == "spam"]
    for limit in (None, 1, 7, len(expected)):
        batches = iter_batches(
            database, job, query, columns=["record_index"], limit=limit, page_rows=page_rows
        )
        found = [index for batch in batches for index in batch.column(0).to_pylist()]
        assert found == expected[:limit]


def test_a_job_that_the_planner_knows_nothing_of_is_read_once(postgresql: Database) -> None:
    """Before ANALYZE PostgreSQL expects a few rows of it, and would sort all for every page."""
    rows = 20_000
    job = fill(postgresql, [ResultRow(at, f"r{at}", "text") for at in range(rows)], [])
    before = fetched_rows(postgresql)
    batches = iter_batches(postgresql, job, columns=["record_index"], page_rows=500)
    assert sum(batch.num_rows for batch in batches) == rows
    wait_until(lambda: fetched_rows(postgresql) >= before + rows, 30, what="counted")
    assert fetched_rows(postgresql) < before + 2 * rows


def fetched_rows(database: Database) -> int:
    """Rows that PostgreSQL has fetched by an index of ``results`` so far."""
    query = "SELECT idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'results'"
    with database.read() as connection:
        connection.execute(text("SELECT pg_stat_force_next_flush()"))
    with database.read() as connection:
        return connection.scalar(text(query)) or 0


def test_a_page_of_large_rows_ends_early(database: Database) -> None:
    """Whatever the rows before were like; and the connection is as good as before."""
    sizes = [10] * 300 + [1_000_000] * 60 + [10] * 100
    rows = [ResultRow(at, f"r{at}", "x" * size) for at, size in enumerate(sizes)]
    job = fill(database, rows, [])
    for _ in range(2):
        batches = list(iter_batches(database, job, columns=["record_index", "text"]))
        found = [index for batch in batches for index in batch.column(0).to_pylist()]
        assert found == list(range(len(sizes)))
        # At most what is fetched at once is over the limit of 4 MB.
        assert max(batch.nbytes for batch in batches) < (4 << 20) + 65 * 1_000_000
        assert len(batches) > 3
