"""Options of ``translation``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from textmill.core.generators import is_generator
from textmill.core.languages import are_same, language_name, nearest_name
from textmill.core.model_languages import ModelLanguages, Telling, read_languages
from textmill.core.params.seq2seq import Seq2SeqParams
from textmill.core.prompts import Template
from textmill.core.storable import without_nul

FROM = "Translate the text from {source_lang} to {target_lang}."
INTO = "Translate the text to {target_lang}."


class TranslationParams(Seq2SeqParams):
    """Options of ``translation``."""

    PLACES: ClassVar[tuple[str, ...]] = ("text", "source_lang", "target_lang")
    PROMPT: ClassVar[str] = " Answer with the translation only.\n\n{text}"  # behind FROM or INTO

    source_lang: str | None = Field(
        default=None,
        description="the texts' language: the model's own code, ISO 639 code or English name",
    )
    target_lang: str | None = Field(default=None, description="the language to translate into")
    prefix: str | None = Field(
        default=None, description="put before each sentence, in place of a T5 model's own words"
    )
    split: Literal["sentences", "long"] | None = Field(
        default=None,
        description="translate sentence by sentence (default), or split only texts over the limit "
        "(default of a chat model)",
    )
    on_long: Literal["split", "error"] = Field(
        default="split",
        description="over the limit: a text is split, a sentence cut at words; or an error row",
    )

    @field_validator("source_lang", "target_lang")
    @classmethod
    def _check_language(cls, given: str | None) -> str | None:
        if given is not None and not given.strip():
            raise ValueError("expected a language, such as fr, fra or French")
        return given

    @field_validator("prefix")
    @classmethod
    def _check_prefix(cls, prefix: str | None) -> str | None:
        return None if prefix is None else without_nul(prefix)

    @model_validator(mode="after")
    def _check_pair(self) -> TranslationParams:
        source, target = self.source_lang, self.target_lang
        if source is not None and target is not None and are_same(source, target):
            raise ValueError(
                f"source_lang is {source!r} and target_lang {target!r}, the same language; "
                "expected two"
            )
        return self

    def check_model(self, name: str, folder: Path, config: Mapping[str, Any]) -> None:
        """Raise for languages that the model's files show it not to know."""
        super().check_model(name, folder, config)
        if not is_generator(config):
            self.check_languages(read_languages(name, folder, config))

    def check_languages(self, known: ModelLanguages) -> None:
        """Raise InvalidJobError for a language that the model does not know, or needs."""
        if known.telling == Telling.CODES and not known.sources:
            for option in ("source_lang", "target_lang"):
                if getattr(self, option) is None:
                    known.resolve(self.source_lang, self.target_lang, self.prefix)
            return  # its files hold no list: the worker asks the tokenizer
        known.resolve(self.source_lang, self.target_lang, self.prefix)

    def problem_with(self, *, causal: bool) -> str:
        """See Seq2SeqParams; a model that writes text is told names of languages."""
        return super().problem_with(causal=causal) or (self._language_problem() if causal else "")

    def prompt(self, text: str) -> str:
        """What a model that writes text is asked."""
        names = {
            option: language_name(given) or given
            for option in ("source_lang", "target_lang")
            if (given := getattr(self, option)) is not None
        }
        return self.prompt_template().render({"text": text, **names})

    def prompt_template(self) -> Template:
        """The template, or the one that is used without; it needs no source language."""
        if self.template is None and self.source_lang is None:
            return Template.parse(INTO + self.PROMPT)
        return Template.parse(FROM + self.PROMPT if self.template is None else self.template)

    def _language_problem(self) -> str:
        asked = self.prompt_template().columns
        for option in ("source_lang", "target_lang"):
            given = getattr(self, option)
            if given is None and option in asked:
                return f"it needs {option}, such as fr, fra or French"
            if given is not None and language_name(given) is None:
                return (
                    f"{option} is {given!r}, which is no language of ISO 639, as code or English "
                    f"name{nearest_name(given)}; give one, or write what you mean into the prompt "
                    "with --template"
                )
        if self.target_lang is not None and "target_lang" not in asked:
            return "target_lang is given, and the template has no place {target_lang} for it"
        return ""
