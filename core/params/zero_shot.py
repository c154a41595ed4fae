"""Options of ``zero-shot-classification``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from textmill.core.inference_labels import find_inference_labels
from textmill.core.params.base import TextParams


class ZeroShotParams(TextParams):
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
