"""The tasks a job can ask for: their options, and where their runner lives.

A runner is named by a string, so that a machine without torch can validate every option.
"""

from __future__ import annotations

import difflib
import importlib
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from textmill.core import generators
from textmill.core.errors import ConfigurationError, InvalidJobError, RecordError
from textmill.core.params import (
    OPENAI_COLUMN,
    ClassificationParams,
    EmbeddingsParams,
    GenerationParams,
    QuestionAnsweringParams,
    SummarizationParams,
    TaskParams,
    TranslationParams,
    ZeroShotParams,
)


@dataclass(frozen=True, slots=True)
class Task:
    """One kind of work: its name, options and runner."""

    name: str
    description: str
    params: type[TaskParams]
    runner: str  # "module:Class", imported by workers only
    chunk_records: int = 256  # a chunk ends at this many records
    # the same for a model that writes text, which takes longer; None: no difference
    prompted_chunk_records: int | None = None
    # what the model's class must end with, one of several; None: nothing is checked
    architecture: str | tuple[str, ...] | None = None


ENCODER_DECODERS = ("ForConditionalGeneration", "T5WithLMHeadModel")

TASKS: dict[str, Task] = {
    "classification": Task(
        name="classification",
        description="one label (or several) and its score for each text",
        params=ClassificationParams,
        runner="textmill.workers.runners.classification:ClassificationRunner",
        architecture="ForSequenceClassification",
    ),
    "question-answering": Task(
        name="question-answering",
        description="the part of a context that answers a question, its place and score",
        params=QuestionAnsweringParams,
        runner="textmill.workers.runners.question_answering:QuestionAnsweringRunner",
        chunk_records=64,
        architecture="ForQuestionAnswering",
    ),
    "translation": Task(
        name="translation",
        description="each text in another language, by a translation or a chat model",
        params=TranslationParams,
        runner="textmill.workers.runners.by_model:Translation",
        prompted_chunk_records=32,
        architecture=(*ENCODER_DECODERS, "MTModel", *generators.ARCHITECTURES),
    ),
    "summarization": Task(
        name="summarization",
        description="a short text for each long one, by a summarization or a chat model",
        params=SummarizationParams,
        runner="textmill.workers.runners.by_model:Summarization",
        chunk_records=64,
        prompted_chunk_records=32,
        architecture=(*ENCODER_DECODERS, *generators.ARCHITECTURES),
    ),
    "embeddings": Task(
        name="embeddings",
        description="one vector for each text, to search and compare with",
        params=EmbeddingsParams,
        runner="textmill.workers.runners.embeddings:EmbeddingsRunner",
        architecture="",
    ),
    "generation": Task(
        name="generation",
        description="a text that goes on from a prompt, or answers a chat",
        params=GenerationParams,
        runner="textmill.workers.runners.generation:GenerationRunner",
        chunk_records=32,
        architecture=generators.ARCHITECTURES,
    ),
    "zero-shot-classification": Task(
        name="zero-shot-classification",
        description="scores for labels of your own, by a model of inference or of chats",
        params=ZeroShotParams,
        runner="textmill.workers.runners.by_model:ZeroShot",
        chunk_records=64,
        architecture=("ForSequenceClassification", *generators.ARCHITECTURES),
    ),
}


def tasks_of(architecture: str) -> list[str]:
    """The tasks that a model of this class can do, as far as its name says."""
    endings = {task.name: task.architecture for task in TASKS.values()}
    named = [name for name, ending in endings.items() if ending and architecture.endswith(ending)]
    return named or [name for name, ending in endings.items() if ending == ""]


def register(task: Task) -> None:
    """Add a task; called by a module named in ``TEXTMILL_PLUGINS``."""
    TASKS[task.name] = task


def load_plugins(modules: Iterable[str]) -> None:
    """Import the modules that register further tasks."""
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ConfigurationError(
                f"TEXTMILL_PLUGINS names {module!r}, which cannot be imported: {error}"
            ) from error
        except Exception as error:  # whatever a person's own file may raise
            raise ConfigurationError(
                f"TEXTMILL_PLUGINS names {module!r}, which fails when it is imported: "
                f"{type(error).__name__}: {error}{_place(error)}"
            ) from error


def _place(error: Exception) -> str:
    """`` (FILE, line 3)`` of the line that raised it; a syntax error says its own."""
    if isinstance(error, SyntaxError) or error.__traceback__ is None:
        return ""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f" ({last.filename}, line {last.lineno})"


def get_task(name: str) -> Task:
    """The task of this name; raises InvalidJobError that names the nearest right one."""
    task = TASKS.get(name)
    if task is None:
        known = ", ".join(sorted(TASKS))
        raise InvalidJobError(
            f"unknown task {name!r}; expected one of: {known}{nearest(name, TASKS)}"
        )
    return task


def validate_params(task: Task, params: dict[str, Any]) -> TaskParams:
    """The task's parameters, checked; raises InvalidJobError that names each wrong option."""
    try:
        return task.params.model_validate(params)
    except ValidationError as error:
        lines = [_explain(task, detail) for detail in error.errors(include_url=False)]
        raise InvalidJobError("; ".join(lines)) from None


def options_of(params: type[TaskParams]) -> dict[str, FieldInfo]:
    """The options that a person can give by name, in order."""
    return {
        name: field
        for name, field in params.model_fields.items()
        if not (isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("hidden"))
    }


def options_from_inputs(task: str, params: Mapping[str, Any]) -> frozenset[str]:
    """Names of a job's options that stand for an input: of every record, or of a batch's line."""
    if task not in TASKS:
        return frozenset()
    own = TASKS[task].params
    return own.INPUTS | own.FROM_LINES if params.get("openai_batch") else own.INPUTS


def take_own_columns(task: Task, columns: dict[str, str]) -> dict[str, Any]:
    """Take from ``columns``, by what each is for, those of options; as the parameter they are."""
    own = {name: columns.pop(name) for name in list(columns) if name in task.params.OWN}
    return {"own_columns": own} if own else {}


def read_own_params(
    task: Task, params: TaskParams, row: Mapping[str, Any]
) -> dict[str, Any] | None:
    """A row's own values of options, checked together with the job's; None if it has none.

    A cell that is empty or null leaves the job's value. Raises RecordError that names the column.
    A row of an OpenAI batch has them in one column, as they were checked when it was read.
    """
    if params.openai_batch is not None:
        return (row.get(OPENAI_COLUMN) or {}).get("params")
    columns = params.own_columns
    own = {option: row.get(column) for option, column in columns.items()}
    own = {option: value for option, value in own.items() if value is not None and value != ""}
    if not own:
        return None
    try:
        checked = validate_params(task, params.model_dump() | own)
    except InvalidJobError as error:
        named = ", ".join(repr(columns[option]) for option in own)
        raise RecordError("invalid_params", f"column {named}: {error}") from None
    return checked.model_dump(mode="json", include=set(own))


def _explain(task: Task, detail: Any) -> str:
    name = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        known = list(options_of(task.params))
        return (
            f"task {task.name!r} has no option {name!r}{whose(name) or nearest(name, known)}; "
            f"it has: {', '.join(known) or 'none'}"
        )
    if detail["type"] == "value_error":  # raised by the model itself
        message = str(detail["ctx"]["error"])
    else:
        message = detail["msg"][0].lower() + detail["msg"][1:]
    if not name:
        return f"options of task {task.name!r}: {message}"
    if detail["type"] == "own_columns":
        return message
    if detail["type"] == "needed":
        return f"task {task.name!r} needs {name!r}: {message}"
    return f"option {name!r} of task {task.name!r} is {_shown(detail['input'])}: {message}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def nearest(name: str, known: Iterable[str], *, likeness: float = 0.6) -> str:
    """`` (did you mean 'x'?)`` for the closest known name, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=likeness)
    return f" (did you mean {close[0]!r}?)" if close else ""


def whose(option: str) -> str:
    """`` (an option of x)`` for one of other tasks, or nothing."""
    names = [task.name for task in TASKS.values() if option in options_of(task.params)]
    return f" (an option of {', '.join(names)})" if names else ""
