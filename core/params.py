"""The options of each task: one model a task, the only place where they are named and described.

The command line, ``textmill tasks``, the Python function and the workers all read them from here.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class TaskParams(BaseModel):
    """Base of every task's options: unknown ones are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def fields(self) -> tuple[str, ...]:
        """The input fields that a record must have with these options."""
        return ("text",)


class ClassificationParams(TaskParams):
    """Options of ``classification``."""

    top_k: int | None = Field(
        default=None, ge=1, description="keep the K best scores in detail (default: all)"
    )
    multi_label: bool | None = Field(
        default=None,
        description="independent labels by sigmoid (default: what the model's config says)",
    )
    threshold: float = Field(
        default=0.5, ge=0, le=1, description="multi-label: a label is given from this score on"
    )
    on_long: Literal["truncate", "error"] = Field(
        default="truncate", description="a text over the model's limit is cut, or an error row"
    )
    max_length: int | None = Field(
        default=None, ge=8, description="token limit below the model's own"
    )
