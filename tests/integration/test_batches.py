"""Result rows as columns: which rows come, in which order, and in pages of bounded size."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from sqlalchemy import text

from textmill.db.batches import LimitedBatches, iter_batches
from textmill.db.chunks import count_labels_of
from textmill.db.filters import ResultFilter
from textmill.db.indexing import make_entries
from textmill.db.models import jobs
from textmill.db.queries import iter_pages, iter_results
from textmill.db.raw_rows import PAGE_BYTES
from textmill.db.results import ResultRow, to_json, write_results
from textmill.db.session import Database

from .. import builders
from ..builders import job_of, put
from ..exported import fill
from ..filled import filled_job
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
                wanted = ResultFilter(order=order, limit=limit)  # type: ignore[arg-type]
                batches = iter_batches(database, job, wanted, ["record_index"], page_rows=page_rows)
                found = [index for batch in batches for index in batch.column(0).to_pylist()]
                assert found == expected[:limit], (order, page_rows, limit)


WORDS = ["free", "prize", "call", "now", "urgent", "reply", "later"]
FILTERS: list[dict[str, Any]] = [
    {},
    {"label": "spam"},
    {"label": "ham", "min_score": 0.5},
    {"max_score": 0.1},
    {"errors": True},
    {"errors": False, "limit": 17},
    {"record_id": "r31"},
    {"where": {"country": "DE"}},
    {"where": {"page": "3"}},
    {"search": "free -prize"},
    {"search": '"urgent reply"', "label": "spam"},
    {"search": "call", "limit": 5},
    {"after": "40"},
    {"order": "score"},
    {"order": "score", "label": "spam", "search": "free"},
]


@pytest.mark.parametrize("full_text", [True, False])
def test_a_filter_gives_the_rows_that_it_gives_one_by_one(
    database: Database, full_text: bool
) -> None:
    dice = random.Random(1)
    rows = []
    for at in range(200):
        words = " ".join(dice.choices(WORDS, k=5))
        label = None if at % 20 == 7 else dice.choice(["spam", "ham"])
        extra = to_json({"country": dice.choice(["DE", "FR"]), "page": at // 10})
        error = "too_long" if label is None else None
        score = None if error else round(dice.random(), 2)
        rows.append(
            ResultRow(at, f"r{at}", words, None, label, score, error_code=error, extra=extra)
        )
    job = fill(database, [], ["country", "page"])
    put(
        database,
        jobs,
        jobs.c.id == job.id,
        full_text=full_text,
        index_columns=["country"],
        total_records=len(rows),
        error_records=10,
    )
    job = job_of(database, job.id)
    with database.write() as connection:
        entries = make_entries(job, rows, sqlite=database.is_sqlite)
        write_results(connection, job.id, rows, entries)
        count_labels_of(connection, job.id, Counter(row.label for row in rows if row.label))
    for given in FILTERS:
        wanted = ResultFilter(**given)
        expected = [row.record_id for row in iter_results(database, job, wanted)]
        assert expected
        for page_rows in (1, 7, 500):
            batches = iter_batches(database, job, wanted, ["record_id"], page_rows=page_rows)
            found = [one for batch in batches for one in batch.column(0).to_pylist()]
            assert found == expected, (given, page_rows)


@pytest.mark.parametrize("full_text", [True, False])
def test_words_are_found_beside_columns_of_our_names(database: Database, full_text: bool) -> None:
    """As in the SMS example, whose file has a column ``label``."""
    own = {"label": "known", "text": "other", "output": "more", "record_id": "mine"}
    rows = [
        ResultRow(at, f"r{at}", words, label="spam", extra=to_json(own))
        for at, words in enumerate(["free prize", "see you", "a prize"])
    ]
    job = filled_job(database, rows, extra_columns=list(own), full_text=full_text)
    names = ["record_index", "label", "score"]
    for columns in (names, [*names, "output", "text"]):
        for order in ("input", "score"):
            wanted = ResultFilter(search="prize", order=order)  # type: ignore[arg-type]
            batches = list(iter_batches(database, job, wanted, columns, list(own)))
            if order == "score":
                assert batches == []  # these have none
                continue
            (batch,) = batches
            assert batch.schema.names == [*columns, *own]
            assert batch.column(0).to_pylist() == [0, 2]
            assert batch.column(1).to_pylist() == ["spam", "spam"]
            assert batch.column(len(columns)).to_pylist() == ["known", "known"]


@pytest.mark.parametrize("order", ["input", "score"])
def test_a_limited_read_knows_where_the_next_begins(database: Database, order: Any) -> None:
    rows = [ResultRow(at, f"r{at}", score=(at * 7 % 10) / 10) for at in range(10)]
    job = fill(database, rows, [])
    whole = [row.record_index for row in iter_results(database, job, ResultFilter(order=order))]
    for limit in (1, 3, 5, 10, 11):
        found: list[int] = []
        after: str | None = None
        for _ in range(11):
            wanted = ResultFilter(order=order, limit=limit, after=after)
            page = LimitedBatches(database, job, wanted)
            for batch in page.read(["score", "record_index"], []):
                found += batch.column(1).to_pylist()
            after = page.after
            if after is None:
                break
        assert found == whole, limit
    none = LimitedBatches(database, job, ResultFilter())
    assert sum(batch.num_rows for batch in none.read(["record_index", "score"], [])) == 10
    assert none.after is None


@pytest.mark.parametrize("page_rows", [1, 8, 50])
def test_rows_are_found_however_they_lie(database: Database, page_rows: int) -> None:
    """Few in a wide window, many in the next; a job that was interrupted has gaps."""
    dice = random.Random(page_rows)
    shares = [0.0, 0.01, 1.0, 0.0, 0.5, 1.0, 0.02]
    labels = ["spam" if dice.random() < share else "ham" for share in shares for _ in range(150)]
    rows = [ResultRow(3 * at, f"r{at}", label=label) for at, label in enumerate(labels)]
    job = fill(database, [row for row in rows if dice.random() < 0.9 or row.label == "spam"], [])
    expected = [row.record_index for row in rows if row.label == "spam"]
    for limit in (None, 1, 7, len(expected)):
        wanted = ResultFilter(label="spam", limit=limit)
        batches = iter_batches(database, job, wanted, ["record_index"], page_rows=page_rows)
        found = [index for batch in batches for index in batch.column(0).to_pylist()]
        assert found == expected[:limit]


def test_a_job_that_the_planner_knows_nothing_of_is_read_once(postgresql: Database) -> None:
    """Before ANALYZE PostgreSQL expects a few rows of it, and would sort all for every page."""
    rows = 20_000
    job = fill(postgresql, [ResultRow(at, f"r{at}", "text") for at in range(rows)], [])
    before = fetched_rows(postgresql)
    batches = iter_batches(postgresql, job, ResultFilter(), ["record_index"], page_rows=500)
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
        batches = list(iter_batches(database, job, ResultFilter(), ["record_index", "text"]))
        found = [index for batch in batches for index in batch.column(0).to_pylist()]
        assert found == list(range(len(sizes)))
        # At most what is fetched at once is over the limit of 4 MB.
        assert max(batch.nbytes for batch in batches) < (4 << 20) + 65 * 1_000_000
        assert len(batches) > 3


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"order": "score"},
        {"label": "rare"},
        {"label": "rare", "order": "score"},
        {"search": "word"},
        {"search": "word", "order": "score"},
        {"search": "word", "limit": 20, "order": "score", "after": "0.89:1"},
    ],
)
def test_no_page_holds_more_bytes_than_a_page(database: Database, given: dict[str, Any]) -> None:
    """Objects or columns, in any order: as few rows at a time as they are large."""
    rows = [
        ResultRow(
            at,
            f"r{at}",
            "word " * (200_000 if at % 3 else 1),
            label="common" if at % 5 else "rare",
            score=(at * 7 % 40) / 40,
        )
        for at in range(40)
    ]
    job = filled_job(database, rows)
    wanted = ResultFilter(**given)
    expected = [row.record_index for row in rows if given.get("label") in (None, row.label)]
    if wanted.order == "score":
        expected.sort(key=lambda at: (-(rows[at].score or 0), at))
    if wanted.after is not None:
        expected = [at for at in expected if (rows[at].score or 0) < 0.89][:20]
    pages = list(iter_pages(database, job, wanted))
    assert [row.record_index for page in pages for row in page] == expected
    assert max(sum(len(row.text or "") for row in page) for page in pages) < 2 * PAGE_BYTES
    batches = list(iter_batches(database, job, wanted, ["record_index", "text"]))
    assert [index for batch in batches for index in batch.column(0).to_pylist()] == expected
    assert max(batch.nbytes for batch in batches) < 2 * PAGE_BYTES


def test_a_row_larger_than_a_page_is_one(database: Database) -> None:
    sizes = [10, PAGE_BYTES + 10, 10, 10, 2 * PAGE_BYTES, 10]
    rows = [ResultRow(at, f"r{at}", "x" * size, score=at / 10) for at, size in enumerate(sizes)]
    job = filled_job(database, rows, full_text=False)
    for order, expected in (("input", sizes), ("score", sizes[::-1])):
        wanted = ResultFilter(order=order)  # type: ignore[arg-type]
        assert [len(row.text or "") for row in iter_results(database, job, wanted)] == expected
        batches = iter_batches(database, job, wanted, ["text"])
        assert [len(one) for batch in batches for one in batch.column(0).to_pylist()] == expected
