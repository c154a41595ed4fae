"""The options of each task: one model a task, the only place where they are named and described.

The command line, ``textmill tasks``, the Python function and the workers all read them from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

from textmill.core.inference_labels import find_inference_labels
from textmill.core.sentences import check_embedder


class TaskParams(BaseModel):
    """Base of every task's options: unknown ones are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def fields(self) -> tuple[str, ...]:
        """The input fields that a record must have with these options."""
        return ("text",)

    def check_model(self, name: str, folder: Path, config: Mapping[str, Any]) -> None:
        """Raise ModelLoadError if a model's files show that it cannot do the task this way."""


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


class EmbeddingsParams(TaskParams):
    """Options of ``embeddings``."""

    pooling: Literal["auto", "mean", "cls", "last"] = Field(
        default="auto",
        description="token vectors to one: mean, the first, the last; auto: as the model says",
    )
    normalize: bool | None = Field(
        default=None, description="vectors of length 1 (default: as the model says, else yes)"
    )
    prefix: str | None = Field(
        default=None,
        description="put before each text, such as 'query: ' (default: as the model says)",
    )
    dimensions: int | None = Field(
        default=None, ge=1, description="keep the first N numbers, of a Matryoshka model"
    )
    on_long: Literal["truncate", "error"] = Field(
        default="truncate", description="a text over the model's limit is cut, or an error row"
    )
    max_length: int | None = Field(
        default=None, ge=8, description="token limit below the model's own"
    )

    def check_model(self, name: str, folder: Path, config: Mapping[str, Any]) -> None:
        """Raise ModelLoadError for a model without such vectors."""
        check_embedder(name, folder, config, self.dimensions)


class ZeroShotParams(TaskParams):
    """Options of ``zero-shot-classification``."""

    labels: tuple[str, ...] = Field(
        default=(),
        validate_default=True,
        description="labels to choose from: a,b,c, or the option once for each label (needed)",
    )
    hypothesis_template: str = Field(
        default="This example is {}.", description="a label's sentence; {} is the label's place"
    )
    multi_label: bool = Field(
        default=False, description="independent labels: none, one or several may be given"
    )
    threshold: float = Field(
        default=0.5, ge=0, le=1, description="multi-label: a label is given from this score on"
    )
    on_long: Literal["truncate", "error"] = Field(
        default="truncate", description="a text over the model's limit is cut, or an error row"
    )
    max_length: int | None = Field(
        default=None, ge=8, description="token limit below the model's own, text and label together"
    )

    @field_validator("labels", mode="before")
    @classmethod
    def _split(cls, given: Any) -> Any:
        """One value may name several labels; of several values each is a label, comma or not."""
        values = [given] if isinstance(given, str) else given
        if isinstance(values, list | tuple) and len(values) == 1 and isinstance(values[0], str):
            values = [label for label in values[0].split(",") if label.strip()]
        if isinstance(values, list | tuple):
            return [one.strip() if isinstance(one, str) else one for one in values]
        return values

    @field_validator("labels")
    @classmethod
    def _check_labels(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        if not labels or not all(labels):
            raise PydanticCustomError("labels", "Expected labels that are not empty, such as a,b,c")
        if twice := sorted({label for label in labels if labels.count(label) > 1}):
            raise PydanticCustomError(
                "labels", "Each label once, {twice} twice", {"twice": ", ".join(twice)}
            )
        return labels

    @field_validator("hypothesis_template")
    @classmethod
    def _check_template(cls, template: str) -> str:
        if template.count("{}") != 1:
            raise PydanticCustomError("template", "Expected one {}, the place of the label")
        return template

    def check_model(self, name: str, folder: Path, config: Mapping[str, Any]) -> None:
        """Raise ModelLoadError for a model that does not know entailment."""
        find_inference_labels(name, config)
