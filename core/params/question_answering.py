"""Options of ``question-answering``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from textmill.core.errors import InvalidJobError
from textmill.core.params.base import TaskParams
from textmill.core.storable import without_nul

DEFAULT_WINDOW = 384  # tokens, with the question
MAX_FIXED_CONTEXT = 1_000_000  # characters; it is sent with the job to every chunk


class QuestionAnsweringParams(TaskParams):
    """Options of ``question-answering``."""

    INPUTS: ClassVar[frozenset[str]] = frozenset({"question", "context"})

    question: str | None = Field(
        default=None, description="one question for all contexts (default: a column)"
    )
    context: str | None = Field(
        default=None,
        max_length=MAX_FIXED_CONTEXT,
        description="one context for all questions, or @FILE (default: a column)",
        json_schema_extra={"file": True},
    )
    window: int | None = Field(
        default=None,
        ge=8,
        description="tokens of a window, with the question (default: 384; at most the model's)",
    )
    stride: int | None = Field(
        default=None,
        ge=0,
        description="tokens that two windows of a context share (default: 128, or half a window)",
    )
    max_windows: int = Field(default=512, ge=1, description="a context of more is an error row")
    on_long: Literal["windows", "truncate", "error"] = Field(
        default="windows",
        description="a context over one window is read in several, cut, or an error row",
    )
    max_answer_tokens: int = Field(
        default=30, ge=1, le=512, description="an answer has at most so many tokens"
    )
    whole_words: bool = Field(
        default=True,
        description="an answer ends at spaces or punctuation; turn off for Chinese and the like",
    )
    top_k: int = Field(default=1, ge=1, le=20, description="keep so many best answers in detail")
    no_answer: bool = Field(
        default=False,
        description="answers may be empty; for models that learned it (as on SQuAD 2)",
    )
    no_answer_threshold: float | None = Field(
        default=None,
        allow_inf_nan=False,
        description="empty if its logits exceed the best answer's by more than this (default: 0)",
    )

    @field_validator("question", "context")
    @classmethod
    def _check_text(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if not value.strip():
            raise ValueError("expected a text that is not empty")
        return without_nul(value)

    @model_validator(mode="after")
    def _check_together(self) -> QuestionAnsweringParams:
        if self.question is not None and self.context is not None:
            raise ValueError("question and context are both fixed; one has to come from the input")
        window = DEFAULT_WINDOW if self.window is None else self.window
        if self.stride is not None and self.stride >= window:
            raise ValueError(f"stride {self.stride} is no less than window {window}")
        if self.no_answer_threshold is not None and not self.no_answer:
            raise ValueError("no_answer_threshold counts only with no_answer")
        return self

    def fields(self) -> tuple[str, ...]:
        """What is not the same for all records."""
        fixed = {"question": self.question, "context": self.context}
        return tuple(name for name, value in fixed.items() if value is None)

    def check_model(self, name: str, folder: Path, config: Mapping[str, Any]) -> None:
        """Raise InvalidJobError where the windows that the model reads are as short as the stride.

        A question has to fit beside it too, but that is the record's business.
        """
        positions = config.get("max_position_embeddings")
        if self.stride is not None and isinstance(positions, int) and 0 < positions <= self.stride:
            raise InvalidJobError(
                f"stride is {self.stride}, and model {name!r} reads windows of {positions} tokens "
                "at most; give a smaller --stride"
            )

    def text_field(self) -> str:
        """The context, which answers are spans of; a fixed one is with the job, not in each row."""
        return "context" if self.context is None else "question"
