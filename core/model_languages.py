"""Which languages a translation model knows, as far as its files show, and how it is told them.

Five ways, by family: a fixed pair (Marian, FSMT), a token before the text (multilingual Marian,
``>>fra<<``), codes of both languages among the tokens (M2M100, NLLB, mBART), words before the text
(T5), and none at all. Imports neither torch nor transformers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from textmill.core.errors import InvalidJobError, ModelLoadError
from textmill.core.languages import find_language, iso_code, language_name, nearest_name

CODE_TOKENS = {
    "nllb": re.compile(r"[a-z]{3}_[A-Z][a-z]{3}"),  # fra_Latn
    "mbart": re.compile(r"[a-z]{2,3}_[A-Z]{2}"),  # fr_XX
    "m2m_100": re.compile(r"__([a-z]{2,3})__"),  # __fr__
}
MARIAN_TOKEN = re.compile(r">>[^<>\s]+<<")
TOKENIZER_FILES = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.json",
)


class Telling(StrEnum):
    """How a model learns which languages it is to translate."""

    FIXED = "fixed"  # one pair, nothing is told
    TARGET_TOKEN = "target_token"  # before the text, such as >>fra<<
    CODES = "codes"  # the source's token around the text, the target's first in the output
    PREFIX = "prefix"  # words before the text
    UNKNOWN = "unknown"  # the files say nothing of languages


@dataclass(frozen=True, slots=True)
class Direction:
    """What one record's languages are to the model."""

    source: str | None = None  # codes of the model's own
    target: str | None = None
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class ModelLanguages:
    """What a model knows, in its own codes."""

    model: str
    telling: Telling
    sources: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    prefixes: tuple[tuple[str, str, str], ...] = ()  # source, target, words

    def resolve(self, source: str | None, target: str | None, prefix: str | None) -> Direction:
        """What to tell the model; raises InvalidJobError that lists what it knows."""
        if self.telling == Telling.PREFIX:
            return self._by_words(source, target, prefix)
        if self.telling == Telling.UNKNOWN:
            self._refuse_languages(source, target)
            return Direction(prefix=prefix or "")
        found_source = self._side("source_lang", source, self.sources)
        found_target = self._side("target_lang", target, self.targets)
        return Direction(found_source, found_target, prefix or "")

    def _side(self, option: str, given: str | None, known: tuple[str, ...]) -> str | None:
        if given is not None and known:
            return find_language(option, given, known)
        needed = {
            Telling.CODES: ("source_lang", "target_lang"),
            Telling.TARGET_TOKEN: ("target_lang",),
        }
        if given is None and option in needed.get(self.telling, ()):
            raise InvalidJobError(
                f"model {self.model!r} needs {option}"
                + (f"; it knows: {', '.join(known)}" if known else ", such as fr, fra or French")
            )
        return None

    def _refuse_languages(self, source: str | None, target: str | None) -> None:
        for option, given in (("source_lang", source), ("target_lang", target)):
            if given is not None:
                raise InvalidJobError(
                    f"{option} is {given!r}, and the files of model {self.model!r} say nothing of "
                    "languages, so it cannot be told which; leave the option out"
                )

    def _by_words(self, source: str | None, target: str | None, prefix: str | None) -> Direction:
        if prefix is not None:
            return Direction(source, target, prefix)
        if source is None or target is None:
            missing = "source_lang" if source is None else "target_lang"
            raise InvalidJobError(
                f"model {self.model!r} needs {missing} (or --prefix, the words before each text)"
                f"{self._pairs()}"
            )
        for one, other, words in self.prefixes:
            if (iso_code(one), iso_code(other)) == (iso_code(source), iso_code(target)):
                return Direction(one, other, words)
        if self.prefixes:
            raise InvalidJobError(
                f"model {self.model!r} was not trained to translate {source!r} to {target!r}"
                f"{self._pairs()}; to try it all the same give the words with --prefix"
            )
        return Direction(source, target, f"translate {_name(source)} to {_name(target)}: ")

    def _pairs(self) -> str:
        pairs = ", ".join(f"{source} to {target}" for source, target, _ in self.prefixes)
        return f"; it knows: {pairs}" if pairs else ""


def read_languages(name: str, folder: Path, config: Mapping[str, Any]) -> ModelLanguages:
    """What the files of a model say; raises ModelLoadError if one is damaged."""
    family = str(config.get("model_type"))
    if family == "marian":
        return _marian(name, folder)
    if family in ("m2m_100", "mbart"):
        # A tokenizer of today writes no such list, and its class knows one: the worker asks it.
        return code_languages(name, _special_tokens(name, folder))
    if family in ("t5", "mt5", "umt5", "longt5"):
        return ModelLanguages(name, Telling.PREFIX, prefixes=tuple(_t5_prefixes(config)))
    if isinstance(langs := config.get("langs"), list) and len(langs) == 2:  # FSMT
        return ModelLanguages(name, Telling.FIXED, (langs[0],), (langs[1],))
    return ModelLanguages(name, Telling.UNKNOWN)


def code_languages(name: str, tokens: Iterable[str]) -> ModelLanguages:
    """The languages whose codes are among a tokenizer's special tokens."""
    found = list(dict.fromkeys(tokens))
    for pattern in CODE_TOKENS.values():
        codes = [match[match.re.groups] for token in found if (match := pattern.fullmatch(token))]
        if codes:
            known = tuple(sorted(codes))
            return ModelLanguages(name, Telling.CODES, known, known)
    return ModelLanguages(name, Telling.CODES)


def _marian(name: str, folder: Path) -> ModelLanguages:
    settings = _read_json(name, folder / "tokenizer_config.json")
    source, target = settings.get("source_lang"), settings.get("target_lang")
    sources = tuple(one for one in (source,) if isinstance(one, str))
    tokens = tuple(
        sorted(t for t in _read_json(name, folder / "vocab.json") if MARIAN_TOKEN.fullmatch(t))
    )
    if tokens:
        # The source may be the name of a whole group of languages, which no language is.
        sources = sources if sources and language_name(sources[0]) else ()
        return ModelLanguages(name, Telling.TARGET_TOKEN, sources, tokens)
    if sources and isinstance(target, str):
        return ModelLanguages(name, Telling.FIXED, sources, (target,))
    return ModelLanguages(name, Telling.UNKNOWN)


def _t5_prefixes(config: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    tasks = config.get("task_specific_params")
    for task, settings in (tasks if isinstance(tasks, dict) else {}).items():
        match = re.fullmatch(r"translation_([a-z]+)_to_([a-z]+)", task)
        if match and isinstance(settings, dict) and isinstance(settings.get("prefix"), str):
            yield match[1], match[2], settings["prefix"]


def _name(given: str) -> str:
    name = language_name(given)
    if name is None:
        raise InvalidJobError(
            f"{given!r} is no language of ISO 639, as code or English name{nearest_name(given)}; "
            "such a model is told names of languages: give one, or the words before each text "
            "with --prefix"
        )
    return name


def _special_tokens(name: str, folder: Path) -> Iterator[str]:
    for file in TOKENIZER_FILES:
        found = _read_json(name, folder / file)
        yield from _texts(found.get("additional_special_tokens"))
        yield from _texts(found.get("extra_special_tokens"))
        yield from _texts(found.get("added_tokens_decoder"))
        yield from _texts(found.get("added_tokens"))
        if file == "added_tokens.json":
            yield from found


def _texts(found: Any) -> Iterator[str]:
    """The tokens of a list or an object, each a text or an object with ``content``."""
    listed = list(found.values()) if isinstance(found, dict) else found
    for one in listed if isinstance(listed, list) else []:
        text = one.get("content") if isinstance(one, dict) else one
        if isinstance(text, str):
            yield text


def _read_json(name: str, path: Path) -> dict[str, Any]:
    """The file's object, empty if there is no such file."""
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (ValueError, OSError) as error:
        raise ModelLoadError(f"model {name!r}: {path.name} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise ModelLoadError(f"model {name!r}: {path.name} holds no object")
    return found
