"""What every task's options share."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

OPENAI_COLUMN = "openai"
"""The column of ``extra`` in which a record of an OpenAI batch keeps what is its own: the model's
name in its line, ``params``, the options in which it differs from the job's, and what else the
answer needs."""


@dataclass(frozen=True, slots=True)
class Composition:
    """How the values of a row's columns become what its record holds.

    ``compose`` raises RecordError. With ``keep_columns`` the columns stay in ``extra`` too, because
    nobody could tell them from the result. ``expected`` says what a column has to hold.
    """

    compose: Callable[[Mapping[str, Any]], dict[str, Any]]
    keep_columns: bool
    expected: str = "a text"


class TaskParams(BaseModel):
    """Base of every task's options: unknown ones are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    OWN: ClassVar[frozenset[str]] = frozenset()
    """The options that a record may have its own value of."""

    INPUTS: ClassVar[frozenset[str]] = frozenset()
    """The options that stand for an input of every record; a purge removes them."""

    FROM_LINES: ClassVar[frozenset[str]] = frozenset()
    """The options that a line of an OpenAI batch may give in words of its own. The job has those of
    its first line, unless it keeps no texts; a purge removes them."""

    own_columns: dict[str, str] = Field(
        default={},
        description="option to the column of each record's own value of it",
        json_schema_extra={"hidden": True},  # asked for as --OPTION-column
    )
    openai_batch: Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings"] | None = (
        Field(
            default=None,
            description="the job is an OpenAI batch of this endpoint",
            json_schema_extra={"hidden": True},  # told by the input
        )
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """``True`` would count as 1."""
        kinds = kinds_of(cls, info.field_name or "")
        if isinstance(value, bool) and not any(kind in (bool, Any, value) for kind in kinds):
            raise PydanticCustomError("switch", "Expected a number or a text, and no switch")
        return value

    @field_validator("own_columns")
    @classmethod
    def _check_own(cls, columns: dict[str, str]) -> dict[str, str]:
        for option in columns:
            if option not in cls.OWN:
                raise PydanticCustomError(
                    "own_columns",
                    "No column can be named for {option}; the options with a column are: {own}",
                    {"option": repr(option), "own": ", ".join(sorted(cls.OWN)) or "none"},
                )
        return columns

    def __hash__(self) -> int:
        """By the options; ``own_columns``, a dictionary, has no hash."""
        return hash(tuple(value for name, value in self if name != "own_columns"))

    @property
    def reads_own(self) -> bool:
        """Whether records may have values of their own, which are read from ``extra``."""
        return bool(self.own_columns) or self.openai_batch is not None

    def fields(self) -> tuple[str, ...]:
        """The input fields that a row must have with these options."""
        return ("text",)

    def text_field(self) -> str:
        """The one of these fields that a result row keeps as its ``text``."""
        return "text"

    def composition(self) -> Composition | None:
        """How a row's fields become the record's inputs; None: they are the inputs as they are."""
        return None

    def is_drawn(self, own: Mapping[str, Any]) -> bool:
        """True if a record with these options of its own gets what is drawn for its id."""
        return False

    def advise(self, columns: Collection[str]) -> str:
        """What to try where these columns hold none of the fields, or nothing."""
        return ""

    def check_dtype(self, dtype: str) -> None:
        """Raise InvalidJobError for a dtype that does not go with the options."""

    def check_model(self, name: str, folder: Path, config: Mapping[str, Any]) -> None:
        """Raise ModelLoadError if a model's files show that it cannot do the task this way."""


def kinds_of(params: type[TaskParams], option: str) -> tuple[Any, ...]:
    """The types that an option may have: its own, those of a union, the values of a Literal."""
    kind = params.model_fields[option].annotation
    return (kind, *get_args(kind))


class TextParams(TaskParams):
    """Options of the tasks that read a text at once, as far as the model's limit."""

    on_long: Literal["truncate", "error"] = Field(
        default="truncate", description="a text over the model's limit is cut, or an error row"
    )
    max_length: int | None = Field(
        default=None, ge=8, description="token limit below the model's own"
    )
