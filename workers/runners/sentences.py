"""A text as sentences and what lies between them, and translations put back together.

Sentences are found by sentencex (https://github.com/wikimedia/sentencex). A line's end is always a
border: a line of a list or a poem would otherwise be read as one with the next.
"""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import sentencex

log = logging.getLogger(__name__)

JOINER = "\N{ZERO WIDTH JOINER}"
WIDE = ("W", "F")  # of https://www.unicode.org/reports/tr11/: Chinese and Japanese set no spaces


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of text, and the white space between it and the one before."""

    before: str
    text: str


def split_sentences(text: str, language: str) -> tuple[list[Span], str]:
    """The sentences, and the white space after the last; together they are the text."""
    spans: list[Span] = []
    waiting = ""
    for stretch in _stretches(text, language):
        body = stretch.strip()
        if not body:
            waiting += stretch
            continue
        start = stretch.index(body)
        spans.append(Span(waiting + stretch[:start], body))
        waiting = stretch[start + len(body) :]
    return spans, waiting


def whole_text(text: str) -> tuple[list[Span], str]:
    """The text as one span, without the white space at its ends."""
    body = text.strip()
    start = text.index(body)
    return ([Span(text[:start], body)] if body else []), text[start + len(body) :]


def cut_text(text: str, fits: Callable[[str], bool]) -> Iterator[Span]:
    """Pieces that fit, cut at the spaces next to the middle, or between letters where none is.

    A single letter is given as it is, whether or not it fits.
    """
    border = None if fits(text) else _border(text)
    if border is None:
        yield Span("", text)
        return
    start, end = border
    yield from cut_text(text[:start], fits)
    first, *others = cut_text(text[end:], fits)
    yield Span(text[start:end], first.text)
    yield from others


def join_spans(parts: Iterable[tuple[str, str]], after: str) -> str:
    """One text of (white space before, translation), with the white space as it was.

    Chinese and Japanese sentences follow each other without a space, others with one.
    """
    joined = ""
    for before, text in parts:
        if joined and text:
            wide = _is_wide(joined[-1]) and _is_wide(text[0])
            if before == "" and not _is_wide(joined[-1]) and not joined[-1].isspace():
                before = " "
            elif before == " " and wide:
                before = ""
        joined += before + text
    return joined + after


def _stretches(text: str, language: str) -> Iterator[str]:
    for line in text.splitlines(keepends=True):
        # sentencex 1.0.32 panics at "A\u00a0." and other white space of several bytes.
        plain = "".join(" " if one.isspace() else one for one in line)
        for start, end in _boundaries(plain, language):
            yield line[start:end]


def _boundaries(line: str, language: str) -> list[tuple[int, int]]:
    try:
        found = sentencex.get_sentence_boundaries(language, line)
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of Rust, which derives from BaseException
            raise
        log.warning("a line was not split into sentences: %s", type(error).__name__)
        return [(0, len(line))]
    return [(one["start_index"], one["end_index"]) for one in found]


def _border(text: str) -> tuple[int, int] | None:
    """Where to cut a text: the run of white space nearest to its middle, or the middle."""
    middle = len(text) // 2
    spaces = [n for n, one in enumerate(text) if one.isspace()]
    if spaces:
        start = min(spaces, key=lambda n: abs(n - middle))
        end = start + 1
        while text[start - 1].isspace():
            start -= 1
        while text[end].isspace():
            end += 1
        return start, end
    start = max(middle, 1)
    while start < len(text) and _belongs_to_left(text, start):
        start += 1
    return (start, start) if start < len(text) else None


def _belongs_to_left(text: str, at: int) -> bool:
    return bool(unicodedata.combining(text[at])) or JOINER in text[at - 1 : at + 1]


def _is_wide(letter: str) -> bool:
    return unicodedata.east_asian_width(letter) in WIDE
