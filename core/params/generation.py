"""Options of ``generation``."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from textmill.core.errors import InvalidJobError
from textmill.core.generators import check_generator
from textmill.core.json_schemas import read_schema
from textmill.core.params.base import Composition, TaskParams
from textmill.core.prompts import Template, read_chat, write_chat
from textmill.core.storable import without_nul


class GenerationParams(TaskParams):
    """Options of ``generation``."""

    OWN: ClassVar[frozenset[str]] = frozenset(
        {
            "max_new_tokens",
            "temperature",
            "top_p",
            "top_k",
            "repetition_penalty",
            "frequency_penalty",
            "presence_penalty",
            "stop",
            "seed",
            "system",
        }
    )
    FROM_LINES: ClassVar[frozenset[str]] = frozenset({"stop", "json_schema"})

    max_new_tokens: int = Field(
        default=256, ge=1, description="an answer ends after so many tokens at the latest"
    )
    temperature: float = Field(
        default=0,
        ge=0,
        le=100,
        allow_inf_nan=False,
        description="over 0: draw each token, the higher the wilder; 0: take the likeliest",
    )
    top_p: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="draw from the likeliest tokens that have this share together (default: all)",
    )
    top_k: int | None = Field(
        default=None, ge=1, description="draw from the K likeliest tokens (default: all)"
    )
    repetition_penalty: float = Field(
        default=1,
        gt=0,
        le=100,
        description="over 1: tokens of prompt and answer so far become less likely",
    )
    frequency_penalty: float = Field(
        default=0,
        ge=-2,
        le=2,
        description="over 0: tokens become less likely by so much for each time in the answer",
    )
    presence_penalty: float = Field(
        default=0,
        ge=-2,
        le=2,
        description="over 0: tokens that are in the answer become less likely by so much",
    )
    stop: tuple[str, ...] = Field(
        default=(), description="end before this text; the option once for each text"
    )
    seed: int = Field(
        default=0, ge=0, lt=2**63, description="of the draws, together with each record's id"
    )
    system: str | None = Field(
        default=None,
        description="system message of every chat that has none",
        json_schema_extra={"file": True},
    )
    template: str | None = Field(
        default=None,
        description="the prompt, with columns in braces: 'Translate {text} for {country}'",
        json_schema_extra={"file": True},
    )
    messages: bool = Field(
        default=False, description="each record is a chat: a list in the column 'messages'"
    )
    chat: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="prompts as the user's message of a chat; auto: if the model has a template",
    )
    on_long: Literal["error", "truncate-left"] = Field(
        default="error",
        description="a prompt over the context: an error row, or its beginning is cut off",
    )
    max_length: int | None = Field(
        default=None, ge=8, description="limit of prompt and answer in tokens, below the model's"
    )

    json_schema: str | None = Field(
        default=None,
        description="a file with a JSON Schema: every answer is JSON that fulfils it",
        json_schema_extra={"file": "path"},
    )

    # What an OpenAI batch asks for; nobody names these.
    fit_answer: bool = Field(
        default=False,
        description="an answer gets what the prompt leaves of the context, if that is less",
        json_schema_extra={"hidden": True},
    )
    draws: str | None = Field(
        default=None,
        description="stands for the record's id in its draws",
        json_schema_extra={"hidden": True},
    )

    @field_validator("stop", mode="before")
    @classmethod
    def _one_or_several(cls, given: Any) -> Any:
        return (given,) if isinstance(given, str) else given

    @field_validator("stop")
    @classmethod
    def _check_stop(cls, stop: tuple[str, ...]) -> tuple[str, ...]:
        if not all(stop):
            raise ValueError("expected texts that are not empty")
        return tuple(dict.fromkeys(map(without_nul, stop)))

    @field_validator("system")
    @classmethod
    def _check_system(cls, system: str | None) -> str | None:
        if system is not None and not system.strip():
            raise ValueError("expected a text that is not empty")
        return None if system is None else without_nul(system)

    @field_validator("template")
    @classmethod
    def _check_template(cls, template: str | None) -> str | None:
        if template is None:
            return None
        try:
            Template.parse(template)
        except InvalidJobError as error:
            raise ValueError(str(error)) from None
        return without_nul(template)

    @field_validator("json_schema", mode="before")
    @classmethod
    def _read_json_schema(cls, given: Any) -> str | None:
        try:
            return None if given is None else read_schema(given)
        except InvalidJobError as error:
            raise ValueError(str(error)) from None

    @model_validator(mode="after")
    def _check_together(self) -> GenerationParams:
        for problem in self._problems():
            raise ValueError(problem)
        return self

    def _problems(self) -> list[str]:
        """What is wrong with options that are right each by itself."""
        problems = []
        drawn = self.temperature > 0 or "temperature" in self.own_columns
        for option in ("top_p", "top_k"):
            given = getattr(self, option) is not None or option in self.own_columns
            if given and not drawn:
                problems.append(
                    f"{option} counts only for drawn tokens, and temperature is 0; give a "
                    "temperature such as 0.7"
                )
        if self.messages and self.template is not None:
            problems.append("messages are whole chats, so there is no template to fill; drop one")
        if self.chat == "off":
            if self.messages:
                problems.append("messages need a chat, and chat is off; drop one of them")
            if self.system is not None or "system" in self.own_columns:
                problems.append("a system message needs a chat, and chat is off; drop one of them")
        if self.json_schema is not None and (self.stop or "stop" in self.own_columns):
            problems.append(
                "stop texts would cut the JSON that json_schema asks for; drop one of them"
            )
        if (
            self.max_length is not None
            and self.max_new_tokens >= self.max_length
            and not self.fit_answer
        ):
            problems.append(
                f"max_new_tokens is {self.max_new_tokens}, which leaves no room for a prompt in a "
                f"max_length of {self.max_length}"
            )
        return problems

    def fields(self) -> tuple[str, ...]:
        """The prompt, the messages, or the columns that the template names."""
        if self.template is not None:
            return Template.parse(self.template).columns
        return ("messages",) if self.messages else ("text",)

    def composition(self) -> Composition | None:
        """A record holds one ``text``: the whole prompt, or a chat as JSON."""
        if self.template is not None:
            template = Template.parse(self.template)
            return Composition(lambda row: {"text": template.render(row)}, keep_columns=True)
        if self.messages:
            return Composition(
                lambda row: {"text": write_chat(read_chat(row["messages"]))},
                keep_columns=False,
                expected="a list of messages",
            )
        return None

    def is_drawn(self, own: Mapping[str, Any]) -> bool:
        """Draws depend on the seed and the record's id."""
        return float(own.get("temperature", self.temperature)) > 0

    def advise(self, columns: Collection[str]) -> str:
        """Chats are asked for with an option that a person with a file of them may not know."""
        if "messages" in columns and self.template is None and not self.messages:
            return "if each record is a chat, a list of messages, pass --messages"
        return ""

    def check_model(self, name: str, folder: Path, config: Mapping[str, Any]) -> None:
        """Raise ModelLoadError for a model without the chat template that the options need."""
        new_tokens = 1 if self.fit_answer else self.max_new_tokens
        check_generator(name, folder, config, chat=self.chat_need(), new_tokens=new_tokens)

    def chat_need(self) -> str | None:
        """The option that works only with a model that has a chat template."""
        if self.messages:
            return self.openai_batch or "--messages"
        if self.system is not None or "system" in self.own_columns:
            return "--system"
        return "--chat on" if self.chat == "on" else None
