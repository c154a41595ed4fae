"""Labels in SQL: each asked for by itself where a job has few, many in one query where it has many.

A zero-shot job whose records have labels of their own can have tens of thousands.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import orjson
from sqlalchemy import Connection

FEW_LABELS = 100  # of a job with more, many are asked for in one query
LABELS_AT_ONCE = 500


def has_label(label: str | None, parameter: str = "label") -> str:
    """SQL for the rows whose first label it is, which is a parameter unless it is none."""
    return "label IS NULL" if label is None else f"label = :{parameter}"


def label_groups(labels: Sequence[str | None]) -> Iterator[Sequence[str | None]]:
    """Labels that one query asks for: each by itself where they are few, and none always."""
    size = 1 if len(labels) <= FEW_LABELS else LABELS_AT_ONCE
    named = [label for label in labels if label is not None]
    for start in range(0, len(named), size):
        yield named[start : start + size]
    if len(named) < len(labels):
        yield [None]


def label_values(connection: Connection, group: Sequence[str | None]) -> dict[str, Any]:
    """The parameter of a group: ``label`` of one, ``labels`` of several, nothing of none."""
    if len(group) == 1:
        return {} if group[0] is None else {"label": group[0]}
    if connection.dialect.name == "sqlite":
        return {"labels": orjson.dumps(list(group)).decode()}
    return {"labels": list(group)}


def each_label(connection: Connection) -> str:
    """SQL for the rows of ``:labels``, whose column is ``value``."""
    if connection.dialect.name == "sqlite":
        return "json_each(:labels) AS named"
    return "unnest(CAST(:labels AS text[])) AS named(value)"
