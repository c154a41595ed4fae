"""Every filter by itself and with others, against what Python finds in the same rows."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from itertools import combinations
from typing import Any

import orjson
import pytest
from sqlalchemy import Row

from textmill.core.errors import InvalidJobError
from textmill.core.search import matches, parse_search, words_of_row
from textmill.db import queries, score_order, sources
from textmill.db.filters import ResultFilter
from textmill.db.indexing import value_text
from textmill.db.queries import is_streamed, iter_results, read_page
from textmill.db.results import ResultRow, to_json
from textmill.db.session import Database

from ..builders import with_tables
from ..filled import filled_job, labels_of

WORDS = ["free", "win", "prize", "call", "now", "urgent", "reply", "see", "later", "ok"]
WORDS += ["Straße", "東京"]
ROWS = 700
DECLARED = ("country", "n", "a.b", 'q"uote', "$[0]", "0", "long", "é\n")
EXTRA = (*DECLARED, "undeclared")
LONG = "x" * 250

Job = Row[Any]


def make_rows(seed: int) -> list[ResultRow]:
    rng = random.Random(seed)
    return [make_row(rng, index) for index in range(ROWS)]


def make_row(rng: random.Random, index: int) -> ResultRow:
    text = " ".join(rng.choice(WORDS) for _ in range(rng.randrange(9)))
    extra = to_json(make_extra(rng, index)) if index % 11 else None
    if index % 13 == 12:
        code = rng.choice(["too_long", "empty_text"])
        return ResultRow(index, f"r{index}", text or None, error_code=code, extra=extra)
    first, *further = rng.sample(["ham", "spam", "ad", "eggs"], rng.choice([1, 1, 1, 2, 3]))
    label = rng.choice(["ham", first]) if not further else first
    if index % 40 == 7:
        further.append("odd")
    if index % 40 in (9, 0):  # 0 too: the first row is on every way
        label = "odd"
    return ResultRow(
        index,
        f"r{index % 690}",  # ids differ, but for those of records that Python made
        text,
        None,
        None if index % 17 == 1 else label,
        rng.choice([0.1, 0.5, rng.random()]) if index % 19 else None,
        rng.choice([None, "", "Now: call later"]),
        detail=to_json({"labels": [label, *further]}) if further and index % 17 != 1 else None,
        extra=extra,
    )


def make_extra(rng: random.Random, index: int) -> dict[str, Any]:
    country = rng.choice(["DE", "FR", "de", "", None])
    values = [country, index % 7, True, "x'y", index % 2 == 0, "0", LONG + str(index % 3), 1.5]
    return dict(zip(DECLARED, values, strict=True)) | {"undeclared": country, "list": [1]}


FIRST, SECOND = make_rows(1), make_rows(2)


@pytest.fixture(scope="module")
def databases(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, tuple[Database, dict[str, Job]]]]:
    """Two jobs whose words lie side by side, and one without any index of its own."""
    postgres = request.getfixturevalue("postgres")
    urls = {
        "sqlite": f"sqlite:///{tmp_path_factory.mktemp('filters') / 'textmill.db'}",
        "postgresql": postgres.create_database(),
    }
    made = {name: with_tables(url) for name, url in urls.items()}
    yield {name: fill(next(database)) for name, database in made.items()}
    for database in made.values():
        next(database, None)
    postgres.drop_database(urls["postgresql"])


def fill(database: Database) -> tuple[Database, dict[str, Job]]:
    declared: dict[str, Any] = {"extra_columns": EXTRA, "index_columns": DECLARED}
    return database, {
        "first": filled_job(database, FIRST, **declared),
        "second": filled_job(database, SECOND, **declared),
        "unindexed": filled_job(database, FIRST, extra_columns=EXTRA, full_text=False),
    }


@pytest.fixture(params=["sqlite", "postgresql"])
def filled(
    request: pytest.FixtureRequest, databases: dict[str, tuple[Database, dict[str, Job]]]
) -> tuple[Database, dict[str, Job]]:
    return databases[request.param]


CONDITIONS: dict[str, tuple[Mapping[str, Any], Callable[[ResultRow], bool]]] = {
    "rare label": ({"label": "odd"}, lambda row: "odd" in labels_of(row)),
    "further label": ({"label": "eggs"}, lambda row: "eggs" in labels_of(row)),
    "frequent label": ({"label": "ham"}, lambda row: "ham" in labels_of(row)),
    "no such label": ({"label": "HAM"}, lambda row: False),
    "few scores": ({"min_score": 0.95}, lambda row: (row.score or 0) >= 0.95),
    "many scores": ({"max_score": 0.5}, lambda row: row.score is not None and row.score <= 0.5),
    "one score": ({"min_score": 0.1, "max_score": 0.1}, lambda row: row.score == 0.1),
    "errors": ({"errors": True}, lambda row: row.error_code is not None),
    "outputs": ({"errors": False}, lambda row: row.error_code is None),
    "error code": ({"error_code": "too_long"}, lambda row: row.error_code == "too_long"),
    "record id": ({"record_id": "r5"}, lambda row: row.record_id == "r5"),
    "word": ({"search": "free"}, lambda row: found("free", row)),
    "words": ({"search": "(win OR prize) -call"}, lambda row: found("(win | prize) -call", row)),
    "phrase": ({"search": '"urgent rep"*'}, lambda row: found('"urgent rep"*', row)),
    "text and output": ({"search": "strasse later"}, lambda row: found("straße later", row)),
    "phrase across": ({"search": '"ok now"'}, lambda row: found('"ok now"', row)),
    "no such word": ({"search": "zebra"}, lambda row: False),
    "unspaced": ({"search": "京"}, lambda row: found("京", row)),
    "country": ({"where": {"country": "DE"}}, lambda row: value(row, "country") == "DE"),
    "empty": ({"where": {"country": ""}}, lambda row: value(row, "country") == ""),
    "number": ({"where": {"n": 3}}, lambda row: value(row, "n") == "3"),
    "truth": ({"where": {"a.b": True}}, lambda row: value(row, "a.b") == "true"),
    "falsehood": ({"where": {"$[0]": "false"}}, lambda row: value(row, "$[0]") == "false"),
    "quotes": ({"where": {'q"uote': "x'y"}}, lambda row: value(row, 'q"uote') == "x'y"),
    "key like a place": ({"where": {"0": "0"}}, lambda row: value(row, "0") == "0"),
    "long": ({"where": {"long": LONG + "1"}}, lambda row: value(row, "long") == LONG + "1"),
    "long beginning": ({"where": {"long": LONG[:200]}}, lambda row: False),
    "odd key": ({"where": {"é\n": 1.5}}, lambda row: value(row, "é\n") == "1.5"),
    "undeclared": ({"where": {"undeclared": "FR"}}, lambda row: value(row, "undeclared") == "FR"),
}


def found(query: str, row: ResultRow) -> bool:
    return matches(parse_search(query), words_of_row(row.text, row.output))


def value(row: ResultRow, name: str) -> str | None:
    return value_text(orjson.loads(row.extra or "{}").get(name))


def together(*names: str) -> tuple[dict[str, Any], Callable[[ResultRow], bool]]:
    """Several conditions as one filter; those of ``where`` are put together."""
    wanted: dict[str, Any] = {}
    for name in names:
        for key, given in CONDITIONS[name][0].items():
            wanted[key] = wanted.get(key, {}) | given if key == "where" else given
    return wanted, lambda row: all(CONDITIONS[name][1](row) for name in names)


def in_order(rows: list[ResultRow], order: str) -> list[int]:
    if order == "score":
        scored = [row for row in rows if row.score is not None]
        rows = sorted(scored, key=lambda row: (-(row.score or 0), row.record_index))
    return [row.record_index for row in rows]


def check(database: Database, job: Job, rows: list[ResultRow], *names: str) -> int:
    """In both orders, in pages of any size, and page by page from where the last one ended."""
    wanted, predicate = together(*names)
    expected = [row for row in rows if predicate(row)]
    for order in ("input", "score"):
        asked = ResultFilter(**wanted, order=order)  # type: ignore[arg-type]
        indexes = in_order(expected, order)
        for page_rows in (7, 2000):
            read = iter_results(database, job, asked, page_rows=page_rows)
            assert [row.record_index for row in read] == indexes, (names, order, page_rows)
        assert paged(database, job, asked, 40) == indexes, (names, order)
    return len(expected)


def paged(database: Database, job: Job, asked: ResultFilter, rows: int) -> list[int]:
    indexes: list[int] = []
    while True:
        page = read_page(database, job, asked, rows)
        assert len(page.rows) == rows or page.after is None
        indexes += [row.record_index for row in page.rows]
        if page.after is None:
            return indexes
        asked = ResultFilter(**{**wanted_of(asked), "after": page.after})


def wanted_of(asked: ResultFilter) -> dict[str, Any]:
    return {name: getattr(asked, name) for name in ResultFilter.__dataclass_fields__}


@pytest.mark.parametrize("name", CONDITIONS)
def test_each_filter_finds_what_it_should(
    filled: tuple[Database, dict[str, Job]], name: str
) -> None:
    database, jobs = filled
    for job, rows in (("first", FIRST), ("second", SECOND), ("unindexed", FIRST)):
        hits = check(database, jobs[job], rows, name)
        assert hits < len(rows)
        assert hits > 0 or CONDITIONS[name][1](rows[0]) is False


def test_the_conditions_tried_find_something() -> None:
    """But for those that are meant to find nothing."""
    none = [name for name, (_, holds) in CONDITIONS.items() if not any(map(holds, FIRST))]
    assert none == ["no such label", "no such word", "long beginning"]


def test_filters_together_find_what_fulfils_all(filled: tuple[Database, dict[str, Job]]) -> None:
    database, jobs = filled
    pairs = [
        pair
        for pair in combinations(CONDITIONS, 2)
        if CONDITIONS[pair[0]][0].keys() != CONDITIONS[pair[1]][0].keys() and not exclude(*pair)
    ]
    rng = random.Random(3)
    for names in rng.sample(pairs, 40):
        check(database, jobs["first"], FIRST, *names)
    check(database, jobs["second"], SECOND, "word", "frequent label", "country", "many scores")
    check(database, jobs["unindexed"], FIRST, "word", "rare label", "country", "many scores")


def exclude(*names: str) -> bool:
    """Whether they are refused together: no row is an error and an output."""
    wanted, _ = together(*names)
    of_error = wanted.get("errors") or "error_code" in wanted
    of_output = wanted.get("errors") is False or wanted.keys() & {"label", "min_score", "max_score"}
    return bool(of_error and of_output)


def test_no_row_fulfils_what_is_refused_together() -> None:
    for pair in filter(lambda pair: exclude(*pair), combinations(CONDITIONS, 2)):
        _, holds = together(*pair)
        assert not any(map(holds, FIRST)), pair


@pytest.mark.parametrize(
    ("module", "limit"),
    [(sources, "COLLECTED"), (score_order, "SORTED"), (score_order, "MERGED")],
)
def test_where_few_are_few_and_many_are_many_makes_no_difference(
    filled: tuple[Database, dict[str, Job]],
    module: Any,
    limit: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    database, jobs = filled
    monkeypatch.setattr(module, limit, 2)
    monkeypatch.setattr(score_order, "CLOSE", 2)
    for names in (["few scores"], ["word", "rare label"], ["country"], ["frequent label", "word"]):
        check(database, jobs["first"], FIRST, *names)


def test_rows_looked_at_one_after_the_other_are_found_in_windows_of_any_size(
    filled: tuple[Database, dict[str, Job]], monkeypatch: pytest.MonkeyPatch
) -> None:
    database, jobs = filled
    monkeypatch.setattr(queries, "MAX_WINDOW", 16)
    check(database, jobs["unindexed"], FIRST, "undeclared")
    check(database, jobs["unindexed"], FIRST, "no such word")


def test_what_no_index_knows_is_said(filled: tuple[Database, dict[str, Job]]) -> None:
    database, jobs = filled

    def reason(job: str, *names: str) -> str | None:
        return is_streamed(database, jobs[job], ResultFilter(**together(*names)[0]))

    assert reason("first", "undeclared") == (
        "column 'undeclared' has no index (submit --index-column undeclared)"
    )
    assert reason("unindexed", "word") == (
        "the words of this job have no index (submit without --no-full-text)"
    )
    # Where another condition leads to few rows, not every one is looked at.
    for names in (["country"], ["word"], ["undeclared", "country"], ["undeclared", "record id"]):
        assert reason("first", *names) is None
    assert reason("unindexed", "word", "errors") is None
    assert reason("unindexed", "frequent label") is None  # most rows have it


def test_a_column_that_there_is_not_is_named_with_the_nearest_one(
    filled: tuple[Database, dict[str, Job]],
) -> None:
    database, jobs = filled
    nearest = r"(?s)no column 'contry'; the job keeps country, n, .*\(did you mean 'country'\?\)$"
    with pytest.raises(InvalidJobError, match=nearest):
        list(iter_results(database, jobs["first"], ResultFilter(where={"contry": "DE"})))
    bare = filled_job(database, [])
    with pytest.raises(InvalidJobError, match=r"no column 'n'; the job keeps no other columns$"):
        read_page(database, bare, ResultFilter(where={"n": "1"}), 3)


@pytest.mark.parametrize(
    ("wanted", "problem"),
    [
        ({"label": "a\0b"}, r"label is 'a\\x00b'; expected text, without NUL"),
        ({"record_id": "\udcff"}, r"record_id is '\\udcff'; expected text"),
        ({"where": {"n": "\udcff"}}, r"where 'n' is '\\udcff'; expected text"),
        ({"where": {"n": None}}, r"where 'n' is None; expected a text or a number"),
        ({"where": {"n": [1]}}, r"where 'n' is \[1\]; expected a text or a number"),
        ({"where": {"n": float("inf")}}, r"where 'n' is inf; expected a text or a number"),
        ({"where": {"n": b"x"}}, r"where 'n' is b'x'; expected a text or a number"),
        ({"error_code": 7}, r"error_code is 7; expected text"),
        ({"min_score": float("nan")}, r"min_score is nan; expected a number"),
        ({"max_score": float("nan")}, r"max_score is nan; expected a number"),
        ({"min_score": 0.9, "max_score": 0.2}, r"min_score is 0\.9 and max_score 0\.2"),
        ({"errors": True, "label": "spam"}, r"errors is True and label is 'spam', which no row"),
        ({"errors": True, "max_score": 1}, r"errors is True and max_score is 1.0, which no row"),
        ({"error_code": "x", "min_score": 0}, r"error_code is 'x' and min_score is 0.0, which no"),
        ({"error_code": "x", "errors": False}, r"error_code is 'x' and errors is False, which no"),
        ({"limit": -1}, r"limit is -1; expected 0 or more rows"),
        ({"order": "scores"}, r"order is 'scores'; expected one of input, score, fastest"),
        ({"search": "(free"}, r"cannot search for '\(free': a \( has no \) after it"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_asked(
    wanted: dict[str, Any], problem: str
) -> None:
    with pytest.raises(InvalidJobError, match=problem):
        ResultFilter(**wanted)
