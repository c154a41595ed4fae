"""What every runner does with a record before it tokenizes: its options, its texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from textmill.core.errors import InvalidJobError, RecordError
from textmill.core.jobs import Record
from textmill.core.params import TaskParams
from textmill.core.tasks import get_task, validate_params

Params = TypeVar("Params", bound=TaskParams)
Given = TypeVar("Given")
Found = TypeVar("Found")


def read_each(
    given: Iterable[Given | RecordError], read: Callable[[Given], Found]
) -> list[Found | RecordError]:
    """What ``read`` makes of each one, or the RecordError that it raised; an error stays one."""
    found: list[Found | RecordError] = []
    for one in given:
        try:
            found.append(one if isinstance(one, RecordError) else read(one))
        except RecordError as error:
            found.append(error)
    return found


def sound(found: Iterable[Found | RecordError]) -> list[Found]:
    """Those that are no errors."""
    return [one for one in found if not isinstance(one, RecordError)]


def read_texts(
    records: Sequence[Record], params: TaskParams, kind: type[Params], task: str
) -> list[tuple[str, Params] | RecordError]:
    """Each record's text and options, or what is wrong with it."""
    return read_each(
        records,
        lambda record: (
            check_text("text", record.inputs.get("text")),
            own_params(record, params, kind, task),
        ),
    )


def own_params(record: Record, params: TaskParams, kind: type[Params], task: str) -> Params:
    """The job's options with the record's own over them; raises RecordError if those are wrong."""
    if record.params:
        try:
            params = validate_params(get_task(task), params.model_dump() | record.params)
        except InvalidJobError as error:
            raise RecordError("invalid_params", str(error)) from None
    if not isinstance(params, kind):
        raise TypeError(f"got {type(params).__name__}, expected {kind.__name__}")
    return params


def check_text(field: str, text: Any) -> str:
    """The text; raises RecordError if it is none, or one that no tokenizer takes."""
    if not isinstance(text, str):
        raise RecordError("invalid_input", f"{field!r} is {text!r}, expected a text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        where = f"at character {error.start}"
        raise RecordError("invalid_input", f"{field!r} has half a surrogate pair {where}") from None
    return text
