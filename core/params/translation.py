"""Options of ``translation``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from textmill.core.model_languages import ModelLanguages, Telling, read_languages
from textmill.core.params.seq2seq import Seq2SeqParams


class TranslationParams(Seq2SeqParams):
    """Options of ``translation``."""

    source_lang: str | None = Field(
        default=None,
        description="the texts' language: the model's own code, ISO 639 code or English name",
    )
    target_lang: str | None = Field(default=None, description="the language to translate into")
    prefix: str | None = Field(
        default=None, description="put before each sentence, in place of a T5 model's own words"
    )
    split: Literal["sentences", "long"] = Field(
        default="sentences",
        description="translate sentence by sentence, or only texts that are over the limit",
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
        return None if prefix is None else prefix.replace("\0", "\N{REPLACEMENT CHARACTER}")

    def check_model(self, name: str, folder: Path, config: Mapping[str, Any]) -> None:
        """Raise for languages that the model's files show it not to know."""
        super().check_model(name, folder, config)
        self.check_languages(read_languages(name, folder, config))

    def check_languages(self, known: ModelLanguages) -> None:
        """Raise InvalidJobError for a language that the model does not know, or needs."""
        if known.telling == Telling.CODES and not known.sources:
            for option in ("source_lang", "target_lang"):
                if getattr(self, option) is None:
                    known.resolve(self.source_lang, self.target_lang, self.prefix)
            return  # its files hold no list: the worker asks the tokenizer
        known.resolve(self.source_lang, self.target_lang, self.prefix)
