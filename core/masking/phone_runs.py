"""Phone numbers beside each other with nothing but blanks between: where one ends is not written.

libphonenumber takes such a run for one number, which no plan allows, and then looks at its groups
one by one. Here every few groups that follow each other are tried as a number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

GROUP = re.compile(r"(?<![\w+])[(\uff08]?\d[\d()\uff08\uff09./-]*+(?!\w)")
BLANK = r"[^\S\t-\r]{1,4}"  # lines and tabs part numbers for the library too
RUN = re.compile(rf"{GROUP.pattern}(?:{BLANK}{GROUP.pattern})+")
AROUND = "()\uff08\uff09./-"  # behind the last digit it is of the sentence
MOST_GROUPS = 8  # of one number: with it the time grows with the length of a run, not its square
INTERNATIONAL = "00"
NORTH_AMERICA = "1"  # its prefix, which people leave out
FEWEST_DIGITS, MOST_DIGITS = 7, 15

Span = tuple[int, int]


def find_in_runs(text: str, start: int, stop: int, region: str) -> Iterator[Span]:
    """Start and end of each number in the runs of a part of the text, in order."""
    for run in RUN.finditer(text, start, stop):
        groups = [group.span() for group in GROUP.finditer(text, *run.span())]
        yield from _choose(text, groups, region)


def _choose(text: str, groups: list[Span], region: str) -> list[Span]:
    """The numbers that hold most digits of the run, and of such choices that with most numbers.

    So that no rest of a number stays, as it would beside one that ends too early or too late.
    """
    digits = [sum(map(str.isdigit, text[start:stop])) for start, stop in groups]
    best: list[tuple[int, int]] = [(0, 0)]  # digits and numbers among the first so many groups
    last: list[int] = [0]  # how many groups the last of these numbers has; 0: the group is none
    for end in range(1, len(groups) + 1):
        best.append(best[-1])
        last.append(0)
        for size in range(2, min(MOST_GROUPS, end) + 1):
            held = sum(digits[end - size : end])
            before = best[end - size]
            reached = (before[0] + held, before[1] + 1)
            if held > MOST_DIGITS:
                break
            if held < FEWEST_DIGITS or reached <= best[end]:
                continue
            if is_number(text[groups[end - size][0] : groups[end - 1][1]], region):
                best[end], last[end] = reached, size
    return _walk_back(text, groups, last)


def _walk_back(text: str, groups: list[Span], last: list[int]) -> list[Span]:
    found = []
    end = len(groups)
    while end:
        if last[end]:
            start, stop = groups[end - last[end]][0], groups[end - 1][1]
            found.append((start, start + len(text[start:stop].rstrip(AROUND))))
        end -= last[end] or 1
    return found[::-1]


def is_number(text: str, region: str) -> bool:
    """Whether the groups are one number of the region, all of them, cut as it cuts its numbers.

    And begun as it begins them, where it has a prefix for calls within it: else columns of figures
    would be full of numbers.
    """
    import phonenumbers

    if not _begins_as_one(text, region):
        return False
    try:  # far quicker than the matcher, which tries each group alone where the whole is none
        if not phonenumbers.is_valid_number(phonenumbers.parse(text, region)):
            return False
    except phonenumbers.NumberParseException:
        return False
    strict = phonenumbers.Leniency.STRICT_GROUPING
    matcher = phonenumbers.PhoneNumberMatcher(text, region, strict, max_tries=1)
    if not matcher.has_next():
        return False
    match = matcher.next()
    return not any(map(str.isdigit, text[: match.start] + text[match.end :]))


def _begins_as_one(text: str, region: str) -> bool:
    import phonenumbers

    about = phonenumbers.PhoneMetadata.metadata_for_region(region)
    prefix = None if about is None else about.national_prefix
    if prefix is None or prefix == NORTH_AMERICA:
        return True
    digits = re.sub(r"\D", "", text)
    return digits.startswith((prefix, INTERNATIONAL))
