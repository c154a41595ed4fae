"""Phone numbers: as libphonenumber finds them in a text, those that its plans of numbers allow."""

from __future__ import annotations

import re
from collections.abc import Iterator

from textmill.core.errors import InvalidJobError
from textmill.core.masking.phone_runs import find_in_runs

INTERNATIONAL = re.compile(r"[+\uff0b][\s(]*\d")
FEWEST = re.compile(r"\d(?:\D*\d){6}")
# The library passes over a number that touches a letter, as in "call09061701461now", and takes the
# digits of 0.04984186423 for one. Each is written here as what it is read as, of the same length.
UNCLEAR = re.compile(
    r"""(?<![\w.+])(?P<fraction>(?:0|[1-9]\d*)\.\d{7,})(?!\w|\.\d)
    | [A-Za-z](?=\d{9,15}(?!\w))
    | (?<!\w)(?P<digits>\d{9,15})[A-Za-z]""",
    re.VERBOSE,
)
OPENING = "(\uff08["
CLOSING = re.compile(r"[)\uff09\]]")


def check_region(region: str) -> str:
    """The region as the library calls it; raises InvalidJobError if it knows none of that name."""
    import phonenumbers

    known = region.strip().upper()
    if known not in phonenumbers.SUPPORTED_REGIONS:
        raise InvalidJobError(
            f"region {region!r} is unknown; expected the two letters of a country, such as GB"
        )
    return known


def find_phones(text: str, region: str | None) -> Iterator[tuple[int, int]]:
    """Start and end of each number; without a region only those that begin with a plus."""
    if not (FEWEST if region else INTERNATIONAL).search(text):
        return
    clear = UNCLEAR.sub(_cleared, text)
    for start, stop in _find_all(clear, region):
        around = clear[start] in OPENING and not CLOSING.search(clear, start, stop)  # more than it
        yield start + around, stop


def _find_all(text: str, region: str | None) -> Iterator[tuple[int, int]]:
    """What the library finds, and between that what is in runs of groups."""
    import phonenumbers

    end = 0
    for match in phonenumbers.PhoneNumberMatcher(text, region, max_tries=len(text)):
        if region:
            yield from find_in_runs(text, end, match.start, region)
        end = match.end
        yield match.start, end
    if region:
        yield from find_in_runs(text, end, len(text), region)


def _cleared(found: re.Match[str]) -> str:
    if found["fraction"]:
        return ";" * len(found[0])
    return (found["digits"] or "") + " "
