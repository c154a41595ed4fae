"""What to say of a name that the database does not know: the nearest one, and what there is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches

Tables = Mapping[str, Sequence[str]]  # the columns of each table and view


def unknown_table(name: str, tables: Tables) -> str:
    """`` (did you mean …?); the tables are …``."""
    if not tables:
        return "; the database has no tables: `textmill db upgrade` makes them"
    return f"{_nearest(name, list(tables))}; the tables are {', '.join(tables)}"


def unknown_column(name: str, statement: str, tables: Tables) -> str:
    """The columns of the tables that the statement names, and the nearest of them."""
    words = set(re.findall(r"\w+", statement.lower()))
    asked = {table: tables[table] for table in tables if table.lower() in words}
    columns = [column for table in asked.values() for column in table]
    listed = "; ".join(f"{table} has {', '.join(asked[table])}" for table in asked)
    return _nearest(name, columns) + (f"; {listed}" if listed else "")


def _nearest(name: str, known: Sequence[str]) -> str:
    plain = name.rpartition(".")[2].strip('"').lower()
    close = get_close_matches(plain, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
