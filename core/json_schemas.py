"""JSON Schemas of structured output: read and checked where a job is made, without torch.

``llguidance`` turns a schema into a grammar that forbids tokens while a model writes;
``jsonschema`` checks the schema first, and every output after. Both are imported when a schema is
there: most jobs have none.
"""

from __future__ import annotations

import decimal
import json
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import orjson

from textmill.core.errors import InvalidJobError
from textmill.core.schema_ends import has_end
from textmill.core.schema_keywords import check_keywords, check_storable, walk_schemas

MAX_SCHEMA = 100_000  # characters; it is sent with the job to every chunk
INTEGER_DIGITS = 20  # of 64 bits, with the sign
INTEGER_LIMIT = 9 * 10**18  # 64 bits hold it, and so does a double, with nothing rounded
GRAMMAR_OPTIONS: dict[str, Any] = {
    # One way to write each value, the one of ``json.dumps``: a model cannot run away in spaces.
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    # Without \\u there are no lone surrogates and no NUL, which no database can store.
    "json_allowed_escapes": 'nrbtf\\"',
    "coerce_one_of": False,
    "lenient": False,
}


def read_schema(given: object) -> str:
    """A schema, as an object or as JSON text, as checked JSON text.

    Raises InvalidJobError that says what is wrong with it.
    """
    if isinstance(given, str):
        if not given.strip():
            raise InvalidJobError('it is empty; expected a JSON Schema, such as {"type": "object"}')
        if len(given) > MAX_SCHEMA:
            raise _too_large(len(given))
        given = _parse(given)
    if given is False:
        raise InvalidJobError("the schema is false, which nothing fulfils")
    if not isinstance(given, dict):
        raise InvalidJobError(
            f'expected a JSON Schema, an object such as {{"type": "object"}}, '
            f"not {type(given).__name__}"
        )
    try:
        text = json.dumps(given, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidJobError(f"the schema cannot be written as JSON: {error}") from None
    if len(text) > MAX_SCHEMA:
        raise _too_large(len(text))
    check_schema(text)
    return text


def read_json(text: str, schema: str) -> Any:
    """What a model wrote, parsed.

    Raises ValueError if it does not fulfil the schema, OverflowError if it is more than a database
    takes: what a schema leaves open has no end.
    """
    from jsonschema.exceptions import ValidationError

    try:
        # Decimals: 0.3 is a multiple of 0.1, and as binary fractions it is not.
        exact = json.loads(text, parse_float=decimal.Decimal, parse_int=_storable_integer)
        value = json.loads(text, parse_float=_finite)
        _validator(schema).validate(exact)
        orjson.dumps([[value]])  # as a part of a row's detail, which is a part of what is exported
    except ValidationError as error:
        raise ValueError(f"{error.message}, at {error.json_path}") from None
    except (RecursionError, orjson.JSONEncodeError):
        raise OverflowError("it is nested too deeply") from None
    except decimal.InvalidOperation:
        raise OverflowError("a number has too many digits to be divided by multipleOf") from None
    return value


def make_grammar(schema: str) -> str:
    """The grammar of a checked schema, in llguidance's own words."""
    from llguidance import LLMatcher

    bounded = json.loads(schema)
    for _, node in walk_schemas(bounded):
        _bound_integers(node)
    text = json.dumps(bounded, ensure_ascii=False)
    grammar: str = LLMatcher.grammar_from_json_schema(text, overrides=GRAMMAR_OPTIONS)
    return grammar


@lru_cache(maxsize=32)  # a record with options of its own has the job's schema checked with them
def check_schema(text: str) -> None:
    """Raise InvalidJobError unless some JSON fulfils the schema and a grammar can enforce it."""
    schema = json.loads(text)
    try:
        check_storable(schema)
        _check_form(schema)
    except RecursionError:
        raise InvalidJobError("the schema is nested too deeply") from None
    check_keywords(schema)
    _check_grammar(text)
    _check_recursion(text)
    if not has_end(schema):
        raise InvalidJobError("what fulfils the schema would have to hold itself, without an end")


def _parse(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise InvalidJobError(
            f"not JSON: {error.msg}, line {error.lineno}, column {error.colno}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise InvalidJobError(f"not JSON: {error}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The last of two equal keys would count, and the first be lost without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise InvalidJobError(f"the key {twice!r} stands twice in one object of the schema")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _bound_integers(node: dict[str, Any]) -> None:
    """What the schema leaves open: a model may add digits for ever, and no database takes them."""
    kind = node.get("type", ())
    kinds = [kind] if isinstance(kind, str) else kind
    if "integer" in kinds and "number" not in kinds:
        if not {"minimum", "exclusiveMinimum"} & node.keys():
            node["minimum"] = -INTEGER_LIMIT
        if not {"maximum", "exclusiveMaximum"} & node.keys():
            node["maximum"] = INTEGER_LIMIT


def _storable_integer(digits: str) -> int:
    """The digits are counted first: to convert thousands of them is an error of its own."""
    number = int(digits) if len(digits) <= INTEGER_DIGITS else None
    if number is None or not -(2**63) <= number < 2**63:
        raise OverflowError(f"the integer {digits[:40]} does not fit 64 bits")
    return number


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise OverflowError(f"the number {digits[:40]} is too large")
    return number


def _check_form(schema: Mapping[str, Any]) -> None:
    """By the metaschema of its draft."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match
    from jsonschema.validators import validator_for

    named = "$schema" in schema
    draft = validator_for(schema, default=None) if named else Draft202012Validator
    if draft is None:
        raise InvalidJobError(
            f'its "$schema", {schema["$schema"]!r}, is unknown; expected one such as '
            f"{Draft202012Validator.META_SCHEMA['$id']!r}, or none"
        )
    error = best_match(draft(draft.META_SCHEMA).iter_errors(schema))
    if error is not None:
        raise InvalidJobError(f"no valid JSON Schema: {error.message}, at {error.json_path}")


def _check_grammar(text: str) -> None:
    """What llguidance says of it, which knows many schemas that nothing can fulfil."""
    from llguidance import LLMatcher

    is_error, messages = LLMatcher.validate_grammar_with_warnings(make_grammar(text))
    if is_error:
        message = messages[0].strip().replace("\n", " ")
        if message.startswith("Unsatisfiable schema: "):
            reason = message.removeprefix("Unsatisfiable schema: ")
            raise InvalidJobError(f"nothing can fulfil the schema: {reason}")
        raise InvalidJobError(f"the schema cannot be enforced: {message}")


def _check_recursion(text: str) -> None:
    """A ``$ref`` to itself, with nothing between, says nothing and never ends."""
    samples: list[Any] = [None, "", 0, [], {}]
    try:
        for sample in samples:
            _validator(text).is_valid(sample)
    except RecursionError:
        raise InvalidJobError("a $ref of the schema leads to itself") from None


@lru_cache(maxsize=32)
def _validator(text: str) -> Any:
    from jsonschema import Draft202012Validator
    from jsonschema.validators import validator_for

    schema = json.loads(text, parse_float=decimal.Decimal)
    return validator_for(schema, default=Draft202012Validator)(schema)


def _too_large(size: int) -> InvalidJobError:
    return InvalidJobError(f"the schema has {size} characters; at most {MAX_SCHEMA} are allowed")
