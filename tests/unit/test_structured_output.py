"""JSON by a schema, from random models: whatever they would say, every row has to fulfil it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from tokenizers import decoders

from textmill.core.errors import RecordError
from textmill.core.jobs import Record
from textmill.core.params import GenerationParams
from textmill.db.results import to_json
from textmill.workers.engine import Engine
from textmill.workers.items import ModelRequest, Output
from textmill.workers.registry import load_runner

from ..tiny_generators import make_piece_tokenizer, make_tokenizer, save_generator

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
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("structured") / "model"
    return save_generator(folder, eos=end_tokens(), every_byte=True, context=512)


@contextmanager
def opened(folder: Path) -> Iterator[Engine]:
    """An engine that knows no answers yet: it computes equal items once."""
    engine = Engine(lambda: load_runner(ModelRequest("generation", str(folder), device="cpu")))
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def engine(model: Path) -> Iterator[Engine]:
    with opened(model) as engine:
        yield engine


def run(engine: Engine, given: list[Record] | None = None, **params: Any) -> Found:
    options = GenerationParams(**{"max_new_tokens": 200, **params})
    return engine.submit(given or records(), options).wait(120)


@pytest.fixture(scope="module")
def answer(engine: Engine) -> Answer:
    return partial(run, engine)


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


@pytest.mark.parametrize("params", [{}, {"temperature": 1.5}])
def test_rows_do_not_depend_on_their_neighbours(model: Path, params: dict[str, Any]) -> None:
    """Alone and together, greedy and drawn."""
    params = {"json_schema": SCHEMAS["nested"], **params}
    given = [Record(n, f"r{n}", {"text": f"{text} {n}"}) for n, text in enumerate(PROMPTS * 2)]
    with opened(model) as one, opened(model) as other:
        assert run(one, given, **params) == [run(other, [record], **params)[0] for record in given]


def test_jobs_of_other_schemas_and_of_none_share_the_batch(model: Path) -> None:
    """The same prompts: what one job writes is no answer of another's."""
    names: list[str | None] = ["nested", "list", None, "tree"]
    options = [
        GenerationParams(max_new_tokens=200, json_schema=SCHEMAS[name] if name else None)  # type: ignore[arg-type]
        for name in names
    ]
    alone = []
    for one in options:
        with opened(model) as engine:
            alone.append(engine.submit(records(), one).wait(120))
    with opened(model) as engine:
        submissions = [engine.submit(records(), one) for one in options]
        assert [one.wait(120) for one in submissions] == alone
    for name, found in zip(names, alone, strict=True):
        if name is None:
            assert all(
                isinstance(one, Output) and "json" not in (one.detail or {}) for one in found
            )
        else:
            valid(found, SCHEMAS[name])


def test_records_have_schemas_of_their_own(model: Path) -> None:
    """Also where the job has one, and a record none."""
    own: list[dict[str, Any]] = [
        {"json_schema": json.dumps(SCHEMAS["list"])},
        {},
        {"json_schema": None, "max_new_tokens": 9},
        {"json_schema": '{"type":"object","maxProperties":0}'},
    ]
    given = [Record(n, str(n), {"text": "the dog"}, params or None) for n, params in enumerate(own)]
    with opened(model) as engine:
        found = run(engine, given, json_schema=json.dumps(SCHEMAS["nested"]))
    assert all(isinstance(one, Output) for one in found), found
    listed, nested, free, empty = (one for one in found if isinstance(one, Output))
    for output, schema in ((listed, SCHEMAS["list"]), (nested, SCHEMAS["nested"])):
        assert output.detail is not None
        jsonschema.validate(output.detail["json"], schema)
        assert json.loads(output.output or "") == output.detail["json"]
    assert free.detail is not None
    assert "json" not in free.detail
    assert empty.output == "{}"


def test_equal_prompts_get_equal_json_each_its_own(answer: Answer) -> None:
    """On their way together, and from what the engine keeps."""
    schema = SCHEMAS["nested"]
    found = answer(records(2), json_schema=schema) + answer(json_schema=schema)
    valid(found, schema)
    size = len(PROMPTS)
    assert found[:size] == found[size : 2 * size] == found[2 * size :]
    details = [one.detail for one in found if isinstance(one, Output) and one.detail]
    assert len({id(detail["json"]) for detail in details}) == 3 * size

    cut = answer(records(2), json_schema=schema, max_new_tokens=4)
    assert [one.code for one in cut if isinstance(one, RecordError)] == ["json_incomplete"] * 12


@pytest.mark.parametrize(
    "options",
    [
        {"every_byte": True, "spare_rows": 90},
        {"every_byte": True, "spare_rows": 90, "eos": [2, 430]},  # 430 is none of the tokenizer's
        {"every_byte": True, "eos": 5},  # the tokenizer's own end token, 2, is none of the model's
        {"tokenizer": make_piece_tokenizer()},
        {"tokenizer": make_piece_tokenizer(), "spare_rows": 4},
    ],
    ids=["spare rows", "unknown end token", "other end token", "pieces", "pieces, spare rows"],
)
def test_models_and_tokenizers_of_other_kinds(tmp_path: Path, options: dict[str, Any]) -> None:
    folder = save_generator(tmp_path / "model", chat=False, context=512, **options)
    with opened(folder) as engine:
        for schema in (SCHEMAS["nested"], SCHEMAS["text"], {"type": "integer"}):
            found = run(engine, records(3), json_schema=schema, temperature=1.5)
            assert len(set(valid(found, schema))) > 3


def test_a_tokenizer_that_cannot_be_read_makes_error_rows(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.decoder = decoders.Metaspace()
    folder = save_generator(tmp_path / "model", chat=False, tokenizer=tokenizer)
    with opened(folder) as engine:
        for one in run(engine, json_schema={"type": "null"}, max_new_tokens=9):
            assert isinstance(one, RecordError)
            assert one.code == "json_schema"
            assert "llguidance cannot read the model's tokenizer: can't determine" in one.message
        assert all(isinstance(one, Output) for one in run(engine, max_new_tokens=3))


def test_integers_are_of_a_size_that_can_be_stored(tmp_path: Path) -> None:
    """Digits are what this model draws, and the schema sets no end to them."""
    folder = save_generator(tmp_path / "model", chat=False, every_byte=True)
    with opened(folder) as engine:
        for schema in ({"type": "integer"}, {"type": ["integer", "null"], "minimum": 0}):
            found = run(engine, records(6), json_schema=schema, temperature=1.5, max_new_tokens=40)
            values = [json.loads(text) for text in valid(found, schema)]
            assert max(values, key=lambda value: value or 0) > 10**17
            assert all(value is None or abs(value) < 2**63 for value in values)


def test_json_that_no_database_takes_is_an_error_row(tmp_path: Path) -> None:
    """Never a row that cannot be written, with which its whole chunk would fail."""
    folder = save_generator(tmp_path / "model", chat=False, every_byte=True, context=512)
    with opened(folder) as engine:
        for schema in ({"type": "number"}, {"const": 10**30}):
            found = run(engine, records(6), json_schema=schema, temperature=1.5)
            messages = [one.message for one in found if isinstance(one, RecordError)]
            assert any("the JSON cannot be stored: the integer " in one for one in messages)
            assert to_json([one.detail for one in found if isinstance(one, Output)])


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
    with opened(folder) as engine:
        for schema, works in (({"const": "東京"}, False), ({"const": "yes"}, True)):
            for one in run(engine, json_schema=schema, max_new_tokens=60):
                assert isinstance(one, Output) == works, one
                if isinstance(one, RecordError):
                    assert one.code == "json_invalid"
                    assert "vocabulary may lack a character" in one.message
