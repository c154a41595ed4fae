"""What both databases take: texts without NUL and half of a surrogate pair; numbers of 64 bits.

Bytes of a command line that are not UTF-8 come as such halves (PEP 383).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from textmill.core.errors import InvalidJobError

INTEGERS = range(-(1 << 63), 1 << 64)  # whole numbers that stay such in JSON columns
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
SHOWN_CHARACTERS = 80


def is_utf8(text: str) -> bool:
    """Whether a text holds no half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def without_nul(text: str) -> str:
    """The text with every NUL replaced by U+FFFD."""
    return text.replace("\0", REPLACEMENT) if "\0" in text else text


def require_storable(name: str, value: object, expected: str = "text") -> None:
    """Raise InvalidJobError that calls the value by this name, if it is no text or not storable."""
    if not isinstance(value, str):
        raise InvalidJobError(f"{name} is {value!r}; expected {expected}")
    if "\0" in value or not is_utf8(value):
        shown = repr(value[:SHOWN_CHARACTERS]) + "…" * (len(value) > SHOWN_CHARACTERS)
        raise InvalidJobError(
            f"{name} is {shown}; expected {expected}, without NUL and bytes that are not UTF-8"
        )


def iter_texts(value: Any) -> Iterator[str]:
    """Every text in what JSON can hold, names of members included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, member in value.items():
            yield from iter_texts(name)
            yield from iter_texts(member)
    elif isinstance(value, list | tuple):
        for member in value:
            yield from iter_texts(member)
