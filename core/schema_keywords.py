"""Which keywords of JSON Schema are enforced while a model writes.

JSON Schema lets a reader skip keywords it does not know; here that would let a misspelt or
unsupported one count for nothing without a word, so each is an error that names it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import Any

from textmill.core.errors import InvalidJobError

MAPS = {"properties", "patternProperties", "$defs", "definitions"}  # of names to schemas
LISTS = {"anyOf", "allOf", "oneOf", "prefixItems"}
SINGLE = {"items", "additionalItems", "additionalProperties"}
PLAIN = {
    *("$ref", "$id", "$schema", "$anchor", "type", "const", "enum"),
    *("minItems", "maxItems", "required", "minProperties", "maxProperties"),
    *("minLength", "maxLength", "pattern", "format"),
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}
ANNOTATIONS = {
    *("title", "description", "default", "examples", "example", "$comment", "deprecated"),
    *("readOnly", "writeOnly", "contentEncoding", "contentMediaType", "contentSchema"),
    "discriminator",  # OpenAPI's hint beside a oneOf, as pydantic writes it
}
ENFORCED = MAPS | LISTS | SINGLE | PLAIN
NOT_ENFORCED = {
    *("not", "if", "then", "else", "uniqueItems", "contains", "minContains", "maxContains"),
    *("propertyNames", "dependencies", "dependentRequired", "dependentSchemas"),
    *("unevaluatedItems", "unevaluatedProperties"),
    *("$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor", "$vocabulary", "id"),
}


def check_keywords(schema: Any) -> None:
    """Raise InvalidJobError for a keyword that is not enforced, or a pattern that is none."""
    for path, node in walk_schemas(schema):
        for key in node:
            _check_keyword(path, key)
        if "pattern" in node:
            _check_pattern(path, node["pattern"])
        for pattern in node.get("patternProperties", ()):
            _check_pattern(path, pattern)


def walk_schemas(schema: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema inside a schema with its path; its form was checked already."""
    waiting = [("$", schema)]
    while waiting:
        path, node = waiting.pop()
        if not isinstance(node, dict):
            continue
        yield path, node
        for key in node.keys() & MAPS:
            waiting += [(f"{path}.{key}.{name}", one) for name, one in node[key].items()]
        for key in node.keys() & (LISTS | SINGLE):
            several = node[key] if isinstance(node[key], list) else [node[key]]
            waiting += [(f"{path}.{key}", one) for one in several]


def _check_keyword(path: str, key: str) -> None:
    # llguidance takes options of its own from x-guidance, which would undo ours.
    if key in ENFORCED | ANNOTATIONS or (key.startswith("x-") and key != "x-guidance"):
        return
    if key in NOT_ENFORCED or key == "x-guidance":
        reason = "is not supported"
    else:
        close = difflib.get_close_matches(key, ENFORCED, n=1)
        reason = "is unknown" + (f" (did you mean {close[0]!r}?)" if close else "")
    raise InvalidJobError(
        f"the keyword {key!r}, at {path}, {reason} and would not count; take it out (other names "
        "of your own may begin with x-)"
    )


def _check_pattern(path: str, pattern: str) -> None:
    """It is read by two libraries: llguidance's says later what it does not understand."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise InvalidJobError(f"the pattern {pattern!r}, at {path}: {error}") from None


def check_storable(value: Any) -> None:
    """Raise InvalidJobError for a NUL or half of a character: no database can store them in JSON.

    Neither in answers nor in the schema itself, which is one of the job's options.
    """
    if isinstance(value, str):
        if "\0" in value or any("\ud800" <= char <= "\udfff" for char in value):
            raise InvalidJobError(f"{value!r} in the schema has a character that cannot be stored")
    elif isinstance(value, list):
        for one in value:
            check_storable(one)
    elif isinstance(value, dict):
        check_storable([*value, *value.values()])
