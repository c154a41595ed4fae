"""The database's clock: leases compare its time with its time, never with a worker's."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Float, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement


class now(FunctionElement[float]):  # noqa: N801 - reads as the SQL function it is
    """Seconds since 1970 at the moment the statement runs (not at its transaction's start)."""

    type = Float()
    inherit_cache = True
    name = "now"


@compiles(now, "postgresql")
def _postgresql(element: now, compiler: Any, **kw: Any) -> str:
    return "EXTRACT(EPOCH FROM clock_timestamp())::double precision"


@compiles(now, "sqlite")
def _sqlite(element: now, compiler: Any, **kw: Any) -> str:
    # unixepoch('subsec') is NULL before SQLite 3.42, which would make leases that never expire.
    return "((julianday('now') - 2440587.5) * 86400.0)"


def read_clock(connection: Connection) -> float:
    """The database's time now, for what is shown beside times that it wrote."""
    return float(connection.scalar(select(now())) or 0.0)
