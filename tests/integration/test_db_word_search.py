"""The index of words: what it finds is what ``core.search`` means, wherever rows lie in it."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import event

from textmill.core.search import (
    MAX_DEPTH,
    MAX_QUERY_WORDS,
    MAX_WORDS,
    matches,
    parse_search,
    words_of,
    words_of_row,
)
from textmill.db.indexing import (
    MAX_PLACES,
    ROW_BITS,
    UnreadIndexes,
    make_entries,
    remove_entries,
    row_id,
    write_entries,
)
from textmill.db.results import ResultRow
from textmill.db.session import Database
from textmill.db.word_search import POSTGRESQL_PAGE, find_words

from ..builders import at_once, job_of, make_job, with_tables
from ..entries import empty_words, read_words

TRIES = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200
)
FEW_TRIES = settings(TRIES, max_examples=40)

VOCABULARY = ["a", "b", "c", "ab", "abc", "é", "straße", "हिन्दी", "東京", "1"]
WORDS = st.sampled_from(VOCABULARY)
FAR = [n + d for n in (0, 4096, 131_072, 262_144, 4_194_304, 9_000_000) for d in range(-3, 4)]


@pytest.fixture(scope="module")
def databases(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Database]]:
    postgres = request.getfixturevalue("postgres")
    urls = {
        "sqlite": f"sqlite:///{tmp_path_factory.mktemp('words') / 'textmill.db'}",
        "postgresql": postgres.create_database(),
    }
    made = {name: with_tables(url) for name, url in urls.items()}
    yield {name: next(database) for name, database in made.items()}
    for database in made.values():
        next(database, None)
    postgres.drop_database(urls["postgresql"])


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, databases: dict[str, Database]) -> Database:
    """An index without words."""
    database = databases[request.param]
    with database.write() as connection:
        empty_words(connection)
    return database


def job(number: int) -> UnreadIndexes:
    return UnreadIndexes(None, full_text=True, number=number)


def write(database: Database, number: int, rows: Sequence[ResultRow]) -> None:
    entries = make_entries(job(number), rows, sqlite=database.is_sqlite)
    with database.write() as connection:
        write_entries(connection, "any job", entries)


def remove(database: Database, number: int, rows: Sequence[ResultRow]) -> None:
    entries = make_entries(job(number), rows, sqlite=database.is_sqlite)
    with database.write() as connection:
        remove_entries(connection, "any job", entries)


def find(
    database: Database,
    number: int,
    query: str,
    *,
    after: int = -1,
    end: int = 10_000_000,
    limit: int = 1000,
) -> list[int]:
    with database.read() as connection:
        search = parse_search(query)
        found = find_words(connection, job(number), search, after=after, end=end, limit=limit)
        return list(found)


def texts(seed: int, rows: int) -> list[ResultRow]:
    rng = random.Random(seed)

    def text() -> str:
        return " ".join(rng.choices(VOCABULARY, k=rng.randrange(8)))

    return [ResultRow(n, f"r{n}", text(), output=rng.choice([None, text()])) for n in range(rows)]


def phrase(words: list[str], prefix: bool) -> str:
    return f'"{" ".join(words)}"' + "*" * prefix


def units(search: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    wanted = st.lists(search, min_size=1, max_size=3)
    unwanted = st.lists(search, max_size=2)
    every = st.builds(lambda w, u: f"({' '.join([*w, *('-' + x for x in u)])})", wanted, unwanted)
    either = st.lists(search, min_size=2, max_size=3).map(lambda parts: f"({' OR '.join(parts)})")
    return every | either


QUERIES = st.recursive(
    WORDS | st.builds(phrase, st.lists(WORDS, min_size=1, max_size=3), st.booleans()),
    units,
    max_leaves=8,
)


def test_both_databases_find_what_a_search_means(database: Database) -> None:
    rows = texts(1, 150)
    for number, seed in ((1, 2), (2, 1), (3, 3)):  # others lie before and behind
        write(database, number, texts(seed, 150))

    @TRIES
    @given(QUERIES)
    def check(query: str) -> None:
        search = parse_search(query)
        expected = [
            row.record_index for row in rows if matches(search, words_of_row(row.text, row.output))
        ]
        assert find(database, 2, query) == expected

    check()


def test_every_word_of_any_text_finds_it_and_goes_with_it(database: Database) -> None:
    @FEW_TRIES
    @given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), max_size=4))
    @example(["'\\ : & | ! ( ) <-> * \"", "a:1 b:2A 'c' \\d", "NEAR(a b) x AND y NOT z ^w + v"])
    @example(["ˋ·ʼ ⏎ ⏎x /0/0 /crowded", "x" * 500, "\U0001f600 \U00010400"])
    def check(found: list[str]) -> None:
        rows = [ResultRow(n, f"r{n}", text, output=text[::-1]) for n, text in enumerate(found)]
        write(database, 5, rows)
        with database.read() as connection:
            kept = read_words(connection)
        for row in rows:
            words = words_of_row(row.text, row.output)
            assert kept.get(row_id(job(5), row.record_index), []) == words
            for word in words_of(row.text or ""):
                assert row.record_index in find(database, 5, word)
        remove(database, 5, rows)
        with database.read() as connection:
            assert read_words(connection) == {}

    check()


def test_a_phrase_is_found_wherever_it_stands_in_a_long_text(database: Database) -> None:
    """Behind more places of a word than PostgreSQL keeps, too; there rows are looked at again."""
    many = "the end of the " * MAX_PLACES
    rows = [
        ResultRow(0, "r0", many + "the president"),
        ResultRow(1, "r1", "president, the " + many),
        ResultRow(2, "r2", "the president " + many),
        ResultRow(3, "r3", "x " * 3 * MAX_WORDS, output="the president"),
    ]
    write(database, 1, rows)
    found = find(database, 1, '"the president"')
    assert {0, 2, 3} <= set(found)
    assert 1 not in found or not database.is_sqlite
    assert {0, 1, 3} <= set(find(database, 1, 'the -"the presidential"'))
    # What is not wanted takes no row away that may be wanted.
    assert 1 in find(database, 1, 'the -"the president"')
    assert {0, 1, 2, 3} <= set(find(database, 1, 'the -(the -"the presi"*)')) | {1}


def test_the_longest_text_there_can_be_is_taken(database: Database) -> None:
    rng = random.Random(1)
    letters = [chr(n) for n in range(0x10400, 0x10440)]  # four bytes each
    words = ["".join(rng.choices(letters, k=11)) for _ in range(MAX_WORDS)]
    output = [chr(rng.randrange(0x4E00, 0x9FFF)) for _ in range(2 * MAX_WORDS)]
    write(database, 1, [ResultRow(0, "r0", " ".join(words), output="".join(output))])
    assert find(database, 1, words[-1]) == find(database, 1, words[0]) == [0]
    assert find(database, 1, f'"{" ".join(words[-2:])}"') == [0]
    assert find(database, 1, "".join(output[MAX_WORDS - 3 : MAX_WORDS])) == [0]
    assert find(database, 1, "".join(output[MAX_WORDS - 1 : MAX_WORDS + 1])) == []


def test_the_largest_search_there_can_be_is_taken(database: Database) -> None:
    write(database, 1, [ResultRow(0, "r0", "a b c")])
    deep = "a"
    for _ in range(MAX_DEPTH):
        deep = f"({deep} b -z)" if len(deep) % 2 else f"(z OR {deep})"
    assert find(database, 1, deep) == [0]
    assert find(database, 1, "a " * MAX_QUERY_WORDS) == [0]
    assert find(database, 1, " OR ".join(["z"] * (MAX_QUERY_WORDS - 1) + ["a"])) == [0]
    assert find(database, 1, f'"{"a " * MAX_QUERY_WORDS}"') == []
    assert find(database, 1, "a" * 10_000 + " OR a") == [0]


def far_rows() -> list[ResultRow]:
    """A dense beginning, and rows at the borders of blocks of every size."""
    indexes = sorted({*range(9000), *(n for n in FAR if n >= 0)})
    return [
        ResultRow(n, f"r{n}", "common" + " often" * (n % 5 == 0) + " rare" * (n in FAR))
        for n in indexes
    ]


def test_pages_of_words_are_right_across_all_blocks(database: Database) -> None:
    rows = far_rows()
    for number in (6, 7, 8):
        write(database, number, rows if number == 7 else rows[:10])
    having = {
        word: [row.record_index for row in rows if word in (row.text or "").split()]
        for word in ("common", "often", "rare")
    }
    places = st.sampled_from([-1, *FAR, *range(8990, 9000), 20_000, 5_000_000])

    @TRIES
    @given(st.sampled_from(sorted(having)), places, places, st.sampled_from([1, 5, 40, 20_000]))
    def check(word: str, after: int, end: int, limit: int) -> None:
        expected = [index for index in having[word] if after < index < end][:limit]
        assert find(database, 7, word, after=after, end=end, limit=limit) == expected

    check()


def test_a_page_costs_few_questions_however_far_its_rows_lie(
    databases: dict[str, Database],
) -> None:
    database = databases["postgresql"]
    with database.write() as connection:
        empty_words(connection)
    write(database, 1, far_rows())
    asked: list[Any] = []

    def note(*event: Any) -> None:
        if "FROM result_words" in event[2]:
            asked.append(event[3])

    def questions(query: str, **where: int) -> int:
        asked.clear()
        assert find(database, 1, query, **where)
        return len(asked)

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        assert questions("common", limit=100) == 1
        assert questions("common", after=4000, limit=100) <= 2
        assert questions("rare", after=10_000, end=10_000_000, limit=100) <= 5
        assert questions("rare", after=5_000_000, end=10_000_000, limit=100) <= 4
    finally:
        event.remove(database.engine, "before_cursor_execute", note)


def test_a_prepared_question_goes_by_the_words_too(databases: dict[str, Database]) -> None:
    """As psycopg prepares a statement after five times, and PostgreSQL plans it for any values."""
    database = databases["postgresql"]
    with database.write() as connection:
        empty_words(connection)
    write(database, 1, [ResultRow(n, f"r{n}", "common") for n in range(3000)])
    statement = re.sub(r":(query|first|last|limit)", _as_parameter, POSTGRESQL_PAGE.text)
    with database.write() as connection:
        connection.exec_driver_sql("ANALYZE result_words")
        connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        plan = connection.exec_driver_sql(f"EXPLAIN (GENERIC_PLAN) {statement}").scalars().all()
    (index,) = re.findall(
        r"Scan (?:using|on) (\w+)", " ".join(plan).replace(" on result_words", "")
    )
    assert index == "ix_result_words"


def _as_parameter(found: re.Match[str]) -> str:
    return f"${('query', 'first', 'last', 'limit').index(found[1]) + 1}"


def test_the_last_row_a_job_can_have_is_not_the_next_jobs_first(database: Database) -> None:
    last = (1 << ROW_BITS) - 1
    assert row_id(job(3), last) + 1 == row_id(job(4), 0)
    write(database, 3, [ResultRow(last, "last", "word")])
    write(database, 4, [ResultRow(0, "first", "word")])
    assert find(database, 3, "word", after=last - 5, end=last + 1) == [last]
    assert find(database, 4, "word") == [0]


def test_jobs_made_at_once_have_numbers_of_their_own(database: Database) -> None:
    made = at_once(*[lambda: make_job(database)] * 12)
    numbers = [job_of(database, job_id).number for job_id in made]
    assert len(set(numbers)) == 12
    assert min(numbers) > 0
