"""Numbers in the input's other columns: found however written, with and without an index."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest

from textmill.db.batches import LimitedBatches
from textmill.db.filters import ResultFilter
from textmill.db.queries import iter_results
from textmill.db.results import ResultRow, to_json
from textmill.db.session import Database
from textmill.producer.exports import Export, find_format

from .. import builders
from ..filled import filled_job

# Fixtures; imported by name, they would be redefined by every test's parameter.
tables_url = builders.tables_url
postgresql = builders.postgresql
database = builders.database

VALUES = [
    0.00001, 1e-7, 1e22, 1e23, 1e16, 1.5e300, 5e-324, 0.1 + 0.2, -0.0, 0, 1, 1.0, "1", "1.0",
    "1e-05", "0.00001", True, "true", 2**63, 2**64 - 1, -(2**63), 2**53, 2**53 + 1,
    2.0**60, 2**60,
    12345678901234567890, 123456789.12345678, "100000000000000000001", "01", "1e22", 2026,
    2026.0, None, [1], {"a": 1},
]  # fmt: skip

ASKED: list[tuple[Any, list[Any]]] = [
    ("0.00001", [0.00001, "0.00001"]),
    ("1e-05", [0.00001, "1e-05"]),
    ("1e-5", [0.00001]),
    ("1.0e-05", [0.00001]),
    (0.00001, [0.00001, "0.00001"]),
    ("0.0000001", [1e-7]),
    ("1e22", [1e22, "1e22"]),
    ("1e+22", [1e22]),
    ("1.0e+22", [1e22]),
    ("10000000000000000000000", [1e22]),
    (1e22, [1e22]),
    (10**22, [1e22]),
    ("10000000000000000000001", []),  # not that float, though the nearest one is
    ("1e23", [1e23]),
    ("1" + 23 * "0", [1e23]),
    ("1e16", [1e16]),
    ("1.5e300", [1.5e300]),
    ("15" + 299 * "0", [1.5e300]),
    ("5e-324", [5e-324]),
    ("0.30000000000000004", [0.1 + 0.2]),
    ("0.3", []),
    ("0", [-0.0, 0]),
    ("-0.0", [-0.0, 0]),
    ("1", [1, 1.0, "1"]),
    ("1.0", [1, 1.0, "1.0"]),
    (1, [1, 1.0, "1"]),
    ("01", ["01"]),
    (True, [True, "true"]),
    ("9223372036854775808", [2**63]),
    ("18446744073709551615", [2**64 - 1]),
    ("-9223372036854775808", [-(2**63)]),
    ("9007199254740992", [2**53]),
    ("9007199254740993", [2**53 + 1]),
    ("1.152921504606847e18", [2.0**60]),  # as it is written, by PostgreSQL in full
    ("1152921504606847000", [2.0**60]),
    ("1152921504606846976", [2**60]),
    (2**60, [2**60]),
    (2.0**60, [2.0**60]),
    ("12345678901234567890", [12345678901234567890]),
    ("123456789.12345678", [123456789.12345678]),
    ("100000000000000000001", ["100000000000000000001"]),
    (100000000000000000001, ["100000000000000000001"]),
    ("2.026e3", [2026, 2026.0]),
    ("1e400", []),
    ("9" * 1000, []),
    ("nan", []),
    ("", []),
    ("[1]", []),
    ("null", []),
]


def same(left: Any, right: Any) -> bool:
    return type(left) is type(right) and left == right


@pytest.fixture
def jobs(database: Database) -> list[Any]:
    rows = [
        ResultRow(n, f"r{n}", "x", None, "ham", n / 100, extra=to_json({"n": value}))
        for n, value in enumerate(VALUES)
    ]
    return [
        filled_job(database, rows, extra_columns=["n"], index_columns=declared)
        for declared in (("n",), ())
    ]


def test_a_number_is_found_however_it_is_written(database: Database, jobs: list[Any]) -> None:
    for value, wanted in ASKED:
        expected = [n for n, one in enumerate(VALUES) if any(same(one, given) for given in wanted)]
        assert len(expected) == len(wanted), value
        for job in jobs:
            for order in ("input", "score"):
                asked = ResultFilter(where={"n": value}, order=order)  # type: ignore[arg-type]
                found = [row.record_index for row in iter_results(database, job, asked)]
                assert sorted(found) == expected, (value, job.index_columns, order)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_value_copied_from_an_export_finds_its_row(
    database: Database, jobs: list[Any], kind: str
) -> None:
    numbers = [n for n, one in enumerate(VALUES) if type(one) in (int, float)]
    for job in jobs:
        copies = exported(database, job, kind)
        for index in numbers:
            wanted = ResultFilter(where={"n": copies[index]})
            found = [row.record_index for row in iter_results(database, job, wanted)]
            assert index in found, (copies[index], job.index_columns)


def exported(database: Database, job: Any, kind: str) -> list[str]:
    """The values as they are written in the file."""
    file = io.BytesIO()
    export = Export(job=job, read=LimitedBatches(database, job, ResultFilter()).read, format=kind)
    find_format(kind, None).load().write(export, file)
    lines = file.getvalue().decode().splitlines()
    if kind == "csv":
        return [row["n"] for row in csv.DictReader(lines)]
    rows = [json.loads(line, parse_int=str, parse_float=str) for line in lines]
    return [row["extra"]["n"] for row in rows]
