"""Options of the tasks that a model which writes text can do by a prompt."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from textmill.core.params.base import TaskParams
from textmill.core.storable import without_nul


class PromptParams(TaskParams):
    """How such a model is asked."""

    template: str | None = Field(
        default=None,
        description="chat model: the prompt; {text} is the text's place",
        json_schema_extra={"file": True},
    )
    system: str | None = Field(
        default=None,
        description="chat model: the system message",
        json_schema_extra={"file": True},
    )
    chat: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="chat model: prompts as the user's message; auto: if the model has a template",
    )

    @field_validator("system")
    @classmethod
    def _check_system(cls, system: str | None) -> str | None:
        if system is not None and not system.strip():
            raise ValueError("expected a text that is not empty")
        return None if system is None else without_nul(system)

    @model_validator(mode="after")
    def _check_chat(self) -> PromptParams:
        if self.system is not None and self.chat == "off":
            raise ValueError("a system message needs a chat, and chat is off; drop one of them")
        return self

    def chat_need(self) -> str | None:
        """The option that works only with a model that has a chat template."""
        if self.system is not None:
            return "--system"
        return "--chat on" if self.chat == "on" else None
