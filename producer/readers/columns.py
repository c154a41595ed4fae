"""Which column serves which input field: as the person said, or by a guess that is never loose."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from textmill.core.errors import InputError
from textmill.core.tasks import nearest

Sample = Sequence[Mapping[str, Any]]

_BOOLEANS = frozenset({"true", "false", "yes", "no", "t", "f", "y", "n"})
_DATE = re.compile(
    r"(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4})"
    r"([T ]\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?\s*(Z|[AaPp][Mm]|[+-]\d{2}:?\d{2})?)?"
    r"|\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?"
)


def choose_columns(
    name: str,
    columns: tuple[str, ...],
    sample: Sample,
    fields: Sequence[str],
    asked: Mapping[str, str],
    id_column: str | None,
    own: Collection[str] = (),
) -> dict[str, str]:
    """The column of each field; raises InputError where one is unknown or not certain.

    ``asked`` are the columns the person named, ``own`` options that one might be meant for. A field
    without one is served by the column of its own name; a task with one field also by the only
    column that holds texts.
    """
    for field in asked:
        if field not in fields:
            # Very like: a context is no text.
            advice = nearest(field, [*fields, *own], likeness=0.8)
            raise InputError(
                f"a column is named for {field!r}{advice}, but the task reads: "
                f"{', '.join(fields)} (with these options); leave out "
                f"--{field.replace('_', '-')}-column, or what stands in its place"
            )
    for column in [*asked.values(), *([id_column] if id_column is not None else [])]:
        require_column(name, columns, column)
    chosen = {
        field: asked.get(field) or _guess(name, columns, sample, field, fields, id_column)
        for field in fields
    }
    _check_distinct(chosen, id_column)
    return chosen


def require_column(name: str, columns: tuple[str, ...], column: str) -> None:
    """Raise InputError unless the input has this column."""
    if column not in columns:
        raise InputError(
            f"{name}: no column {column!r}{nearest(column, columns)}; {_listed(columns)}"
        )


def _guess(
    name: str,
    columns: tuple[str, ...],
    sample: Sample,
    field: str,
    fields: Sequence[str],
    id_column: str | None,
) -> str:
    free = [column for column in columns if column != id_column]
    found = [column for column in free if column.casefold() == field.casefold()]
    if field in found:
        return field
    if not found and len(fields) == 1:
        found = [
            column
            for column in free
            if column.casefold() != "id" and _holds_texts([row.get(column) for row in sample])
        ]
    if len(found) == 1:
        return found[0]
    what = f"{', '.join(map(repr, found))} could be" if found else "no column is named"
    the = f"the {field}" if found else repr(field)
    raise InputError(f"{name}: {what} {the}; pass --{field}-column; {_listed(columns)}")


def _holds_texts(values: Sequence[Any]) -> bool:
    present = [value for value in values if value is not None and value != ""]
    if not all(isinstance(value, str) for value in present):
        return False
    return not all(_is_plain(value.strip()) for value in present)


def _is_plain(value: str) -> bool:
    """Whether a cell is empty, a number, a boolean, a date or a time."""
    if not value or value.casefold() in _BOOLEANS or _DATE.fullmatch(value):
        return True
    try:
        float(value.replace(",", ""))
    except ValueError:
        return False
    return True


def _check_distinct(chosen: Mapping[str, str], id_column: str | None) -> None:
    used = [*chosen.values(), *([id_column] if id_column is not None else [])]
    twice = next((column for column in used if used.count(column) > 1), None)
    if twice is not None:
        raise InputError(
            f"the column {twice!r} is used twice; each field and the id need their own"
        )


def _listed(columns: tuple[str, ...]) -> str:
    return f"columns are: {', '.join(columns)}" if columns else "there are no columns"
