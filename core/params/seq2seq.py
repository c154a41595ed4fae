"""Options of the tasks that write a text for a text: translation and summarization."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from textmill.core.errors import InvalidJobError, ModelLoadError
from textmill.core.generators import check_generator, is_generator
from textmill.core.params.prompts import PromptParams
from textmill.core.prompts import Template
from textmill.core.storable import without_nul

# Position tables that end; those of other families grow or are relative.
FIXED_POSITIONS = ("marian", "bart", "mbart", "pegasus", "blenderbot", "blenderbot-small", "led")

# Those that CTranslate2 and the way it is used here know (workers/runners/ctranslate_convert.py).
CTRANSLATE2_FAMILIES = ("bart", "m2m_100", "marian", "mbart", "mt5", "t5")

# Which options only one kind of model knows.
OF_PROMPTS = ("template", "system", "chat")
OF_ENCODER_DECODERS = (
    "num_beams",
    "length_penalty",
    "no_repeat_ngram_size",
    "min_new_tokens",
    "prefix",
    "backend",
)

INT8_WITH_CTRANSLATE2 = (
    "backend is 'ctranslate2', which is not given models in int8; leave out --backend or --dtype"
)


class Seq2SeqParams(PromptParams):
    """How an encoder-decoder model writes, or a model that writes text is asked to.

    What is not given is as an encoder-decoder's generation_config says.
    """

    PLACES: ClassVar[tuple[str, ...]] = ("text",)
    """What a template may name."""

    PROMPT: ClassVar[str]
    """The template that is used without one."""

    num_beams: int | None = Field(
        default=None, ge=1, le=64, description="beams; 1: greedy (default: as the model says)"
    )
    max_new_tokens: int | None = Field(
        default=None,
        ge=1,
        description="tokens of an output at most (default: as the model says, else 256 or more)",
    )
    length_penalty: float | None = Field(
        default=None,
        allow_inf_nan=False,
        description="with beams: over 0 favours long outputs, under 0 short ones",
    )
    no_repeat_ngram_size: int | None = Field(
        default=None, ge=0, description="no N words' pieces twice in an output; 0: no such limit"
    )
    max_length: int | None = Field(
        default=None,
        ge=8,
        description="token limit of an input below the model's own (chat model: with its output)",
    )
    backend: Literal["torch", "ctranslate2"] = Field(
        default="torch",
        description="ctranslate2: faster; needs textmill[ct2] on the worker, converts once",
    )

    @field_validator("template")
    @classmethod
    def _check_template(cls, template: str | None) -> str | None:
        if template is None:
            return None
        try:
            columns = Template.parse(template).columns
        except InvalidJobError as error:
            raise ValueError(str(error)) from None
        places = ", ".join(f"{{{place}}}" for place in cls.PLACES)
        if unknown := [name for name in columns if name not in cls.PLACES]:
            raise ValueError(
                f"it names {{{unknown[0]}}}; expected {places}; a prompt of several columns is for "
                "the task generation"
            )
        if "text" not in columns:
            raise ValueError("expected {text}, the place of the text")
        return without_nul(template)

    def prompt(self, text: str) -> str:
        """What a model that writes text is asked."""
        return self.prompt_template().render({"text": text})

    def prompt_template(self) -> Template:
        """The template, or the one that is used without."""
        return Template.parse(self.PROMPT if self.template is None else self.template)

    def check_dtype(self, dtype: str) -> None:
        """Raise InvalidJobError for int8 with CTranslate2, which converts unrounded weights."""
        if self.backend == "ctranslate2" and dtype == "int8":
            raise InvalidJobError(INT8_WITH_CTRANSLATE2)

    def check_model(self, name: str, folder: Path, config: Mapping[str, Any]) -> None:
        """Raise for a model, or options, with which the task cannot be done."""
        causal = is_generator(config)
        if problem := self.problem_with(causal=causal):
            raise InvalidJobError(f"model {name!r}: {problem}")
        if causal:
            new_tokens = self.max_new_tokens or 1
            check_generator(name, folder, config, chat=self.chat_need(), new_tokens=new_tokens)
        else:
            self._check_encoder_decoder(name, config)

    def problem_with(self, *, causal: bool) -> str:
        """Why the options are not for a model that writes text (or for the other kind), or ''."""
        fields = type(self).model_fields
        names = OF_ENCODER_DECODERS if causal else OF_PROMPTS
        given = [n for n in names if n in fields and getattr(self, n) != fields[n].default]
        if given:
            option = f"--{given[0].replace('_', '-')}"
            kinds = ("a model with an encoder and a decoder", "one that writes text by a prompt")
            own, other = kinds[::-1] if causal else kinds
            return f"it is {own}, and {option} is for {other}"
        limit, new = self.max_length, self.max_new_tokens
        if causal and limit is not None and new is not None and new >= limit:
            return f"max_new_tokens is {new}, which leaves no room for a text in {limit} tokens"
        return ""

    def _check_encoder_decoder(self, name: str, config: Mapping[str, Any]) -> None:
        if config.get("is_encoder_decoder") is False:
            raise ModelLoadError(
                f"model {name!r} is a {config.get('model_type')} without an encoder and a decoder"
            )
        family = config.get("model_type")
        if self.backend == "ctranslate2" and family not in CTRANSLATE2_FAMILIES:
            raise InvalidJobError(
                f"backend is 'ctranslate2', which has no {family} models, as {name!r} is one; "
                f"expected one of: {', '.join(CTRANSLATE2_FAMILIES)}; leave --backend out"
            )
        positions = config.get("max_decoder_position_embeddings")
        positions = positions or config.get("max_position_embeddings")
        if family not in FIXED_POSITIONS or not isinstance(positions, int):
            return
        if self.max_new_tokens is not None and self.max_new_tokens >= positions:
            raise InvalidJobError(
                f"max_new_tokens is {self.max_new_tokens}, and model {name!r} has {positions} "
                f"positions, the first of which starts the output; expected at most {positions - 1}"
            )
