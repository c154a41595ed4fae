"""A language as a person names it, found among the codes a model has.

A person may write the model's own code (``fra_Latn``, ``fr_XX``, ``>>fra<<``), an ISO 639 code
(``fr``, ``fra``, ``fre``) or an English name (``French``). Which codes a model has is the business
of ``textmill.core.model_languages``. Imports neither torch nor transformers.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from textmill.core.errors import InvalidJobError

if TYPE_CHECKING:  # its table takes 0.4 s to import, needed only where a language is named
    from iso639 import Language

DECORATIONS = ">_<"  # of >>fra<< and __fr__


def find_language(option: str, given: str, known: Sequence[str]) -> str:
    """The model's own code for a language; raises InvalidJobError that lists what it knows."""
    found = _same_code(given, known) or _same_language(given, known)
    if len(found) == 1:
        return found[0]
    if found:
        raise InvalidJobError(
            f"{option} is {given!r}, which may be {' or '.join(found)}; expected one of these"
        )
    raise InvalidJobError(
        f"{option} is {given!r}; the model knows: {', '.join(known)}{_nearest(given, known)}"
    )


def are_same(one: str, other: str) -> bool:
    """Whether both name one language; scripts and regions (zho_Hans, zho_Hant) are told apart."""
    if _plain(one) == _plain(other):
        return True
    found = _by_any_name(one.strip(DECORATIONS)), _by_any_name(other.strip(DECORATIONS))
    return found[0] is not None and found[0] == found[1]


def language_name(given: str) -> str | None:
    """The English name of a language, or None if ISO 639 has none such."""
    language = _by_any_name(given)
    return language.name.partition(" (")[0] if language else None


def nearest_name(given: str) -> str:
    """`` (did you mean 'French'?)`` for the language that looks most like it, or nothing."""
    close = difflib.get_close_matches(given.strip().lower(), _everyday_names(), n=1, cutoff=0.8)
    return f" (did you mean {language_name(close[0])!r}?)" if close else ""


def iso_code(given: str) -> str:
    """The three letters of ISO 639-3, or what was given where it has none."""
    language = _by_any_name(given)
    return language.part3 if language else given


def splitter_code(given: str | None) -> str:
    """The two letters, or else three, by which splitters of sentences know a language."""
    language = _by_any_name(_bare(given)) if given else None
    return (language.part1 or language.part3) if language else "en"


def _same_code(given: str, known: Iterable[str]) -> list[str]:
    plain = _plain(given)
    return [code for code in known if _plain(code) == plain]


def _plain(code: str) -> str:
    return code.strip().strip(DECORATIONS).replace("-", "_").lower()


def _same_language(given: str, known: Sequence[str]) -> list[str]:
    """The codes of the same language, else of one that belongs to it or that it belongs to."""
    wanted, _, rest = given.strip().strip(DECORATIONS).replace("-", "_").partition("_")
    language = _language(wanted)
    if language is None:
        return _by_part_of_name(given, known)
    languages = {code: _language(_bare(code)) for code in known}
    same = [code for code, one in languages.items() if one and one.part3 == language.part3]
    if not same:
        same = [code for code, one in languages.items() if one and _related(one, language)]
    if rest:
        return [code for code in same if _plain(code).endswith(f"_{rest.lower()}")]
    # Beside dialects (fr, fr_BE, fr_CA) the language as such is what is meant.
    return [code for code in same if "_" not in _plain(code)] or same


def _related(one: Language, other: Language) -> bool:
    """One is a macrolanguage and the other belongs to it, as Mandarin (cmn) to Chinese (zho)."""
    return one.macrolanguage == other.part3 or other.macrolanguage == one.part3


def _bare(code: str) -> str:
    return code.strip(DECORATIONS).replace("-", "_").partition("_")[0]


def _by_part_of_name(given: str, known: Sequence[str]) -> list[str]:
    """ISO 639 says ``Modern Greek (1453-)`` where people say Greek."""
    words = rf"\b{re.escape(given.strip())}\b"
    languages = ((code, _language(_bare(code))) for code in known)
    return [code for code, one in languages if one and re.search(words, one.name, re.IGNORECASE)]


def _nearest(given: str, known: Iterable[str]) -> str:
    """The code that looks most alike, or that of the name that does."""
    codes = {name.lower(): code for code in known if (name := language_name(_bare(code)))}
    codes |= {_plain(code): code for code in known}
    close = difflib.get_close_matches(given.lower(), codes, n=1)
    return f" (did you mean {codes[close[0]]!r}?)" if close else ""


def _by_any_name(given: str) -> Language | None:
    return _language(given) or _everyday_names().get(given.strip().lower())


@lru_cache(maxsize=1)
def _everyday_names() -> dict[str, Language]:
    """Greek for ISO 639's ``Modern Greek (1453-)``, Swahili for ``Swahili (macrolanguage)``.

    Of languages with a code of two letters, which are the ones that people mean.
    """
    from iso639 import ALL_LANGUAGES

    known = [language for language in ALL_LANGUAGES if language.part1]
    plain = {language: language.name.partition(" (")[0] for language in known}
    return {name.removeprefix("Modern ").lower(): one for one, name in plain.items()}


@lru_cache(maxsize=4096)
def _language(given: str) -> Language | None:
    from iso639 import Language, LanguageNotFoundError

    try:
        return Language.match(given.strip(), strict_case=False)
    except LanguageNotFoundError:
        return None
