"""Questions to the results: each filter, pages in both orders, and counts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Row

from textmill.db.filters import ResultFilter
from textmill.db.queries import (
    LabelCount,
    count_errors,
    count_labels,
    count_results,
    iter_results,
)
from textmill.db.results import ResultRow, to_json
from textmill.db.session import Database

from ..builders import with_tables
from ..filled import filled_job

HOSTILE = 'a\tb\nc\\d\r\\N\\.\n"quoted" \u2028 🏳️‍🌈'

ROWS = [
    ResultRow(0, "a", "Buy NOW", None, "spam", 0.9, detail=to_json({"labels": ["spam", "ad"]})),
    ResultRow(1, "b", "see you", None, "ham", 0.8, "out", None, to_json({"x": 1}), None, None),
    ResultRow(2, "c", "100% free_gift", None, "spam", 0.9, extra=to_json({"n": [1, None, "é"]})),
    ResultRow(3, "d", "100 freeX", None, "ham", 0.5, detail=to_json({"labels": ["ham", "ad"]})),
    ResultRow(4, "e", "buy one", error_code="too_long", error_message="600 tokens"),
    ResultRow(5, "f", None, error_code="bad_row", error_message="no text"),
    ResultRow(6, "g", "buy two", error_code="too_long", error_message="500 tokens"),
    ResultRow(7, "h", HOSTILE, None, "ham", 0.9),
    ResultRow(8, "i", "c:\\dir", None, "eggs", 0.1, detail=to_json({"labels": ["eggs", "bad"]})),
    ResultRow(9, "j", "", None, "ham", None, ""),
]


@pytest.fixture(scope="module")
def databases(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, tuple[Database, Row[Any]]]]:
    """Both databases with the rows, made once: the questions change nothing."""
    postgres = request.getfixturevalue("postgres")
    urls = {
        "sqlite": f"sqlite:///{tmp_path_factory.mktemp('queries') / 'textmill.db'}",
        "postgresql": postgres.create_database(),
    }
    made = {name: with_tables(url) for name, url in urls.items()}
    yield {name: fill(next(database)) for name, database in made.items()}
    for database in made.values():
        next(database, None)
    postgres.drop_database(urls["postgresql"])


def fill(database: Database) -> tuple[Database, Row[Any]]:
    job = filled_job(database, ROWS, extra_columns=["n"])
    filled_job(database, [row._replace(record_id="other") for row in ROWS])
    return database, job


@pytest.fixture(params=["sqlite", "postgresql"])
def filled(
    request: pytest.FixtureRequest, databases: dict[str, tuple[Database, Row[Any]]]
) -> tuple[Database, Row[Any]]:
    return databases[request.param]


def found(filled: tuple[Database, Row[Any]], page_rows: int = 100, **wanted: Any) -> list[int]:
    database, job = filled
    rows = list(iter_results(database, job, ResultFilter(**wanted), page_rows=page_rows))
    assert all(row.record_id == ROWS[row.record_index].record_id for row in rows)
    return [row.record_index for row in rows]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, list(range(10))),
        ({"label": "spam"}, [0, 2]),
        ({"label": "ad"}, [0, 3]),  # the second label of 0, the only one in the detail of 3
        ({"label": "SPAM"}, []),
        ({"label": 'a"d'}, []),
        ({"min_score": 0.8}, [0, 1, 2, 7]),
        ({"max_score": 0.8}, [1, 3, 8]),
        ({"min_score": 0.5, "max_score": 0.8}, [1, 3]),
        ({"search": "buy"}, [0, 4, 6]),
        ({"search": "BUY -one"}, [0, 6]),
        ({"search": "uy"}, []),  # a word, not a part of one
        ({"search": "free"}, [2]),
        ({"search": "free*"}, [2, 3]),
        ({"search": "free_gift"}, [2]),
        ({"search": "GIFT free"}, [2]),
        ({"search": '"gift free"'}, []),
        ({"search": "out"}, [1]),
        ({"search": '"you out"'}, []),  # no phrase reaches from a text into its output
        ({"search": "dir"}, [8]),
        ({"search": "'dir'"}, [8]),
        ({"search": "dir OR quoted"}, [7, 8]),
        ({"errors": True}, [4, 5, 6]),
        ({"errors": False}, [0, 1, 2, 3, 7, 8, 9]),
        ({"error_code": "too_long"}, [4, 6]),
        ({"record_id": "c"}, [2]),
        ({"record_id": "other"}, []),
        ({"label": "ham", "min_score": 0.6, "search": "YOU"}, [1]),
        ({"where": {"n": "1"}}, []),
        ({"limit": 3}, [0, 1, 2]),
        ({"order": "fastest"}, list(range(10))),
        ({"order": "score"}, [0, 2, 7, 1, 3, 8]),
        ({"order": "score", "limit": 4}, [0, 2, 7, 1]),
        ({"order": "score", "label": "ham"}, [7, 1, 3]),
        ({"order": "score", "label": "ad"}, [0, 3]),
        ({"order": "score", "search": "free", "limit": 0}, []),
    ],
)
def test_each_filter_gives_its_rows_in_order(
    filled: tuple[Database, Row[Any]], wanted: dict[str, Any], expected: list[int]
) -> None:
    for page_rows in (1, 2, 3, 100):
        assert found(filled, page_rows, **wanted) == expected


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, 10),
        ({"limit": 3}, 10),
        ({"after": "4"}, 10),
        ({"errors": True}, 3),
        ({"errors": False}, 7),
        ({"label": "ham"}, 4),
        ({"label": "ad"}, 2),
        ({"label": "nothing"}, 0),
        ({"order": "score"}, None),
        ({"search": "buy"}, None),
        ({"label": "ham", "min_score": 0.6}, None),
        ({"where": {"n": "1"}}, None),
        ({"error_code": "too_long"}, None),
    ],
)
def test_rows_are_counted_where_that_is_known_at_once(
    filled: tuple[Database, Row[Any]], wanted: dict[str, Any], expected: int | None
) -> None:
    database, job = filled
    with database.read() as connection:
        assert count_results(connection, job, ResultFilter(**wanted)) == expected


def test_a_limit_ends_at_the_row_whatever_the_page(filled: tuple[Database, Row[Any]]) -> None:
    for limit in range(12):
        for order in ("input", "score"):
            for page_rows in (1, 3, 5):
                everything = found(filled, order=order)
                assert found(filled, page_rows, order=order, limit=limit) == everything[:limit]


def test_a_result_comes_back_as_it_was_written(filled: tuple[Database, Row[Any]]) -> None:
    database, job = filled
    rows = list(iter_results(database, job, ResultFilter()))
    assert [row.text for row in rows] == [row.text for row in ROWS]
    assert rows[0].detail == {"labels": ["spam", "ad"]}
    assert rows[2].extra == {"n": [1, None, "é"]}
    assert (rows[1].detail, rows[1].extra, rows[1].output) == ({"x": 1}, None, "out")
    assert (rows[9].text, rows[9].output, rows[9].score) == ("", "", None)
    assert (rows[4].label, rows[4].error_code, rows[4].error_message) == (
        None,
        "too_long",
        "600 tokens",
    )


def test_no_transaction_is_open_between_two_pages(filled: tuple[Database, Row[Any]]) -> None:
    database, job = filled
    rows = iter_results(database, job, ResultFilter(), page_rows=2)
    next(rows)
    assert database.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    assert len(list(rows)) == 9


def test_labels_are_counted_most_frequent_first(filled: tuple[Database, Row[Any]]) -> None:
    database, job = filled
    with database.read() as connection:
        assert count_labels(connection, job.id) == [
            LabelCount("ham", 4),
            LabelCount("ad", 2),
            LabelCount("spam", 2),
            LabelCount("bad", 1),
            LabelCount("eggs", 1),
        ]


def test_errors_are_counted_by_code_with_an_example(filled: tuple[Database, Row[Any]]) -> None:
    database, job = filled
    with database.read() as connection:
        assert count_errors(connection, job.id) == [
            ("too_long", 2, "500 tokens"),
            ("bad_row", 1, "no text"),
        ]
