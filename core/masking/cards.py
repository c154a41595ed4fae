"""Numbers of payment cards: as long as those of a brand, grouped as on a card, Luhn's digit right.

One in ten numbers of that form has the right digit by chance.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from unicodedata import decimal

GROUPS = re.compile(
    r"(?<![\w.])\d{4}(?:\.\d{4}){3}(?!\w|\.\d)|"  # other dots are of fractions
    r"(?<!\w)(?<!\d\.)\d{1,19}(?:[ \u00a0\u202f\u2011-]\d{1,19})*(?!\w|\.(?!0\b)\d)"
)
GROUP = re.compile(r"\d+")
LENGTHS = range(13, 20)
# Of each brand (ISO/IEC 7812): what it begins with, and how many digits it has.
BRAND = re.compile(
    r"""4(?:\d{12}|\d{15}|\d{18})       # Visa
    | (?:5[0-8]|2[2-7])\d{14}           # Mastercard, Maestro, Mir
    | 5[0678]\d{15,17}                  # Maestro
    | 3[47]\d{13}                       # American Express
    | 35\d{14,17}                       # JCB
    | 3[0689]\d{12,17}                  # Diners Club
    | 6\d{15,18}                        # Discover, UnionPay, Maestro, RuPay
    | 9792\d{12}                        # Troy
    """,
    re.VERBOSE,
)


def find_cards(text: str) -> Iterator[tuple[int, int]]:
    """Start and end of each number."""
    for run in GROUPS.finditer(text):
        if run.end() - run.start() >= LENGTHS[0]:
            yield from _cards_of(text, [one.span() for one in GROUP.finditer(text, *run.span())])


def _cards_of(text: str, groups: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Cards among the groups of a run of digits: a date or a code may stand beside them."""
    first = 0
    while first < len(groups):
        last = _last_group(text, groups, first)
        if last is not None:
            yield groups[first][0], groups[last][1]
            first = last
        first += 1


def _last_group(text: str, groups: Sequence[tuple[int, int]], first: int) -> int | None:
    digits = ""
    found = None
    for at in range(first, min(first + 5, len(groups))):
        digits += text[slice(*groups[at])]
        if len(digits) in LENGTHS and is_card(digits):
            found = at  # the longest: a Visa of 13 digits may begin one of 16
        if groups[at][1] - groups[at][0] < 4:
            break  # only the last group may be short
    return found


def is_card(digits: str) -> bool:
    """True if a card may have this number; the digits may be of any script."""
    from stdnum import luhn

    digits = "".join(str(decimal(digit)) for digit in digits)
    return BRAND.fullmatch(digits) is not None and luhn.is_valid(digits)
