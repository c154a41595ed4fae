"""Whether some JSON of finite size fulfils a schema: one that requires itself has none."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any
from urllib.parse import unquote

from textmill.core.schema_keywords import walk_schemas

CONTAINERS = {"object", "array"}


def has_end(schema: Any) -> bool:
    """False if every value would have to hold itself; the schema's form was checked already.

    What the keywords say besides (bounds, patterns) is looked at by the grammar.
    """
    waiting = {node["$ref"] for _, node in walk_schemas(schema) if "$ref" in node}
    ending: set[str] = set()  # references whose values may end, those that need no others first
    while found := {one for one in waiting if _ends(_resolve(schema, one), ending)}:
        ending |= found
        waiting -= found
    return _ends(schema, ending)


def _ends(node: Any, ending: Set[str]) -> bool:
    """Whether a value of this schema may end, if those of these references may."""
    if not isinstance(node, dict):
        return node is not False
    if "$ref" in node and node["$ref"] not in ending:
        return False
    if "const" in node or "enum" in node:
        return True
    for key in ("anyOf", "oneOf"):
        if key in node and not any(_ends(one, ending) for one in node[key]):
            return False
    if not all(_ends(one, ending) for one in node.get("allOf", ())):
        return False
    kinds = node.get("type")
    kinds = {kinds} if isinstance(kinds, str) else set(kinds or ())
    if not kinds or kinds - CONTAINERS:
        return True
    return ("object" in kinds and _object_ends(node, ending)) or (
        "array" in kinds and _array_ends(node, ending)
    )


def _object_ends(node: Mapping[str, Any], ending: Set[str]) -> bool:
    properties = node.get("properties", {})
    return all(_ends(properties.get(name, True), ending) for name in node.get("required", ()))


def _array_ends(node: Mapping[str, Any], ending: Set[str]) -> bool:
    least = int(node.get("minItems", 0))
    first = node.get("prefixItems", [])[:least]
    rest = [node.get("items", True)] if least > len(first) else []
    return all(_ends(one, ending) for one in (*first, *rest))


def _resolve(root: Any, reference: str) -> Any:
    """The schema that a JSON Pointer leads to; True where it is of another kind."""
    if not reference.startswith("#") or (len(reference) > 1 and reference[1] != "/"):
        return True
    found = root
    for part in unquote(reference[1:]).split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        try:
            found = found[int(name)] if isinstance(found, list) else found[name]
        except (KeyError, IndexError, ValueError, TypeError):
            return True
    return found
