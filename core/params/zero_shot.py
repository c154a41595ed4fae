"""Options of ``zero-shot-classification``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from textmill.core.errors import InvalidJobError, ModelLoadError
from textmill.core.generators import check_generator, is_generator
from textmill.core.inference_labels import find_inference_labels
from textmill.core.params.base import Composition, TextParams
from textmill.core.params.prompts import PromptParams
from textmill.core.prompts import Template
from textmill.core.storable import without_nul

HYPOTHESIS = "This example is {}."
PROMPT = (
    "Classify the text into one of these labels: {labels}.\n\n"
    "Text: {text}\n\n"
    "Answer with the label only.\n\nLabel:"
)
LABELS = "labels"  # their place in a template
LISTING = re.compile(r"[^\s\d],[^\s\d]")  # a,b; no label such as "yes, please" or "1,000"


def _is_listing(value: Any) -> bool:
    return isinstance(value, str) and LISTING.search(value) is not None


class ZeroShotParams(TextParams, PromptParams):
    """Options of ``zero-shot-classification``."""

    OWN: ClassVar[frozenset[str]] = frozenset({"labels"})

    labels: tuple[str, ...] = Field(
        default=(),
        validate_default=True,
        description="labels to choose from: a,b,c, or the option once for each label "
        "(needed, or a column of them: --labels-column)",
    )
    hypothesis_template: str = Field(
        default=HYPOTHESIS, description="a label's sentence; {} is the label's place"
    )
    multi_label: bool = Field(
        default=False, description="independent labels: none, one or several may be given"
    )
    threshold: float = Field(
        default=0.5, ge=0, le=1, description="multi-label: a label is given from this score on"
    )
    template: str | None = Field(
        default=None,
        description="chat model: the prompt, with {text}, {labels} or columns in braces",
        json_schema_extra={"file": True},
    )
    max_length: int | None = Field(
        default=None, ge=8, description="token limit below the model's own, text and label together"
    )

    @field_validator("labels", mode="before")
    @classmethod
    def _split(cls, given: Any) -> Any:
        """One value may name several labels; of several values each is a label, comma or not."""
        values = [given] if isinstance(given, str) else given
        if isinstance(values, list | tuple) and len(values) > 1 and all(map(_is_listing, values)):
            example = ",".join(values)
            raise PydanticCustomError(
                "labels", "Several lists of labels; expected one: {example}", {"example": example}
            )
        if isinstance(values, list | tuple) and len(values) == 1 and isinstance(values[0], str):
            values = [label for label in values[0].split(",") if label.strip()]
        if isinstance(values, list | tuple):
            return [one.strip() if isinstance(one, str) else one for one in values]
        return values

    @field_validator("labels")
    @classmethod
    def _check_labels(cls, labels: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        needed = "labels" not in info.data.get("own_columns", {})
        if (needed and not labels) or not all(labels):
            kind = "labels" if labels else "needed"
            raise PydanticCustomError(kind, "Expected labels that are not empty, such as a,b,c")
        if twice := sorted({label for label in labels if labels.count(label) > 1}):
            raise PydanticCustomError(
                "labels", "Each label once, {twice} twice", {"twice": ", ".join(twice)}
            )
        return tuple(map(without_nul, labels))

    @field_validator("hypothesis_template")
    @classmethod
    def _check_hypothesis(cls, template: str) -> str:
        if template.count("{}") != 1:
            raise PydanticCustomError("template", "Expected one {}, the place of the label")
        return template

    @field_validator("template")
    @classmethod
    def _check_template(cls, template: str | None) -> str | None:
        if template is None:
            return None
        try:
            columns = Template.parse(template).columns
        except InvalidJobError as error:
            raise ValueError(str(error)) from None
        if columns == (LABELS,):
            raise ValueError(
                "it names no column, so every record would get the same prompt; expected {text}, "
                "the place of the text"
            )
        return without_nul(template)

    @model_validator(mode="after")
    def _check_labels_place(self) -> ZeroShotParams:
        if "labels" in self.own_columns and self.is_composed() and LABELS in self.prompt().columns:
            raise ValueError(
                "a template of columns is filled before a record's own labels count, and it names "
                f"{{labels}}; name their column: {{{self.own_columns['labels']}}}"
            )
        return self

    def fields(self) -> tuple[str, ...]:
        """The text, or the columns that the template names."""
        return tuple(name for name in self.prompt().columns if name != LABELS)

    def composition(self) -> Composition | None:
        """A template of other columns than the text is filled here; the record is the prompt."""
        if not self.is_composed():
            return None
        return Composition(lambda row: {"text": self.fill(row)}, keep_columns=True)

    def is_composed(self) -> bool:
        """Whether a record is a whole prompt and not the text inside it."""
        return self.fields() != ("text",)

    def prompt(self) -> Template:
        """The template, or the one that is used without."""
        return Template.parse(PROMPT if self.template is None else self.template)

    def fill(self, row: Mapping[str, Any]) -> str:
        """The prompt of one row; raises RecordError for a value that is no text or number."""
        return self.prompt().render({**row, LABELS: ", ".join(self.labels)})

    def check_model(self, name: str, folder: Path, config: Mapping[str, Any]) -> None:
        """Raise ModelLoadError for a model that cannot weigh labels, or not with these options."""
        causal = is_generator(config)
        if problem := self.problem_with(causal=causal):
            raise ModelLoadError(f"model {name!r}: {problem}")
        if causal:
            check_generator(name, folder, config, chat=self.chat_need(), new_tokens=1)
        else:
            find_inference_labels(name, config)

    def record_problem(self, *, causal: bool) -> str:
        """Why a record with these options cannot be classified, or ''."""
        if not self.labels:
            return "the record has no labels of its own, and the job none for all"
        return self.problem_with(causal=causal)

    def problem_with(self, *, causal: bool) -> str:
        """Why the options are not for a model that writes text (or one of inference), or ''."""
        if not causal:
            given = {"--template": self.template, "--system": self.system}
            misplaced = [option for option, value in given.items() if value is not None]
            misplaced += ["--chat"] * (self.chat != "auto")
            kinds = "it is a model of natural language inference, and {} is for models that write"
            advice = "; a label's sentence is --hypothesis-template"
        else:
            misplaced = ["--hypothesis-template"] * (self.hypothesis_template != HYPOTHESIS)
            misplaced += ["--multi-label"] * self.multi_label
            kinds = "it is a model that writes text, and {} is for models of natural language"
            kinds += " inference"
            advice = "; its prompt is --template, and it chooses one of the labels"
        if misplaced:
            return kinds.format(misplaced[0]) + advice
        if causal and len(self.labels) == 1:
            return f"it chooses between labels, and {self.labels[0]!r} is the only one; give more"
        return ""
