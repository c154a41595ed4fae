"""JSON Schemas at submission: what is taken, what is refused, and with which words."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from textmill.core.errors import InvalidJobError
from textmill.core.json_schemas import MAX_SCHEMA, read_json, read_schema
from textmill.core.params import GenerationParams
from textmill.core.schema_ends import has_end
from textmill.core.tasks import get_task, validate_params
from textmill.db.results import to_json


def refusal(schema: object, **params: Any) -> str:
    with pytest.raises(InvalidJobError) as caught:
        validate_params(get_task("generation"), {"json_schema": schema, **params})
    return str(caught.value)


def test_a_schema_is_an_object_or_its_json_and_keeps_its_order() -> None:
    schema = {"type": "object", "properties": {"z": {"enum": ["é"]}, "a": {"type": "null"}}}
    as_object = GenerationParams(json_schema=schema)  # type: ignore[arg-type]
    as_text = GenerationParams(json_schema=json.dumps(schema, indent=1))
    assert as_object == as_text
    assert hash(as_object) == hash(as_text)
    assert json.loads(as_text.json_schema or "") == schema
    assert list(json.loads(as_text.json_schema or "")["properties"]) == ["z", "a"]
    assert GenerationParams.model_validate(as_text.model_dump()) == as_text


ENDLESS_REF = {"$ref": "#/$defs/a"}
ENDLESS_PART = {"type": "object", "properties": {"a": ENDLESS_REF}, "required": ["a"]}
ENDLESS = {"$defs": {"a": ENDLESS_PART}} | ENDLESS_REF
# Each of these has a value that holds no other.
ENDING = [
    {"$defs": {"a": {**ENDLESS_PART, "required": []}}} | ENDLESS_REF,
    {"$defs": {"a": {**ENDLESS_PART, "type": ["object", "null"]}}} | ENDLESS_REF,
    {"$defs": {"a": {"type": "array", "items": ENDLESS_REF}}} | ENDLESS_REF,
    {"$defs": {"a": {"anyOf": [ENDLESS_PART, {"type": "integer"}]}}} | ENDLESS_REF,
    {"$defs": {"a": {"type": "array", "minItems": 1, "prefixItems": [{"type": "null"}]}}}
    | ENDLESS_REF,
]


def test_many_ways_to_one_part_are_looked_at_once() -> None:
    """Each part has two ways to the next: a million millions from the first to the last."""
    parts: dict[str, Any] = {
        f"p{at}": {
            "type": "object",
            "properties": {name: {"$ref": f"#/$defs/p{at + 1}"} for name in "ab"},
            "required": ["a", "b"],
        }
        for at in range(40)
    }
    start = {"$ref": "#/$defs/p0"}
    assert has_end({"$defs": parts | {"p40": {"type": "string"}}} | start)
    assert not has_end({"$defs": parts | {"p40": start}} | start)


@pytest.mark.parametrize("schema", ENDING)
def test_a_schema_that_may_hold_itself_is_taken(schema: dict[str, Any]) -> None:
    assert json.loads(read_schema(schema)) == schema


@pytest.mark.parametrize(
    ("schema", "part"),
    [
        ("{", "not JSON: Expecting property name enclosed in double quotes, line 1, column 2"),
        ('{"maximum": NaN}', "NaN is no JSON number"),
        ('{"type": "null", "type": "null"}', "the key 'type' stands twice"),
        ([1], "expected a JSON Schema, an object"),
        (True, "expected a JSON Schema, an object"),
        (False, "the schema is false, which nothing fulfils"),
        ({"a": {1, 2}}, "cannot be written as JSON"),
        ({"title": "x" * MAX_SCHEMA}, f"at most {MAX_SCHEMA} are allowed"),
        (f'{{"title": "{"x" * MAX_SCHEMA}"}}', f"at most {MAX_SCHEMA} are allowed"),
        ({"type": "strng"}, "no valid JSON Schema: 'strng' is not valid under any"),
        ({"properties": {"a": {"minLength": -1}}}, "at $.properties.a.minLength"),
        ({"$schema": "https://example.org/mine"}, "'https://example.org/mine', is unknown"),
    ],
)
def test_what_is_no_schema_is_refused(schema: object, part: str) -> None:
    assert part in refusal(schema)


@pytest.mark.parametrize(
    ("schema", "part"),
    [
        ({"type": "string", "minLength": 5, "maxLength": 2}, "minLength (5) is greater than"),
        ({"type": "integer", "minimum": 5, "maximum": 2}, "minimum (5) is greater than"),
        ({"type": "array", "minItems": 3, "maxItems": 1}, "minItems (3) is greater than"),
        ({"type": "string", "pattern": "^a{5}$", "maxLength": 3}, "Regex is empty"),
        ({"enum": []}, "anyOf is empty"),
        ({"allOf": [{"type": "string"}, {"type": "integer"}]}, "incompatible types"),
        (
            {"type": "object", "required": ["a"], "additionalProperties": False},
            "required property 'a' is unsatisfiable",
        ),
    ],
)
def test_a_schema_that_nothing_fulfils_is_refused(schema: dict[str, Any], part: str) -> None:
    message = refusal(schema)
    assert "nothing can fulfil the schema" in message
    assert part in message


@pytest.mark.parametrize(
    ("schema", "part"),
    [
        ({"not": {"type": "null"}}, "the keyword 'not', at $, is not supported"),
        (
            {"properties": {"a": {"items": {"uniqueItems": True}}}},
            "the keyword 'uniqueItems', at $.properties.a.items, is not supported",
        ),
        ({"$defs": {"x": {"if": {}}}}, "the keyword 'if', at $.$defs.x, is not supported"),
        ({"anyOf": [{"minlength": 2}]}, "'minlength', at $.anyOf, is unknown (did you mean 'minL"),
        ({"x-guidance": {"lenient": True}}, "'x-guidance', at $, is not supported"),
        ({"type": "string", "format": "colour"}, "cannot be enforced: Unknown format: colour"),
        ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, "oneOf constraints are not supp"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"type": "string", "pattern": "("}, "the pattern '(', at $: missing )"),
        ({"$ref": "#/$defs/no"}, "Pointer '/$defs/no' does not exist"),
        ({"$ref": "https://example.org/x"}, "does not fetch resources"),
        ({"$ref": "#"}, "a $ref of the schema leads to itself"),
        (ENDLESS, "what fulfils the schema would have to hold itself"),
        (
            {"$defs": {"a": {"type": "array", "minItems": 1, "items": ENDLESS_PART}}} | ENDLESS_REF,
            "what fulfils the schema would have to hold itself",
        ),
        ({"const": {"a": ["\0"]}}, "'\\x00' in the schema has a character that cannot be stored"),
        ({"properties": {"\ud800": {}}}, "has a character that cannot be stored"),
        ({"description": "a\0b"}, "has a character that cannot be stored"),
        ('{"items":' * 300 + "{}" + "}" * 300, "the schema is nested too deeply"),
    ],
)
def test_what_cannot_be_enforced_is_named(schema: object, part: str) -> None:
    assert part in refusal(schema)


def test_names_of_properties_are_no_keywords() -> None:
    for schema in (
        {"properties": {"not": {"title": "a note", "x-order": 1}}, "required": ["not"]},
        {"enum": [{"if": 1}], "description": "a note", "default": {"foo": 2}},
    ):
        assert GenerationParams(json_schema=schema).json_schema  # type: ignore[arg-type]


def test_stop_texts_would_cut_the_json() -> None:
    for params in ({"stop": ["}"]}, {"own_columns": {"stop": "end"}}):
        assert "stop texts would cut the JSON" in refusal({"type": "object"}, **params)


@pytest.mark.parametrize(
    ("text", "schema", "part"),
    [
        (
            '{"a": 1}',
            {"properties": {"a": {"type": "string"}}},
            "1 is not of type 'string', at $.a",
        ),
        ('{"a": ', {}, "Expecting value"),
        ("1e999", {}, "the number 1e999 is too large"),
        ("9" * 5000, {}, "does not fit 64 bits"),
        ("[9223372036854775808]", {}, "the integer 9223372036854775808 does not fit 64 bits"),
        ("[" * 100_000, {}, "nested too deeply"),
        ("[" * 253 + "]" * 253, {}, "nested too deeply"),
        ("1e300", {"multipleOf": 0.1}, "too many digits to be divided by multipleOf"),
    ],
)
def test_an_answer_that_is_not_as_asked_is_found(text: str, schema: Any, part: str) -> None:
    with pytest.raises((ValueError, OverflowError), match=re.escape(part)):
        read_json(text, json.dumps(schema))


def test_every_answer_that_is_taken_can_be_stored() -> None:
    for text in ("9223372036854775807", "-9223372036854775808", "[" * 252 + "]" * 252):
        detail = {"finish_reason": "stop", "json": read_json(text, "{}")}
        assert text in (to_json([detail]) or ""), "a row's detail, among the columns of an export"


def test_fractions_are_compared_as_they_are_written() -> None:
    assert read_json("[0.3, 1]", '{"items": {"multipleOf": 0.1}}') == [0.3, 1]
    with pytest.raises(ValueError, match="not a multiple of"):
        read_json("[0.35]", '{"items": {"multipleOf": 0.1}}')
