"""From records to checked texts, options and token ids: what the runners of texts share.

What becomes of the ids is each runner's own business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from textmill.core.errors import InvalidJobError, RecordError
from textmill.core.jobs import Record
from textmill.core.params import TaskParams
from textmill.core.tasks import get_task, validate_params
from textmill.workers.runners.tokenizing import TextTokenizer

Params = TypeVar("Params", bound=TaskParams)


class LengthParams(Protocol):
    """The options of a task that say what becomes of a long text."""

    @property
    def on_long(self) -> str:
        """``truncate`` or ``error``."""

    @property
    def max_length(self) -> int | None:
        """A token limit below the model's own."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One text as the model reads it."""

    ids: list[int]
    tokens: int  # before truncation
    params: TaskParams


def read_text(record: Record, field: str = "text") -> str:
    """The record's text; raises RecordError if it is none, or one that no tokenizer takes."""
    text = record.inputs.get(field)
    if not isinstance(text, str):
        raise RecordError("invalid_input", f"{field!r} is {text!r}, expected a text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        where = f"at character {error.start}"
        raise RecordError("invalid_input", f"{field!r} has half a surrogate pair {where}") from None
    return text


def merge_params(record: Record, params: TaskParams, kind: type[Params], task: str) -> Params:
    """The job's options with the record's own over them; raises RecordError if those are wrong."""
    if record.params:
        try:
            params = validate_params(get_task(task), params.model_dump() | record.params)
        except InvalidJobError as error:
            raise RecordError("invalid_params", str(error)) from None
    if not isinstance(params, kind):
        raise TypeError(f"got {type(params).__name__}, expected {kind.__name__}")
    return params


def read_texts(
    records: Sequence[Record], params: TaskParams, kind: type[Params], task: str
) -> list[tuple[str, Params] | RecordError]:
    """Each record's text and options, or what is wrong with it."""

    def read(record: Record) -> tuple[str, Params] | RecordError:
        try:
            return read_text(record), merge_params(record, params, kind, task)
        except RecordError as error:
            return error

    return [read(record) for record in records]


def token_limit(tokenizer: TextTokenizer, params: LengthParams) -> int:
    """How many tokens an item may have."""
    limit: int = tokenizer.limit
    return min(limit, params.max_length or limit)


def refuse_long(tokens: int, limit: int) -> RecordError:
    """The error of a text that is over the limit and must not be cut."""
    return RecordError("text_too_long", f"the text has {tokens} tokens, the limit is {limit}")


def fit_ids(ids: list[int], tokenizer: TextTokenizer, params: LengthParams) -> list[int]:
    """The ids, cut to the limit if need be; raises RecordError for none or too many."""
    if not ids:
        raise RecordError("empty_text", "the text has no tokens")
    limit = token_limit(tokenizer, params)
    if len(ids) <= limit:
        return ids
    if params.on_long == "error":
        raise refuse_long(len(ids), limit)
    return tokenizer.truncate(ids, limit)


def truncation_mark(read: int, tokens: int) -> dict[str, object]:
    """What ``detail`` says of a text of which the model read less than all; else nothing."""
    return {"truncated": True, "tokens": tokens} if tokens > read else {}
