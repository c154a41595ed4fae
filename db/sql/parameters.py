"""``:name`` in a statement: found outside strings and comments, and bound to values.

Values are always sent apart from the statement. This is for convenience; that the statement only
reads is seen to elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from math import isfinite
from typing import Any

from textmill.core.errors import QueryError
from textmill.core.tasks import nearest

INTEGERS = range(-(2**63), 2**63)
NAME = r"(?<!\w):(?P<name>[A-Za-z_]\w*)"
# What is skipped comes first; https://www.sqlite.org/lang_expr.html#literal_values_constants_
SQLITE = re.compile(
    r"""'(?:[^']|'')*' | "(?:[^"]|"")*" | `[^`]*` | \[[^\]]*\] | --[^\n]* | /\*.*?(?:\*/|\Z) | """
    + NAME.replace(r"(?<!\w)", ""),
    re.VERBOSE | re.DOTALL,
)
# https://www.postgresql.org/docs/current/sql-syntax-lexical.html
POSTGRESQL = re.compile(
    r"""(?<!\w)[eE]'(?:[^'\\]|''|\\.)*' | '(?:[^']|'')*' | "(?:[^"]|"")*" | --[^\n]* |
    /\*.*?(?:\*/|\Z) | (?<!\w)\$(?P<tag>(?:[A-Za-z_]\w*)?)\$.*?\$(?P=tag)\$ | :: | """
    + NAME,
    re.VERBOSE | re.DOTALL,
)


class Word(str):
    """A value as it was typed: a number if the place where it is used takes one.

    PostgreSQL infers the type from that place. SQLite infers nothing, and would take every text
    for greater than any number.
    """

    __slots__ = ()

    def guessed(self) -> str | float:
        """A number, if it would be written exactly so; ``007`` and ``1e3`` stay texts."""
        for kind in (int, float):
            try:
                number = kind(self)
            except ValueError:
                continue
            if repr(number) == self and (number in INTEGERS if kind is int else isfinite(number)):
                return number
        return str(self)


def check_parameters(names: Iterable[str], params: Mapping[str, Any]) -> None:
    """Raise QueryError for a name without a value or a value without a name."""
    names = set(names)
    for name in sorted(names - params.keys()):
        raise QueryError(
            f"the statement has :{name} and there is no value for it{nearest(name, params)}; "
            f"give one with --param {name}=VALUE, or {name}=VALUE in Python"
        )
    for name in sorted(params.keys() - names):
        raise QueryError(
            f"there is a value for {name} and no :{name} in the statement{nearest(name, names)}"
        )
    for name, value in params.items():
        if isinstance(value, str):
            check_text(value, f"the value of {name}")


def check_text(text: str, what: str) -> None:
    """Raise QueryError for what no database takes as a text."""
    if "\0" in text:
        raise QueryError(f"{what} has a NUL character, which no database takes")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise QueryError(f"{what} is no UTF-8 text at character {error.start + 1}") from None


def number_parameters(statement: str, params: Mapping[str, Any]) -> tuple[str, list[Any]]:
    """For PostgreSQL: ``$1``, ``$2`` … for each ``:name``, and the values in that order.

    A name that comes twice gets two numbers, so that each place may want a type of its own.
    """
    values: list[Any] = []
    names: list[str] = []

    def replace(found: re.Match[str]) -> str:
        name = found["name"]
        if name is None:
            return found[0]
        names.append(name)
        values.append(params.get(name))
        return f"${len(values)}"

    numbered = POSTGRESQL.sub(replace, statement)
    check_parameters(names, params)
    return numbered, values


def named_parameters(statement: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """For SQLite, which knows ``:name`` itself: the values by name."""
    found = (match["name"] for match in SQLITE.finditer(statement))
    check_parameters((name for name in found if name), params)
    return {
        name: value.guessed() if isinstance(value, Word) else value
        for name, value in params.items()
    }
