"""Whether some JSON of finite size fulfils a schema: one that requires itself has none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

CONTAINERS = {"object", "array"}


def has_end(schema: Any) -> bool:
    """False if every value would have to hold itself; the schema's form was checked already.

    What the keywords say besides (bounds, patterns) is looked at by the grammar.
    """
    return _ends(schema, schema, frozenset())


def _ends(root: Any, node: Any, open_refs: frozenset[str]) -> bool:
    """A value that ends needs no reference inside itself, so one that is open leads nowhere."""
    if not isinstance(node, dict):
        return node is not False
    if (reference := node.get("$ref")) is not None:
        target = _resolve(root, reference)
        if reference in open_refs or not _ends(root, target, open_refs | {reference}):
            return False
    if "const" in node or "enum" in node:
        return True
    for key in ("anyOf", "oneOf"):
        if key in node and not any(_ends(root, one, open_refs) for one in node[key]):
            return False
    if not all(_ends(root, one, open_refs) for one in node.get("allOf", ())):
        return False
    kinds = node.get("type")
    kinds = {kinds} if isinstance(kinds, str) else set(kinds or ())
    if not kinds or kinds - CONTAINERS:
        return True
    return ("object" in kinds and _object_ends(root, node, open_refs)) or (
        "array" in kinds and _array_ends(root, node, open_refs)
    )


def _object_ends(root: Any, node: Mapping[str, Any], open_refs: frozenset[str]) -> bool:
    properties = node.get("properties", {})
    required = (properties.get(name, True) for name in node.get("required", ()))
    return all(_ends(root, one, open_refs) for one in required)


def _array_ends(root: Any, node: Mapping[str, Any], open_refs: frozenset[str]) -> bool:
    least = int(node.get("minItems", 0))
    first = node.get("prefixItems", [])[:least]
    rest = [node.get("items", True)] if least > len(first) else []
    return all(_ends(root, one, open_refs) for one in (*first, *rest))


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
