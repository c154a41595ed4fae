"""``:name`` in a statement: found where it is a parameter, and bound to a value of its own."""

from __future__ import annotations

from typing import Any

import pytest

from textmill.core.errors import QueryError
from textmill.db.sql.answer import unique_names
from textmill.db.sql.parameters import Word, named_parameters, number_parameters

NO_PARAMETERS = [
    "SELECT ':a'",
    "SELECT 'it''s :a'",
    'SELECT ":a"',
    "SELECT 1 -- :a",
    "SELECT 1 /* :a\n:b */",
    "SELECT 1 /* :a never ends",
    "SELECT 1 -- it's\n",
]


@pytest.mark.parametrize("statement", NO_PARAMETERS)
def test_a_colon_in_a_string_or_a_comment_is_none(statement: str) -> None:
    assert number_parameters(statement, {}) == (statement, [])
    assert named_parameters(statement, {}) == {}


@pytest.mark.parametrize(
    "statement",
    [r"SELECT E'\':a'", "SELECT $$ :a $$", "SELECT $x$ :a $$ :b $x$", "SELECT '1'::text, a[1:n]"],
)
def test_what_only_postgresql_writes(statement: str) -> None:
    assert number_parameters(statement, {}) == (statement, [])


@pytest.mark.parametrize("statement", ["SELECT `:a`", "SELECT [:a]"])
def test_what_only_sqlite_writes(statement: str) -> None:
    assert named_parameters(statement, {}) == {}


def test_each_place_gets_a_number_and_its_value() -> None:
    given: dict[str, Any] = {"a": 1, "b_2": "x"}
    found = number_parameters("SELECT :a::text, ':a', :b_2, :a -- :a\n, :b_2", given)
    assert found == ("SELECT $1::text, ':a', $2, $3 -- :a\n, $4", [1, "x", 1, "x"])
    assert named_parameters("SELECT :a, ':a', :b_2, :a", given) == given


@pytest.mark.parametrize("bind", [number_parameters, named_parameters])
def test_names_and_values_must_match(bind: Any) -> None:
    with pytest.raises(QueryError, match=r"has :labl and there is no value.*mean 'label'"):
        bind("SELECT :labl", {"label": 1})
    with pytest.raises(QueryError, match=r"a value for labl and no :labl.*mean 'label'"):
        bind("SELECT :label", {"label": 1, "labl": 1})
    with pytest.raises(QueryError, match="value of a has a NUL"):
        bind("SELECT :a", {"a": "x\0"})


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("5", 5),
        ("-5", -5),
        ("0.9", 0.9),
        ("1.0", 1.0),
        ("9223372036854775807", 2**63 - 1),
        ("9223372036854775808", "9223372036854775808"),
        ("007", "007"),
        ("+5", "+5"),
        ("1e3", "1e3"),
        ("1_000", "1_000"),
        ("٣", "٣"),
        ("nan", "nan"),
        ("-inf", "-inf"),
        ("", ""),
        ("06h0hkxf", "06h0hkxf"),
    ],
)
def test_a_word_is_a_number_only_if_it_is_written_like_one(word: str, value: Any) -> None:
    found = named_parameters("SELECT :a", {"a": Word(word)})["a"]
    assert (found, type(found)) == (value, type(value))
    assert named_parameters("SELECT :a", {"a": word}) == {"a": word}


def test_columns_of_one_name_are_told_apart() -> None:
    assert list(unique_names(["id", "id", "id_2", "id"])) == ["id", "id_3", "id_2", "id_4"]
