"""Words of a text, and the search syntax over them: one meaning on every database.

Words are cut here and not by the databases, whose own rules differ: SQLite and PostgreSQL are
given the same words and so answer alike. Entries stay as they were made (``db/indexing.py``):
a change of these rules needs a migration that makes them anew.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from textmill.core.errors import InvalidJobError

# Of a text or an output; PostgreSQL keeps no places beyond 16,383, and at most 1 MB of a row.
MAX_WORDS = 8_000
MAX_CHARACTERS = 100_000
MAX_WORD_LENGTH = 100
END_OF_TEXT = "⏎"  # between a row's text and its output: no phrase reaches across

MAX_QUERY_WORDS = 200
MAX_DEPTH = 20  # of brackets; FTS5 takes about 40

# Scripts that are written without spaces: each character is a word, and a word of them a phrase.
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\U00020000-\U0003134f"
)
ASCII_WORDS = bytes(  # for bytes.translate: letters and digits, all else a space
    ord(char.lower() if char.isascii() and char.isalnum() else " ") for char in map(chr, range(256))
)
MARKS = range(0x300, 0xFE00)  # combining characters; a set of these is quick, one with rarer is not
SOFT_HYPHEN = "\u00ad"
PIECE = re.compile(
    r"""\s*(?:
        (?P<minus>-?)(?: (?P<open>\() | "(?P<quoted>[^"]*)"(?P<star>\*?) | (?P<word>[^\s()|"]+) )
        | (?P<sign>[)|])
        | (?P<lone>")
    )""",
    re.VERBOSE,
)
NO_OPERATORS = {
    "AND": "AND is not needed: every word must be there",
    "NOT": "NOT is written as a minus, such as -call",
}
EXAMPLE = 'free -call "urgent reply" (win OR prize) congrat*'


def words_of(text: str) -> list[str]:
    """The text's words in order: lower case, without accents, without punctuation.

    Of a very long text only the beginning counts: 8,000 words or 100,000 characters.
    """
    if text.isascii():
        words = text[:MAX_CHARACTERS].encode().translate(ASCII_WORDS).decode().split()
    else:
        accent, word = _patterns()
        plain = unicodedata.normalize("NFKD", text[:MAX_CHARACTERS]).casefold()
        plain = unicodedata.normalize("NFKC", accent.sub("", plain))
        words = word.findall(plain[:MAX_CHARACTERS])
    if len(words) > MAX_WORDS or max(map(len, words), default=0) > MAX_WORD_LENGTH:
        return [word[:MAX_WORD_LENGTH] for word in words[:MAX_WORDS]]
    return words


def words_of_row(text: str | None, output: str | None) -> list[str]:
    """What a result row is found by: the words of its text and of its output."""
    words = words_of(text) if text else []
    if output:
        words += [END_OF_TEXT, *words_of(output)]
    return words


@cache
def _patterns() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """What is dropped as an accent, and what is a word. Made at the first text beyond ASCII.

    Vowel signs and the like belong to their word, though Python takes them for no letters.
    """
    accents, signs = [SOFT_HYPHEN], [""]
    for char in map(chr, MARKS):
        if unicodedata.category(char) in ("Mn", "Mc"):
            (accents if _is_accent(char) else signs).append(char)
    letter, sign = f"[^\\W_{UNSPACED}]", f"[{''.join(signs)}]"
    word = f"[{UNSPACED}]|{letter}+(?:{sign}+{letter}*)*"
    return re.compile(f"[{''.join(accents)}]"), re.compile(word)


def _is_accent(char: str) -> bool:
    """Above, below and through letters, and the points of Hebrew and Arabic; but not what makes
    another letter, such as the voicing mark of Japanese, or ends a syllable."""
    kind = unicodedata.combining(char)  # https://www.unicode.org/reports/tr44/ table 15
    return kind == 1 or 10 <= kind <= 36 or kind >= 200


@dataclass(frozen=True, slots=True)
class Phrase:
    """Words that follow each other; with ``prefix`` the last one may go on."""

    words: tuple[str, ...]
    prefix: bool = False


@dataclass(frozen=True, slots=True)
class AllOf:
    """Every one of ``wanted``, at least one, and none of ``unwanted``."""

    wanted: tuple[Search, ...]
    unwanted: tuple[Search, ...] = ()


@dataclass(frozen=True, slots=True)
class AnyOf:
    """At least one of several."""

    either: tuple[Search, ...]


Search = Phrase | AllOf | AnyOf


def parse_search(query: str) -> Search:
    """The meaning of ``free -call "urgent reply" (win OR prize) congrat*``.

    Words stand for "and"; OR (or ``|``) binds weaker. Raises InvalidJobError that says where the
    syntax is broken.
    """
    return _Parser(query).parse()


def matches(search: Search, words: Sequence[str]) -> bool:
    """Whether a row of these words is found: for rows that no index knows."""
    if isinstance(search, AnyOf):
        return any(matches(one, words) for one in search.either)
    if isinstance(search, AllOf):
        return all(matches(one, words) for one in search.wanted) and not any(
            matches(one, words) for one in search.unwanted
        )
    return _has_phrase(search, words)


def _has_phrase(phrase: Phrase, words: Sequence[str]) -> bool:
    *firm, last = phrase.words
    if not firm:
        prefix = phrase.prefix and any(word.startswith(last) for word in words)
        return prefix or last in words
    starts = (at for at, word in enumerate(words) if word == firm[0])
    return any(_stands_at(phrase, words, start) for start in starts)


def _stands_at(phrase: Phrase, words: Sequence[str], start: int) -> bool:
    *firm, last = phrase.words
    found = list(words[start : start + len(phrase.words)])
    if len(found) < len(phrase.words) or found[:-1] != firm:
        return False
    return found[-1].startswith(last) if phrase.prefix else found[-1] == last


@dataclass(frozen=True, slots=True)
class _Piece:
    """A phrase of a query, or a sign: an opening or closing bracket, or | for OR."""

    sign: str = ""
    phrase: Phrase | None = None
    unwanted: bool = False


class _Parser:
    """Recursive descent: any = all {| all}; all = unit {unit}; unit = [-] (phrase | ( any ))."""

    def __init__(self, query: str) -> None:
        self._query = query
        self._pieces = _cut(query)
        self._at = 0
        self._depth = 0

    def parse(self) -> Search:
        if not self._pieces:
            raise _broken(self._query, "it has no word to look for")
        if sum(len(piece.phrase.words) for piece in self._pieces if piece.phrase) > MAX_QUERY_WORDS:
            raise _broken(self._query, f"it has more than {MAX_QUERY_WORDS} words")
        found = self._any()
        if self._at < len(self._pieces):
            raise _broken(self._query, "a ) has no ( before it")
        return found

    def _sign(self) -> str | None:
        """The sign of the next piece, "" for a phrase; None at the end."""
        return self._pieces[self._at].sign if self._at < len(self._pieces) else None

    def _any(self) -> Search:
        either = [self._all()]
        while self._sign() == "|":
            self._at += 1
            either.append(self._all())
        return either[0] if len(either) == 1 else AnyOf(tuple(either))

    def _all(self) -> Search:
        wanted: list[Search] = []
        unwanted: list[Search] = []
        while self._sign() in ("", "("):
            piece = self._pieces[self._at]
            self._at += 1
            (unwanted if piece.unwanted else wanted).append(piece.phrase or self._group())
        if not wanted:
            only_unwanted = "it says only what is not wanted; add a word that is"
            missing = "a word is missing beside OR or inside ( )"
            raise _broken(self._query, only_unwanted if unwanted else missing)
        if len(wanted) == 1 and not unwanted:
            return wanted[0]
        return AllOf(tuple(wanted), tuple(unwanted))

    def _group(self) -> Search:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _broken(self._query, f"it has more than {MAX_DEPTH} brackets inside each other")
        found = self._any()
        if self._sign() != ")":
            raise _broken(self._query, "a ( has no ) after it")
        self._at += 1
        self._depth -= 1
        return found


def _cut(query: str) -> list[_Piece]:
    pieces = []
    for match in PIECE.finditer(query):
        part = match.groupdict()
        if part["lone"]:
            raise _broken(query, 'a " has no second one')
        if part["sign"] or part["open"]:
            pieces.append(_Piece(part["sign"] or "(", unwanted=bool(part["minus"])))
        elif part["word"] == "OR" and not part["minus"]:
            pieces.append(_Piece("|"))
        elif part["word"] in NO_OPERATORS:
            raise _broken(query, NO_OPERATORS[part["word"]])
        elif part["word"] is None:
            pieces.append(_phrase(query, part["quoted"], bool(part["star"]), bool(part["minus"])))
        else:
            word = part["word"]
            pieces.append(_phrase(query, word, word.endswith("*"), bool(part["minus"])))
    return pieces


def _phrase(query: str, text: str, prefix: bool, unwanted: bool) -> _Piece:
    words = words_of(text)
    if not words:
        raise _broken(query, f"{text!r} has no letter or digit to look for")
    return _Piece("", Phrase(tuple(words), prefix), unwanted)


def _broken(query: str, problem: str) -> InvalidJobError:
    shown = query if len(query) <= 100 else query[:99] + "…"
    return InvalidJobError(f"cannot search for {shown!r}: {problem}; expected such as {EXAMPLE}")
