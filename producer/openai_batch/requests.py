"""What one line's body asks for: its texts, options, and how the answer is to look."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from textmill.core.errors import RecordError
from textmill.core.prompts import write_chat
from textmill.producer.openai_batch.endpoints import Endpoint
from textmill.producer.openai_batch.fields import (
    FIELDS,
    FieldError,
    Options,
    invalid,
    shown,
    unsupported,
)
from textmill.producer.openai_batch.messages import read_messages


@dataclass(slots=True)
class Request:
    """One line, read: each of ``texts`` gets ``choices`` answers."""

    model: str
    texts: list[str]
    options: Options = field(default_factory=dict)  # of the task, that the line gives
    choices: int = 1
    base64: bool = False  # how vectors are written


def read_request(endpoint: Endpoint, body: Mapping[str, Any]) -> Request:
    """Read a body; raises RecordError, mostly a FieldError that names the field."""
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise invalid("model", model, "the model's name")
    options = _read_options(endpoint, body)
    _choose_limit(options, body)
    request = Request(
        model,
        _read_texts(endpoint, body.get(endpoint.field)),
        choices=options.pop("n", 1),
        base64=options.pop("base64", False),
    )
    best_of = options.pop("best_of", None)
    if best_of is not None and best_of != request.choices:
        problem = f"is {best_of}, which is not supported; expected it to be n"
        raise unsupported("best_of", problem, problem)
    request.options = options
    return request


def _read_options(endpoint: Endpoint, body: Mapping[str, Any]) -> Options:
    readers = FIELDS[endpoint.url]
    options: Options = {}
    for name, value in body.items():
        if name in ("model", endpoint.field) or value is None:
            continue
        if name not in readers:
            raise unsupported(name, f"is no field that can be honoured for {endpoint.url}")
        options |= readers[name](name, value)
    return options


def _choose_limit(options: Options, body: Mapping[str, Any]) -> None:
    """``max_tokens`` has a newer name."""
    limit = options.pop("max_completion_tokens", None)
    if limit is None:
        return
    if options.setdefault("max_new_tokens", limit) != limit:
        problem = (
            f"max_tokens is {body['max_tokens']} and max_completion_tokens {limit}; they mean the "
            "same, so expected one of them"
        )
        raise FieldError("invalid_params", problem, "max_tokens", problem)


def _read_texts(endpoint: Endpoint, value: Any) -> list[str]:
    if endpoint.field == "messages":
        return [write_chat(read_messages(value))]
    texts = value if isinstance(value, list) else [value]
    if any(isinstance(text, int | list) and not isinstance(text, bool) for text in texts):
        problem = (
            "holds tokens of another model's vocabulary, which no other model can read; "
            "expected texts"
        )
        raise unsupported(endpoint.field, problem, problem)
    if not texts or not all(isinstance(text, str) for text in texts):
        raise invalid(endpoint.field, value, "a text or a list of texts")
    for place, text in enumerate(texts):
        if not text.strip():
            where = f"{endpoint.field}[{place}]" if isinstance(value, list) else endpoint.field
            raise RecordError("empty_text", f"{where} is {shown(text)}; expected a text")
    return texts
