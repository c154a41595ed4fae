"""What becomes of each field of a body: honoured, without effect on an answer, or refused.

Nothing is dropped without a word: a field that is not here, or a value that cannot be honoured,
makes its line an error row. A field that is null counts as not given.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from textmill.core.errors import InvalidJobError, RecordError
from textmill.core.json_schemas import read_schema
from textmill.core.storable import without_nul

Options = dict[str, Any]
Read = Callable[[str, Any], Options]

LARGEST_INT = 2**63
ANY_OBJECT = '{"type":"object"}'  # JSON mode
MOST_CHOICES = 128


class FieldError(RecordError):
    """A line cannot be honoured because of one field of its body.

    ``unquoting`` says so with nothing in it that the line chose; without it the field's name is
    the line's own too.
    """

    def __init__(self, code: str, message: str, field: str, unquoting: str | None = None) -> None:
        super().__init__(code, message)
        self.field = field
        self.unquoting = unquoting


def unsupported(field: str, problem: str, unquoting: str | None = None) -> FieldError:
    """The error of a field that is right and cannot be honoured; ``unquoting`` is as ``problem``.

    Without it neither the problem nor the field's name is kept where texts are not.
    """
    kept = None if unquoting is None else f"{field} {unquoting}"
    return FieldError("unsupported_parameter", f"{field} {problem}", field, kept)


def invalid(field: str, value: Any, expected: str) -> FieldError:
    """The error of a field of the API whose value is wrong."""
    return FieldError(
        "invalid_params",
        f"{field} is {shown(value)}; expected {expected}",
        field,
        f"{field} has a wrong value; expected {expected}",
    )


def shown(value: Any) -> str:
    """A value for a message, as the file has it."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _number(option: str, low: float, high: float) -> Read:
    def read(field: str, value: Any) -> Options:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise invalid(field, value, f"a number from {low:g} to {high:g}")
        if not low <= value <= high or not math.isfinite(value):
            raise invalid(field, value, f"a number from {low:g} to {high:g}")
        return {option: value}

    return read


def _whole(option: str, low: int, high: int = LARGEST_INT - 1) -> Read:
    top = f"{low} to {high}" if high < LARGEST_INT - 1 else f"{low} on"

    def read(field: str, value: Any) -> Options:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise invalid(field, value, f"a whole number from {top}")
        return {option: value}

    return read


def _read_seed(field: str, value: Any) -> Options:
    """Negative ones are other seeds than positive ones, and as good."""
    seed = _whole("seed", -LARGEST_INT)(field, value)["seed"]
    return {"seed": seed % LARGEST_INT}


def _read_top_k(field: str, value: Any) -> Options:
    """-1 and 0 mean all tokens."""
    top_k = _whole("top_k", -1)(field, value)["top_k"]
    return {"top_k": top_k if top_k > 0 else None}


def _read_repetition_penalty(field: str, value: Any) -> Options:
    if value == 0 and not isinstance(value, bool):
        raise invalid(field, value, "a number over 0")
    return _number("repetition_penalty", 0, 100)(field, value)


def _read_stop(field: str, value: Any) -> Options:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
        raise invalid(field, value, "a text or a list of texts, none of them empty")
    return {"stop": list(dict.fromkeys(map(without_nul, texts)))}


def _read_response_format(field: str, value: Any) -> Options:
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "text":
        return {"json_schema": None}
    if kind == "json_object":
        return {"json_schema": ANY_OBJECT}
    if kind != "json_schema":
        kinds = '"text", "json_object" or "json_schema"'
        raise invalid(field, value, f"an object with the type {kinds}")
    named = value.get("json_schema")
    if not isinstance(named, dict) or not isinstance(named.get("schema"), dict):
        raise invalid(field, value, 'a schema, an object, in "json_schema" under "schema"')
    try:
        return {"json_schema": read_schema(named["schema"])}
    except InvalidJobError as error:
        place, problem = f"{field}.json_schema.schema", "cannot be enforced"
        raise unsupported(place, f"{problem}: {error}", problem) from None


def _read_encoding(field: str, value: Any) -> Options:
    if value not in ("float", "base64"):
        raise invalid(field, value, '"float" or "base64"')
    return {"base64": value == "base64"}


def _ignore(field: str, value: Any) -> Options:
    """It changes no answer: accounting, caching, storage on the service's side."""
    return {}


def _only(*harmless: Any) -> Read:
    """Honoured where it asks for nothing."""

    def read(field: str, value: Any) -> Options:
        if any(value == one and type(value) is type(one) for one in harmless):
            return {}
        without = " or ".join(map(shown, harmless))
        advice = f"{without}, or no such field" if harmless else "no such field"
        raise unsupported(
            field,
            f"is {shown(value)}, which is not supported; expected {advice}",
            f"has a value that is not supported; expected {advice}",
        )

    return read


_ANY: dict[str, Read] = {"user": _ignore, "metadata": _ignore, "service_tier": _ignore}
_TEXTS: dict[str, Read] = _ANY | {
    "temperature": _number("temperature", 0, 100),
    "top_p": _number("top_p", 0, 1),
    "max_tokens": _whole("max_new_tokens", 1),
    "stop": _read_stop,
    "seed": _read_seed,
    "frequency_penalty": _number("frequency_penalty", -2, 2),
    "presence_penalty": _number("presence_penalty", -2, 2),
    "n": _whole("n", 1, MOST_CHOICES),
    "top_k": _read_top_k,  # this and the next one are vLLM's
    "repetition_penalty": _read_repetition_penalty,
    "logit_bias": _only({}),
    "stream": _only(False),
    "stream_options": _ignore,
}
FIELDS: Mapping[str, Mapping[str, Read]] = {
    "/v1/chat/completions": _TEXTS
    | {
        "max_completion_tokens": _whole("max_completion_tokens", 1),
        "response_format": _read_response_format,
        "logprobs": _only(False),
        "top_logprobs": _only(0),
        "tools": _only([]),
        "tool_choice": _only("none", "auto"),
        "parallel_tool_calls": _ignore,
        "functions": _only([]),
        "function_call": _only("none", "auto"),
        "modalities": _only(["text"]),
        "audio": _only(),
        "moderation": _only(),
        "reasoning_effort": _only(),
        "verbosity": _only("medium"),
        "web_search_options": _only(),
        "prediction": _ignore,
        "store": _ignore,
        "safety_identifier": _ignore,
        "prompt_cache_key": _ignore,
        "prompt_cache_options": _ignore,
        "prompt_cache_retention": _ignore,
    },
    "/v1/completions": _TEXTS
    | {
        "best_of": _whole("best_of", 1, MOST_CHOICES),
        "echo": _only(False),
        "logprobs": _only(),
        "suffix": _only(""),
    },
    "/v1/embeddings": _ANY
    | {
        "dimensions": _whole("dimensions", 1),
        "encoding_format": _read_encoding,
    },
}
"""By endpoint, every field of its body but the model and the texts."""
