"""What every task's options share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class TaskParams(BaseModel):
    """Base of every task's options: unknown ones are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def fields(self) -> tuple[str, ...]:
        """The input fields that a record must have with these options."""
        return ("text",)

    def text_field(self) -> str:
        """The one of these fields that a result row keeps as its ``text``."""
        return "text"

    def check_model(self, name: str, folder: Path, config: Mapping[str, Any]) -> None:
        """Raise ModelLoadError if a model's files show that it cannot do the task this way."""


class TextParams(TaskParams):
    """Options of the tasks that read a text at once, as far as the model's limit."""

    on_long: Literal["truncate", "error"] = Field(
        default="truncate", description="a text over the model's limit is cut, or an error row"
    )
    max_length: int | None = Field(
        default=None, ge=8, description="token limit below the model's own"
    )
