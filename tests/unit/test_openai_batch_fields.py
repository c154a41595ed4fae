"""What becomes of each field of a body: honoured, ignored where it changes nothing, or refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types import completion_create_params, embedding_create_params
from openai.types.chat import completion_create_params as chat_create_params
from pydantic import TypeAdapter

from textmill.core.errors import RecordError
from textmill.core.prompts import read_chat
from textmill.producer.openai_batch.endpoints import ENDPOINTS
from textmill.producer.openai_batch.fields import FIELDS, FieldError
from textmill.producer.openai_batch.options import JobOptions
from textmill.producer.openai_batch.requests import Request, read_request

CHAT, PLAIN, VECTORS = ENDPOINTS
OFFICIAL = {
    CHAT: chat_create_params.CompletionCreateParamsNonStreaming,
    PLAIN: completion_create_params.CompletionCreateParamsNonStreaming,
    VECTORS: embedding_create_params.EmbeddingCreateParams,
}
ASKED: dict[str, Any] = {
    CHAT: {"messages": [{"role": "user", "content": "Hello"}]},
    PLAIN: {"prompt": "Hello"},
    VECTORS: {"input": "Hello"},
}
SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
AS_SCHEMA = {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": SCHEMA}}


def read(url: str, **fields: Any) -> Request:
    return read_request(ENDPOINTS[url], {"model": "gpt-4o-mini", **ASKED[url], **fields})


def refused(url: str, **fields: Any) -> FieldError:
    with pytest.raises(FieldError) as caught:
        read(url, **fields)
    return caught.value


@pytest.mark.parametrize("url", ENDPOINTS)
def test_every_field_of_the_official_package_has_its_rule(url: str) -> None:
    official = set(OFFICIAL[url].__annotations__) | {
        name
        for base in OFFICIAL[url].__orig_bases__
        for name in getattr(base, "__annotations__", ())
    }
    assert len(official) >= 5
    assert official - {"model", ENDPOINTS[url].field} <= set(FIELDS[url])


@pytest.mark.parametrize("url", [CHAT, PLAIN])
@pytest.mark.parametrize(
    ("field", "value", "option", "expected"),
    [
        ("max_tokens", 40, "max_new_tokens", 40),
        ("temperature", 0.7, "temperature", 0.7),
        ("temperature", 0, "temperature", 0),
        ("top_p", 0.9, "top_p", 0.9),
        ("stop", "\n", "stop", ["\n"]),
        ("stop", ["a", "b", "a"], "stop", ["a", "b"]),
        ("seed", 7, "seed", 7),
        ("seed", -1, "seed", 2**63 - 1),
        ("frequency_penalty", -0.5, "frequency_penalty", -0.5),
        ("presence_penalty", 2, "presence_penalty", 2),
        ("top_k", 5, "top_k", 5),
        ("top_k", -1, "top_k", None),
        ("repetition_penalty", 1.1, "repetition_penalty", 1.1),
    ],
)
def test_what_is_honoured(url: str, field: str, value: Any, option: str, expected: Any) -> None:
    assert read(url, **{field: value}).options == {option: expected}


def test_what_is_honoured_of_single_endpoints() -> None:
    assert read(CHAT, max_completion_tokens=9).options == {"max_new_tokens": 9}
    assert read(CHAT, max_completion_tokens=9, max_tokens=9).options == {"max_new_tokens": 9}
    assert read(CHAT, n=3).choices == 3
    assert json.loads(read(CHAT, response_format=AS_SCHEMA).options["json_schema"]) == SCHEMA
    any_object = read(CHAT, response_format={"type": "json_object"}).options["json_schema"]
    assert json.loads(any_object) == {"type": "object"}
    assert read(CHAT, response_format={"type": "text"}).options == {"json_schema": None}
    assert read(PLAIN, n=2, best_of=2).choices == 2
    assert read(VECTORS, dimensions=64).options == {"dimensions": 64}
    assert read(VECTORS, encoding_format="base64").base64
    assert not read(VECTORS, encoding_format="float").base64


HARMLESS: dict[str, dict[str, Any]] = {
    CHAT: {
        "user": "u1",
        "metadata": {"a": "b"},
        "store": True,
        "service_tier": "flex",
        "safety_identifier": "s",
        "prompt_cache_key": "k",
        "prompt_cache_retention": "24h",
        "prompt_cache_options": {"ttl": "30m"},
        "stream": False,
        "logprobs": False,
        "logit_bias": {},
        "tools": [],
        "tool_choice": "none",
        "parallel_tool_calls": True,
        "functions": [],
        "function_call": "none",
        "modalities": ["text"],
        "verbosity": "medium",
        "prediction": {"type": "content", "content": "x"},
        "top_logprobs": 0,
        "stream_options": None,
    },
    PLAIN: {"user": "u1", "echo": False, "suffix": "", "logit_bias": {}, "stream": False},
    VECTORS: {"user": "u1"},
}


@pytest.mark.parametrize("url", ENDPOINTS)
def test_what_changes_no_answer_is_taken(url: str) -> None:
    assert read(url, **HARMLESS[url]) == read(url)
    nothing = dict.fromkeys(FIELDS[url])
    assert read(url, **nothing) == read(url)


@pytest.mark.parametrize(
    ("url", "field", "value"),
    [
        (CHAT, "logprobs", True),
        (CHAT, "top_logprobs", 5),
        (CHAT, "tools", [{"type": "function", "function": {"name": "f"}}]),
        (CHAT, "tool_choice", "required"),
        (CHAT, "functions", [{"name": "f"}]),
        (CHAT, "function_call", {"name": "f"}),
        (CHAT, "logit_bias", {"50256": -100}),
        (CHAT, "modalities", ["text", "audio"]),
        (CHAT, "audio", {"voice": "alloy", "format": "wav"}),
        (CHAT, "reasoning_effort", "low"),
        (CHAT, "verbosity", "low"),
        (CHAT, "web_search_options", {}),
        (CHAT, "moderation", {"model": "m"}),
        (CHAT, "stream", True),
        (CHAT, "min_p", 0.1),
        (CHAT, "best_of", 1),
        (PLAIN, "logprobs", 0),
        (PLAIN, "echo", True),
        (PLAIN, "suffix", "the end"),
        (PLAIN, "best_of", 3),
        (PLAIN, "messages", []),
        (VECTORS, "temperature", 0),
        (PLAIN, "prompt", [1, 2, 3]),
        (PLAIN, "prompt", [[1], [2]]),
        (VECTORS, "input", [1, 2, 3]),
        (VECTORS, "input", ["a", [2]]),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(url: str, field: str, value: Any) -> None:
    error = refused(url, **{field: value})
    assert (error.code, error.field) == ("unsupported_parameter", field)
    assert field in error.message


@pytest.mark.parametrize(
    ("url", "field", "value", "expected"),
    [
        (CHAT, "temperature", "hot", "a number from 0 to 100"),
        (CHAT, "temperature", True, "a number from 0 to 100"),
        (CHAT, "temperature", -1, "a number from 0 to 100"),
        (CHAT, "top_p", 1.1, "a number from 0 to 1"),
        (CHAT, "frequency_penalty", 2.1, "a number from -2 to 2"),
        (CHAT, "max_tokens", 0, "a whole number from 1 on"),
        (CHAT, "max_tokens", 1.5, "a whole number from 1 on"),
        (CHAT, "n", 0, "a whole number from 1 to 128"),
        (CHAT, "n", 129, "a whole number from 1 to 128"),
        (CHAT, "seed", 2**63, "a whole number"),
        (CHAT, "stop", [""], "none of them empty"),
        (CHAT, "stop", 5, "a text or a list of texts"),
        (CHAT, "repetition_penalty", 0, "a number over 0"),
        (CHAT, "response_format", "json", '"json_schema"'),
        (CHAT, "response_format", {"type": "json_schema"}, "a schema"),
        (CHAT, "model", None, "the model's name"),
        (CHAT, "model", "", "the model's name"),
        (CHAT, "messages", "Hello", "a list of messages"),
        (PLAIN, "prompt", None, "a text or a list of texts"),
        (VECTORS, "input", [], "a text or a list of texts"),
        (VECTORS, "input", {"text": "a"}, "a text or a list of texts"),
        (VECTORS, "encoding_format", "int8", '"base64"'),
        (VECTORS, "dimensions", 0, "a whole number from 1 on"),
    ],
)
def test_wrong_values_are_named(url: str, field: str, value: Any, expected: str) -> None:
    error = refused(url, **{field: value})
    assert (error.code, error.field) == ("invalid_params", field)
    assert expected in error.message


def test_two_limits_that_differ_are_one_too_many() -> None:
    error = refused(CHAT, max_tokens=5, max_completion_tokens=6)
    assert "max_tokens is 5 and max_completion_tokens 6" in error.message


def test_a_schema_that_cannot_be_enforced_says_why() -> None:
    named = {"type": "json_schema", "json_schema": {"schema": {"not": {}}}}
    error = refused(CHAT, response_format=named)
    assert error.code == "unsupported_parameter"
    assert "the keyword 'not', at $, is not supported" in error.message


# -- messages --------------------------------------------------------------------------------


def test_roles_and_parts_become_a_chat() -> None:
    messages = [
        {"role": "developer", "content": "Be short."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "yes", "refusal": None, "annotations": [], "audio": None},
        {"role": "tool", "content": "42", "tool_call_id": "call_1"},
    ]
    TypeAdapter(OFFICIAL[CHAT]).validate_python({"model": "m", "messages": messages})
    request = read(CHAT, messages=messages)
    assert json.loads(request.texts[0]) == [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "a\nb"},
        {"role": "assistant", "content": "yes"},
        {"role": "tool", "content": "42"},
    ]


@pytest.mark.parametrize("role", ["system", "developer", "assistant"])
def test_the_last_message_may_be_anyones_as_it_may_be_there(role: str) -> None:
    (text,) = read(CHAT, messages=[{"role": role, "content": "Label this: spam"}]).texts
    assert read_chat(text, any_end=True)[0]["content"] == "Label this: spam"


IMAGE = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
SOUND = {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}
TEXT = {"type": "text", "text": "a"}
NOT_READ = "unsupported_parameter"


@pytest.mark.parametrize(
    ("message", "code", "part"),
    [
        ({"role": "user", "content": [IMAGE]}, NOT_READ, "messages[0].content[0] is of the type"),
        ({"role": "user", "content": [TEXT, SOUND]}, NOT_READ, "messages[0].content[1]"),
        ({"role": "user", "content": [SOUND]}, NOT_READ, '"input_audio"; only texts can be read'),
        ({"role": "user", "content": "a", "name": "Ada"}, NOT_READ, 'messages[0].name is "Ada"'),
        ({"role": "assistant", "tool_calls": [{"id": "c"}]}, NOT_READ, "messages[0].tool_calls"),
        (
            {"role": "function", "content": "a"},
            "invalid_messages",
            'messages[0].role is "function"; expected one of: developer, system, user, assistant, '
            "tool",
        ),
        ({"role": ["user"], "content": "a"}, "invalid_messages", 'messages[0].role is ["user"]'),
        ({"role": "user"}, "invalid_messages", "message 1 has no content"),
        ({"role": "user", "content": " "}, "invalid_messages", "empty content"),
        ({"content": "a"}, "invalid_messages", "message 1 has no role"),
        ("Hello", "invalid_messages", "message 1 is 'Hello'"),
    ],
)
def test_messages_that_cannot_be_read(message: Any, code: str, part: str) -> None:
    with pytest.raises(RecordError) as caught:
        read(CHAT, messages=[message])
    assert caught.value.code == code
    assert part in caught.value.message


@pytest.mark.parametrize(("url", "field"), [(PLAIN, "prompt"), (VECTORS, "input")])
def test_an_empty_text_is_named_with_its_place(url: str, field: str) -> None:
    for value, place in ((" ", field), (["a", ""], f"{field}[1]")):
        with pytest.raises(RecordError) as caught:
            read(url, **{field: value})
        assert caught.value.code == "empty_text"
        assert f"{place} is " in caught.value.message


# -- the job's options and a line's own ------------------------------------------------------


def job(url: str, samples: list[dict[str, Any]], **given: Any) -> JobOptions:
    bodies = [{"model": "gpt-4o-mini", **ASKED[url], **sample} for sample in samples]
    return JobOptions(ENDPOINTS[url], given, bodies)


def test_defaults_are_those_of_the_api() -> None:
    chat = job(CHAT, [{}]).params
    assert (chat["temperature"], chat["max_new_tokens"], chat["fit_answer"]) == (1, 4096, True)
    assert (chat["messages"], chat["top_p"], chat["stop"]) == (True, None, [])
    plain = job(PLAIN, [{}]).params
    assert (plain["temperature"], plain["max_new_tokens"], plain["chat"]) == (1, 16, "off")
    assert job(VECTORS, [{}]).params["on_long"] == "error"


def test_what_the_person_gives_counts_where_a_line_says_nothing() -> None:
    options = job(CHAT, [{}], max_new_tokens="9", temperature="0.5", system="Be short.")
    assert options.own(read(CHAT)) == {}
    assert options.params["max_new_tokens"] == 9
    assert options.own(read(CHAT, temperature=0.1)) == {"temperature": 0.1}


def test_a_line_has_the_options_of_its_own_in_which_it_differs_from_the_first() -> None:
    options = job(CHAT, [{"logprobs": True}, {"max_tokens": 5, "temperature": 0, "seed": 3}])
    assert (options.params["max_new_tokens"], options.params["temperature"]) == (5, 0)
    assert options.own(read(CHAT, max_tokens=5, temperature=0, seed=3)) == {}
    own = options.own(read(CHAT, temperature=0.2, seed=4))
    assert own == {"max_new_tokens": 4096, "temperature": 0.2, "seed": 4}
    assert options.own(read(CHAT)) == {
        "max_new_tokens": 4096,
        "temperature": 1,
        "seed": 0,
        "draws": None,
    }


def test_one_lines_dimensions_are_its_own() -> None:
    options = job(VECTORS, [{"dimensions": 10**6}])
    assert options.params["dimensions"] is None
    assert options.own(read(VECTORS, dimensions=10**6)) == {"dimensions": 10**6}


def test_filters_of_draws_count_for_nothing_where_nothing_is_drawn() -> None:
    options = job(CHAT, [{}])
    assert options.own(read(CHAT, temperature=0, top_p=0.5, top_k=3)) == {"temperature": 0}
    assert options.own(read(CHAT, top_p=0)) == {"temperature": 0}


def test_stop_texts_would_cut_json() -> None:
    options = job(CHAT, [{}])
    with pytest.raises(FieldError, match="would cut the JSON") as caught:
        options.own(read(CHAT, stop="}", response_format=AS_SCHEMA))
    assert (caught.value.code, caught.value.field) == ("unsupported_parameter", "stop")
