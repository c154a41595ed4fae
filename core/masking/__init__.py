"""Personal data in texts: e-mail addresses, phone and card numbers, IBANs, each by a placeholder.

What is found, and what is not, is measured in ``tests/unit/test_masking.py`` and told in
``docs/privacy.md``. Which texts are masked, and where they lie, is left to others.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from textmill.core.errors import InvalidJobError
from textmill.core.masking.cards import find_cards
from textmill.core.masking.emails import find_emails
from textmill.core.masking.ibans import find_ibans
from textmill.core.masking.phones import check_region, find_phones
from textmill.core.tasks import nearest

Find = Callable[[str], Iterable[tuple[int, int]]]

# In the order in which they are looked for: an address may hold a number, an IBAN digits of a card.
KINDS = ("email", "iban", "card", "phone")
# Marks that show nothing, such as a soft hyphen or a zero-width blank: inside a number they hide it
# from a search, and not from a person.
UNSEEN = re.compile(
    "[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]"
)
ENOUGH = re.compile(r"@|\d(?:\D*\d){6}")  # without it there is nothing to find


class Masker:
    """Replaces the personal data of some kinds in texts and JSON.

    ``Masker(region="GB")`` also finds phone numbers as they are written within that country; those
    that begin with ``+`` are found always. Masking what was masked changes nothing. Raises
    InvalidJobError for a kind or a region that is unknown.
    """

    def __init__(self, kinds: Iterable[str] = KINDS, region: str | None = None) -> None:
        wanted = set(kinds)
        for kind in sorted(wanted.difference(KINDS)):
            raise InvalidJobError(
                f"kind {kind!r} is unknown; expected {', '.join(KINDS)}{nearest(kind, KINDS)}"
            )
        known = None if region is None else check_region(region)
        finders: dict[str, Find] = {
            "email": find_emails,
            "iban": find_ibans,
            "card": find_cards,
            "phone": lambda text: find_phones(text, known),
        }
        self._finders = [(kind, finders[kind]) for kind in KINDS if kind in wanted]

    def mask(self, text: str) -> tuple[str, Counter[str]]:
        """The text with ``[EMAIL]`` and the like in it, and how many of each kind there were."""
        counts: Counter[str] = Counter()
        # Again until nothing is found: beside a placeholder, digits may be a number that they
        # were not beside other digits. Each round leaves fewer of them.
        while ENOUGH.search(text):
            before = counts.total()
            for kind, find in self._finders:
                text, found = _replace(text, _spans(find, text), f"[{kind.upper()}]")
                counts[kind] += found
            if counts.total() == before:
                break
        return text, +counts

    def mask_json(self, value: Any, *, numbers: bool = True) -> tuple[Any, Counter[str]]:
        """A copy of decoded JSON with every text in it masked; names of members stay.

        A number that is one of a card or a phone becomes its placeholder, unless ``numbers`` stay.
        """
        counts: Counter[str] = Counter()
        root = [value]
        containers: list[Any] = [root]
        while containers:  # no recursion: JSON may be nested deeper than Python's stack
            container = containers.pop()
            for place, inner in _members(container):
                if isinstance(inner, dict | list):
                    container[place] = inner.copy()
                    containers.append(container[place])
                elif numbers or isinstance(inner, str):
                    container[place], found = self._mask_value(inner)
                    counts += found
        return root[0], counts

    def _mask_value(self, value: Any) -> tuple[Any, Counter[str]]:
        if isinstance(value, str):
            return self.mask(value)
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        if not whole or isinstance(value, bool):
            return value, Counter()
        masked, found = self.mask(str(int(value)))
        return (masked if found else value), found


def _spans(find: Find, text: str) -> Iterable[tuple[int, int]]:
    """What is found, also where marks that show nothing are left out, by its places with them."""
    if UNSEEN.search(text) is None:
        return find(text)
    places = [at for at, char in enumerate(text) if not UNSEEN.match(char)]
    shown = [
        (places[start], places[stop - 1] + 1)
        for start, stop in find("".join(text[at] for at in places))
    ]
    plain = list(find(text))
    return plain if len(plain) > len(shown) else shown  # a mark may be all that is between two


def _members(container: list[Any] | dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    return enumerate(container) if isinstance(container, list) else iter(container.items())


def _replace(text: str, spans: Iterable[tuple[int, int]], placeholder: str) -> tuple[str, int]:
    """The text with each span replaced; they come in order and do not overlap."""
    parts = []
    end = 0
    for start, stop in spans:
        parts += [text[end:start], placeholder]
        end = stop
    return "".join(parts) + text[end:], len(parts) // 2
