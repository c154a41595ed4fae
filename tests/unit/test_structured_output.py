"""JSON by a schema, from random models: whatever they would say, every row has to fulfil it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from textmill.core.errors import RecordError
from textmill.core.jobs import Record
from textmill.core.params import GenerationParams
from textmill.workers.engine import Engine
from textmill.workers.items import ModelRequest, Output
from textmill.workers.registry import load_runner

from ..tiny_generators import make_tokenizer, save_generator

PROMPTS = ["the dog", "a good text", "how are you", "what is the capital of", "on and on", "0123"]
SCHEMAS: dict[str, dict[str, Any]] = {
    "nested": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 1, "maxLength": 9},
            "home": {
                "type": "object",
                "properties": {"city": {"enum": ["Köln", "東京", "Oslo"]}, "flat": {"const": None}},
                "required": ["city", "flat"],
                "additionalProperties": False,
            },
        },
        "required": ["name", "home"],
        "additionalProperties": False,
    },
    "optional": {
        "type": "object",
        "properties": {
            "a": {"type": "integer", "minimum": -9, "maximum": 99},
            "b": {"type": "boolean"},
            "c": {"type": "number", "minimum": 0, "maximum": 1, "multipleOf": 0.1},
        },
        "additionalProperties": False,
    },
    "list": {
        "type": "array",
        "items": {"anyOf": [{"type": "null"}, {"type": "string", "maxLength": 3}]},
        "minItems": 2,
        "maxItems": 4,
    },
    "tree": {
        "$defs": {
            "node": {
                "type": "object",
                "properties": {
                    "id": {"type": "string", "pattern": "^[A-Z]{2}[0-9]{1,3}$"},
                    "next": {"anyOf": [{"$ref": "#/$defs/leaf"}, {"type": "null"}]},
                },
                "required": ["id", "next"],
                "additionalProperties": False,
            },
            "leaf": {"type": "array", "items": {"enum": [1, "é\n", {"x": 2.5}]}, "maxItems": 2},
        },
        "$ref": "#/$defs/node",
    },
    "pairs": {"type": "array", "prefixItems": [{"type": "string", "format": "date"}, {"const": 1}],
              "items": False, "minItems": 2},
    "text": {"type": "string", "maxLength": 12},
}  # fmt: skip

Found = list[Output | RecordError]
Answer = Callable[..., Found]


def end_tokens() -> list[int]:
    """The real one, and every beginning of a word, which a text in JSON may hold too."""
    tokenizer = make_tokenizer(every_byte=True)
    pieces = [tokenizer.decode([n]) for n in range(len(tokenizer))]
    return [2, *(n for n, piece in enumerate(pieces) if piece[0] == " " and piece[1:].isalpha())]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp("structured") / "model"
    save_generator(folder, eos=end_tokens(), every_byte=True, context=512)
    request = ModelRequest("generation", str(folder), device="cpu")
    engine = Engine(lambda: load_runner(request))
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def answer(engine: Engine) -> Answer:
    def run(given: list[Record] | None = None, **params: Any) -> Found:
        options = GenerationParams(**{"max_new_tokens": 200, **params})
        return engine.submit(given or records(), options).wait(120)

    return run


def records(times: int = 1) -> list[Record]:
    return [Record(n, f"r{n}", {"text": text}) for n, text in enumerate(PROMPTS * times)]


def valid(found: Found, schema: dict[str, Any]) -> list[Any]:
    """What the rows hold, each checked by the plain library."""
    answers = []
    for one in found:
        assert isinstance(one, Output), one
        assert one.output is not None
        assert one.detail is not None
        assert one.detail["finish_reason"] == "stop"
        value = json.loads(one.output)
        assert one.detail["json"] == value
        jsonschema.Draft202012Validator(schema).validate(value)
        assert one.output == json.dumps(value, ensure_ascii=False), "no spaces but these"
        answers.append(one.output)
    return answers


@pytest.mark.parametrize("params", [{}, {"temperature": 1.5}, {"temperature": 3, "top_p": 0.99}])
@pytest.mark.parametrize("name", [name for name in SCHEMAS if name not in ("optional", "text")])
def test_every_row_fulfils_its_schema(answer: Answer, name: str, params: dict[str, Any]) -> None:
    answers = valid(answer(json_schema=SCHEMAS[name], **params), SCHEMAS[name])
    assert len(set(answers)) > 1 or not params


def test_rows_do_not_depend_on_their_neighbours(answer: Answer) -> None:
    """Alone and together, greedy and drawn."""
    for params in ({}, {"temperature": 1.5}):
        together = answer(records(3), json_schema=SCHEMAS["nested"], **params)
        alone = [answer([one], json_schema=SCHEMAS["nested"], **params)[0] for one in records(3)]
        assert together == alone


def test_jobs_of_other_schemas_and_of_none_share_the_batch(engine: Engine, answer: Answer) -> None:
    names: list[str | None] = ["nested", "list", None, "tree"]
    options = [
        GenerationParams(max_new_tokens=200, json_schema=SCHEMAS[name] if name else None)  # type: ignore[arg-type]
        for name in names
    ]
    alone = [engine.submit(records(), one).wait(120) for one in options]
    submissions = [engine.submit(records(), one) for one in options]
    assert [one.wait(120) for one in submissions] == alone
    for name, found in zip(names, alone, strict=True):
        if name is None:
            assert all(
                isinstance(one, Output) and "json" not in (one.detail or {}) for one in found
            )
        else:
            valid(found, SCHEMAS[name])


def test_json_that_is_cut_is_an_error_row(answer: Answer) -> None:
    for schema in (SCHEMAS["nested"], {"type": "string", "minLength": 50}, {"const": "0123" * 9}):
        for one in answer(json_schema=schema, max_new_tokens=4):
            assert isinstance(one, RecordError)
            assert one.code == "json_incomplete"
            assert "not complete after 4 tokens; give a larger max_new_tokens" in one.message


def test_a_row_ends_where_the_json_does(answer: Answer) -> None:
    """Nothing can follow, so no end token is waited for: the last token may be the last allowed."""
    found = answer(json_schema={"const": {"a": [1, 2]}})
    valid(found, {"const": {"a": [1, 2]}})
    written = found[0].output_tokens if isinstance(found[0], Output) else 0
    exact = answer(json_schema={"const": {"a": [1, 2]}}, max_new_tokens=written)
    assert exact == found


def test_end_tokens_wait_for_the_json(answer: Answer) -> None:
    """Where the whole is optional the model may end early or late, but never in between."""
    for name in ("optional", "text"):
        found = answer(records(4), json_schema=SCHEMAS[name], temperature=2.0)
        assert len(set(valid(found, SCHEMAS[name]))) > 3


def test_a_vocabulary_that_cannot_write_it_makes_error_rows(tmp_path: Path) -> None:
    """One that lacks a letter; and the next job goes on as if nothing had been."""
    folder = save_generator(tmp_path / "model", chat=False)
    engine = Engine(lambda: load_runner(ModelRequest("generation", str(folder), device="cpu")))
    try:
        for schema, works in (({"const": "東京"}, False), ({"const": "yes"}, True)):
            options = GenerationParams(max_new_tokens=60, json_schema=schema)  # type: ignore[arg-type]
            for one in engine.submit(records(), options).wait(60):
                assert isinstance(one, Output) == works, one
                if isinstance(one, RecordError):
                    assert one.code == "json_invalid"
                    assert "vocabulary may lack a character" in one.message
    finally:
        engine.close()
