"""Pages of results: where one ends and the next begins, also while the job goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event, text

from textmill.core.errors import InvalidJobError
from textmill.core.jobs import Record
from textmill.db import score_order
from textmill.db.filters import ResultFilter
from textmill.db.jobs import get_job
from textmill.db.loading import NewChunk, add_chunks, create_job, finish_loading
from textmill.db.payloads import encode_payload
from textmill.db.queries import Page, iter_results, read_page
from textmill.db.rerun import rerun_job
from textmill.db.results import ResultRow, to_json
from textmill.db.retry import retry_job
from textmill.db.session import Database

from .. import builders, submissions
from ..builders import claim_all, complete, job_of, make_job, snapshot, spec
from ..entries import read_values
from ..filled import add_rows, filled_job
from ..servers import wait_until
from ..submissions import send

# Fixtures; imported by name, they would be redefined by every test's parameter.
tables_url = builders.tables_url
postgresql = builders.postgresql
database = builders.database
small_chunks = submissions.small_chunks

SCORES = [0.1 + 0.2, 0.3, 1e-300, 5e-324, 0.0, -0.0, -1.5, 1.0, 1 / 3, 123456789.12345678, 0.3]


def indexes(page: Page) -> list[int]:
    return [row.record_index for row in page.rows]


def scored(scores: list[float]) -> list[ResultRow]:
    return [ResultRow(n, f"r{n}", "x", None, "a", score) for n, score in enumerate(scores)]


def test_a_page_says_where_the_next_one_begins_unless_it_is_the_last(database: Database) -> None:
    job = filled_job(database, scored([0.5] * 6))
    page = read_page(database, job, ResultFilter(), 3)
    assert (indexes(page), page.after) == ([0, 1, 2], "2")
    page = read_page(database, job, ResultFilter(after="2"), 3)
    assert (indexes(page), page.after) == ([3, 4, 5], None)
    assert read_page(database, job, ResultFilter(after="5"), 3) == Page([], None)
    assert read_page(database, job, ResultFilter(after="99999"), 3) == Page([], None)
    page = read_page(database, job, ResultFilter(order="score", after="0.5:1"), 3)
    assert (indexes(page), page.after) == ([2, 3, 4], "0.5:4")
    assert read_page(database, job, ResultFilter(), 7).after is None


def test_a_score_of_any_size_is_a_place_to_go_on_from(database: Database) -> None:
    job = filled_job(database, scored(SCORES))
    found: list[int] = []
    after = None
    while True:
        page = read_page(database, job, ResultFilter(order="score", after=after), 1)
        found += indexes(page)
        after = page.after
        if after is None:
            break
    expected = sorted(range(len(SCORES)), key=lambda n: (-SCORES[n], n))
    assert found == expected


@pytest.mark.parametrize("given", ["score", "input", "fastest"])
@pytest.mark.parametrize(
    "after",
    ["", "x", "1:2:3", "1.5", "-1", "-5", "1e3", "0.5:", "0.5:x", ":5", "x:5", "0.5:-1", "nan:5",
     "inf:5", "-inf:5", "99999999999999999999", "0.5:99999999999999999999", "1099511627776", " "],
)  # fmt: skip
def test_a_place_that_no_page_ended_at_is_refused(after: str, given: Any) -> None:
    with pytest.raises(InvalidJobError) as raised:
        ResultFilter(after=after, order=given)
    assert f"after is {after!r}; expected what an earlier page of the same order" in str(
        raised.value
    )


def test_a_place_of_the_other_order_is_refused() -> None:
    assert ResultFilter(after="5").position()[1] == 5
    assert ResultFilter(after="0.25:5", order="score").position() == (0.25, 5)
    for after, order in (("5", "score"), ("0.25:5", "input"), ("0.25:5", "fastest")):
        with pytest.raises(InvalidJobError, match="of the same order"):
            ResultFilter(after=after, order=order)  # type: ignore[arg-type]


def test_rows_that_come_while_a_job_is_paged_are_seen_behind_the_page(database: Database) -> None:
    """A page is what there is; a row that comes before its end is for who asks again."""
    job_id = make_job(database, (2, 2, 2), extra_columns=["n"], index_columns=("n",))
    first, second, third = claim_all(database, job_id)
    asked = {"input": ResultFilter(), "words": ResultFilter(search="text")}

    complete(database, second)
    job = job_of(database, job_id)
    pages = {name: read_page(database, job, wanted, 1) for name, wanted in asked.items()}
    assert [indexes(page) for page in pages.values()] == [[2], [2]]
    assert [page.after for page in pages.values()] == ["2", "2"]

    complete(database, third)
    complete(database, first)
    for name, wanted in asked.items():
        behind = ResultFilter(search=wanted.search, after=pages[name].after)
        assert indexes(read_page(database, job, behind, 10)) == [3, 4, 5]
        assert indexes(read_page(database, job, wanted, 10)) == [0, 1, 2, 3, 4, 5]
    assert [row.record_index for row in iter_results(database, job, asked["input"])] == [*range(6)]


def test_a_job_that_ends_while_its_rows_are_read_gives_all_that_come_behind(
    database: Database,
) -> None:
    job_id = make_job(database, [1] * 6)
    claims = claim_all(database, job_id)
    for claimed in claims[:3]:
        complete(database, claimed)
    job = job_of(database, job_id)
    for wanted in (ResultFilter(), ResultFilter(search="text")):
        rows = iter_results(database, job, wanted, page_rows=2)
        assert [next(rows).record_index for _ in range(2)] == [0, 1]
        if claims[3:]:
            for claimed in claims[3:]:
                complete(database, claimed)
            del claims[3:]
        assert [row.record_index for row in rows] == [2, 3, 4, 5]


def test_a_label_that_is_new_since_the_first_page_is_on_the_next_one(database: Database) -> None:
    job_id = make_job(database, (2, 2))
    first, second = claim_all(database, job_id)
    complete(database, first, label="ham")
    wanted = ResultFilter(order="score")
    page = read_page(database, job_of(database, job_id), wanted, 1)
    complete(database, second, label="spam")
    wanted = ResultFilter(order="score", after=page.after)
    assert indexes(read_page(database, job_of(database, job_id), wanted, 9)) == [1, 2, 3]


@pytest.mark.parametrize(
    "wanted", [{}, {"search": "text"}, {"where": {"n": "3"}}, {"label": "ham"}]
)
def test_rows_that_go_while_they_are_read_are_left_out(
    database: Database, wanted: dict[str, Any]
) -> None:
    job_id = make_job(database, (3, 3), extra_columns=["n"], index_columns=("n",))
    for claimed in claim_all(database, job_id):
        complete(database, claimed)
    job = job_of(database, job_id)
    rows = iter_results(database, job, ResultFilter(**wanted), page_rows=1)
    next(rows)
    database.transact(rerun_job, job_id)
    assert list(rows) == []
    # And what runs again is found again, by its new row.
    for claimed in claim_all(database, job_id):
        complete(database, claimed, label="spam")
    job = job_of(database, job_id)
    found = list(iter_results(database, job, ResultFilter(**wanted, order="score")))
    assert {row.label for row in found} == ({"spam"} if "label" not in wanted else set())


def test_what_runs_again_is_found_by_what_it_is_now(database: Database) -> None:
    job_id = make_job(database, (2,), extra_columns=["n"], index_columns=("n",))
    (claimed,) = claim_all(database, job_id)
    complete(database, claimed, {1})
    job = job_of(database, job_id)
    where = ResultFilter(where={"n": "1"}, search="text")
    assert [row.error_code for row in iter_results(database, job, where)] == ["too_long"]
    database.transact(retry_job, job_id)
    assert list(iter_results(database, job, where)) == []
    (claimed,) = claim_all(database, job_id)
    complete(database, claimed)
    assert [row.label for row in iter_results(database, job, where)] == ["ham"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("DE", "DE"), ("", ""), ("a" * 3000, "a" * 3000), ("'\\é\n", "'\\é\n"), (7, "7"),
        (2**63, "9223372036854775808"), (1.0, "1.0"), (0.1 + 0.2, "0.30000000000000004"),
        (-0.0, "0.0"), (1e15, "1000000000000000.0"), (1e16, "10000000000000000"),
        (1e22, "10000000000000000000000"), (1e-7, "1e-7"), (True, "true"), (False, "false"),
        (None, None), ([1, "x"], None), ({"bb": 1, "a": [2]}, None),
    ],
    ids=str,
)  # fmt: skip
def test_a_declared_value_is_found_and_goes_with_its_row(
    database: Database, value: Any, text: str | None
) -> None:
    """As JSON the value is another text on PostgreSQL than in the input."""
    records = [Record(n, f"id{n}", {"text": "x"}, extra={"n": value}) for n in range(2)]
    with database.write() as connection:
        job_id = create_job(
            connection, spec(index_columns=("n",)), extra_columns=["n"], load_seconds=60
        )
        add_chunks(connection, job_id, [NewChunk(2, encode_payload(records))], load_seconds=60)
        finish_loading(connection, job_id, total=2, errors=0, input_hash=b"hash")
    for again in (retry_job, rerun_job, None):
        (claimed,) = claim_all(database, job_id)
        complete(database, claimed, {0, 1})
        job = job_of(database, job_id)
        if text is not None:
            wanted = ResultFilter(where={"n": value})
            assert [row.record_index for row in iter_results(database, job, wanted)] == [0, 1]
            assert wanted.wanted_values == {"n": text}
        with database.read() as connection:
            assert len(read_values(connection)) == (0 if text is None else 2)
        if again is not None:
            assert database.transact(again, job_id) == 2
            with database.read() as connection:
                assert read_values(connection) == set()


def test_rows_of_more_labels_than_are_merged_come_by_their_score(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        ResultRow(n, f"r{n}", "x", None, f"label {n % 150}", (n * 7919 % 1000) / 1000)
        for n in range(600)
    ]
    job = filled_job(database, rows)
    expected = sorted(range(600), key=lambda n: (-(rows[n].score or 0), n))
    for merged in (score_order.MERGED, 100):
        monkeypatch.setattr(score_order, "MERGED", merged)
        found = iter_results(database, job, ResultFilter(order="score"), page_rows=250)
        assert [row.record_index for row in found] == expected
        page = read_page(database, job, ResultFilter(order="score", label="label 7"), 9)
        assert indexes(page) == sorted(range(7, 600, 150), key=expected.index)


def test_many_labels_are_asked_for_in_few_queries(database: Database) -> None:
    """Of its own each label would be one; and some rows have none."""
    names = ["it's", 'a "b"', "é 🏳", "1", "null", *(f"label {n}" for n in range(1200))]
    rows = [
        ResultRow(n, f"r{n}", "x", None, names[n % 1300] if n % 1300 < 1205 else None, n / 2600)
        for n in range(2600)
    ]
    job = filled_job(database, rows)
    asked: list[str] = []

    @event.listens_for(database.engine, "before_cursor_execute")
    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        asked.append(statement)

    page = read_page(database, job, ResultFilter(order="score"), 200)
    assert indexes(page) == list(range(2599, 2399, -1))
    page = read_page(database, job, ResultFilter(order="score", after=page.after), 200)
    assert indexes(page) == list(range(2399, 2199, -1))
    page = read_page(database, job, ResultFilter(min_score=2000 / 2600), 200)
    assert indexes(page) == list(range(2000, 2200))
    assert len(asked) < 60
    for label in names[:5]:
        wanted = ResultFilter(label=label, order="score")
        at = names.index(label)
        assert indexes(read_page(database, job, wanted, 5)) == [1300 + at, at]


STEPS_OF_A_PAGE = 30_000
STEPS_COUNTED = 100  # at a time


def test_a_page_reads_no_more_than_a_page(database: Database) -> None:
    """Of a frequent word, value and label, and by score: a few hundred rows of many."""
    rows = [
        ResultRow(n, f"r{n}", "same word", None, "a", n / 5000, extra=to_json({"c": "DE"}))
        for n in range(5000)
    ]
    job = filled_job(database, rows, extra_columns=["c"], index_columns=("c",))
    for wanted in (
        {},
        {"label": "a"},
        {"search": "word"},
        {"where": {"c": "DE"}},
        {"order": "score"},
        {"order": "score", "label": "a", "after": "0.5:2500"},
        {"search": '"same word"', "after": "4000"},
    ):
        with counted(database) as work:
            page = read_page(database, job, ResultFilter(**wanted), 50)  # type: ignore[arg-type]
        assert len(page.rows) == 50
        # Of all 5,000 rows it would be more.
        assert 50 <= work[0] < (STEPS_OF_A_PAGE if database.is_sqlite else 2500), wanted


@contextmanager
def counted(database: Database) -> Iterator[list[int]]:
    """What is done meanwhile: steps of SQLite's machine, or rows that PostgreSQL fetches."""
    work = [0]
    if not database.is_sqlite:
        before = fetched_rows(database)
        yield work
        work[0] = fetched_rows(database) - before
        return

    def step() -> None:
        work[0] += STEPS_COUNTED

    with database.read() as connection:
        driver: Any = connection.connection.driver_connection
        driver.set_progress_handler(step, STEPS_COUNTED)
    yield work
    driver.set_progress_handler(None, 0)


def fetched_rows(database: Database) -> int:
    """Rows of results and their values that PostgreSQL has read so far.

    A session tells its counts when it ends, before it is gone from the list.
    """
    database.engine.dispose()
    sessions = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' "
    sessions += "AND datname = current_database() AND pid <> pg_backend_pid()"

    def others() -> int:
        with database.read() as connection:
            return int(connection.scalar(text(sessions)) or 0)

    wait_until(lambda: others() == 0, 30, what="ended")
    query = (
        "SELECT sum(idx_tup_fetch + seq_tup_read) FROM pg_stat_user_tables "
        "WHERE relname IN ('results', 'result_values')"
    )
    with database.read() as connection:
        return int(connection.scalar(text(query)) or 0)


def test_rows_that_could_not_be_read_are_found_by_their_declared_columns(
    database: Database, small_chunks: None
) -> None:
    rows = [{"id": n, "text": None if n % 4 else f"t{n}", "country": "DE"} for n in range(60)]
    given = spec(index_columns=("country",))
    done = send(database, rows, given, id_column="id", skip_bad=True)
    job = job_of(database, done.job_id)
    assert job.error_records == 45
    wanted = ResultFilter(where={"country": "DE"}, errors=True)
    found = [row.record_index for row in iter_results(database, job, wanted)]
    assert found == [n for n in range(60) if n % 4]


def test_a_column_that_is_not_kept_cannot_be_declared(database: Database) -> None:
    rows = [{"text": "a", "country": "DE"}]
    before = snapshot(database)
    for name, problem in (
        ("contry", r"no column 'contry' to index; .*: country \(did you mean 'country'\?\)"),
        ("text", r"no column 'text' to index; the results keep of other columns: country$"),
        ("", r"no column '' to index"),
    ):
        with pytest.raises(InvalidJobError, match=problem):
            send(database, rows, spec(index_columns=(name,)))
    with pytest.raises(InvalidJobError, match=r"no column '' to index"):
        send(database, [{"text": "a", "": "x"}], spec(index_columns=("",)))
    assert snapshot(database) == before


def test_a_job_being_loaded_shows_the_rows_it_has(database: Database) -> None:
    job_id = make_job(database, (1,), bad=3, finish=False)
    job = job_of(database, job_id)
    assert [row.record_index for row in iter_results(database, job, ResultFilter())] == [1, 2, 3]
    errors = iter_results(database, job, ResultFilter(errors=True))
    assert [row.record_index for row in errors] == [1, 2, 3]


def test_jobs_without_rows_have_no_page(database: Database) -> None:
    job = filled_job(database, [], extra_columns=["n"], index_columns=("n",))
    for wanted in (
        {},
        {"search": "x"},
        {"label": "a"},
        {"where": {"n": "1"}},
        {"errors": True},
        {"min_score": 0.5},
        {"order": "score"},
        {"order": "score", "search": "x"},
    ):
        page = read_page(database, job, ResultFilter(**wanted), 5)  # type: ignore[arg-type]
        assert page == Page([], None)
    with database.write() as connection:
        add_rows(connection, job.id, scored([0.5]))
        job = get_job(connection, job.id)
    assert indexes(read_page(database, job, ResultFilter(), 5)) == [0]
