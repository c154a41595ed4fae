"""Results that break files, exported as the command does it, and read back by others' readers."""

from __future__ import annotations

import csv
import gzip
import json
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import zstandard
from sqlalchemy import Row, select

from textmill.db.batches import iter_batches
from textmill.db.filters import ResultFilter
from textmill.db.models import jobs, results
from textmill.db.results import ResultRow, to_json, write_results
from textmill.db.session import Database
from textmill.producer.exports import Export, find_format, write_export

from .builders import job_of, make_job, put

HOSTILE = [
    "one\nline\n\nmore\n",
    "dos\r\nlines\r\n",
    "old mac\rlines",
    'she said "no", twice: ""',
    "a\ttab, a ; and a \\ \\n \\N \\.",
    "\u202eright to left\u202c \u200f\u061c",
    "\u2028\u2029\x85\ufeff\u200b\x1f\x7f",
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "",
    " ",
    "NULL",
    "null",
    "nan",
    "0012",
    "1e5",
    "true",
    "🏳️‍🌈 👩🏽‍🚀 é e\u0301 \U0010ffff",
    "'",
    "x" * 1_000_000,
    'é"\n,' * 200_000,
]
NUL = ["\0", "a\0b", "\0=1"]  # which PostgreSQL cannot store
LONG_NAME = "n" * 3000
NAMES = [
    "country",
    "label",
    "input_label",
    "record_index",
    'a "b", c\n;\t',
    "=1+1",
    LONG_NAME,
    "é",
    "5 % :of",
]
EXPORTED_NAMES = ["country", "input_input_label", "input_label", "input_record_index", *NAMES[4:]]
FORMATS = ["csv", "csv.gz", "csv.zst", "tsv", "jsonl", "jsonl.gz", "parquet", "arrow", "datasets"]


def rows_of(database: Database) -> list[ResultRow]:
    """A row with each hostile text in each of its columns, NULL among them in turn."""
    texts = [*HOSTILE, *(NUL if database.is_sqlite else [])]
    rows = []
    for index, value in enumerate(texts):
        extra = {name: value for at, name in enumerate(NAMES) if (at + index) % 5}
        row = ResultRow(
            2 * index,  # the indexes have gaps, as those of a running job have
            value[:1000] or "empty",  # it is in an index
            value if index % 2 else None,
            label=value[:1000] if index % 3 else None,
            score=[0.1 + 0.2, 1.0, -0.0, 5e-324, -12345678.9, None][index % 6],
            output=value if index % 2 == 0 else None,
            vector=np.array([0.1, -1 / 3, 1e-9, 16777216, 3e38], "<f4")[: index % 6].tobytes(),
            detail=to_json({"text": value, "numbers": [1, 2.5, None, True]}) if index % 4 else None,
            error_code="bad" if index % 7 == 0 else None,
            error_message=value if index % 7 == 0 else None,
            extra=to_json(extra) if index % 6 else None,
            input_tokens=index or None,
            output_tokens=2**31 - 1,
        )
        rows.append(row._replace(vector=None) if index % 5 == 0 else row)
    return rows


def fill(database: Database, rows: list[ResultRow], names: list[str] = NAMES) -> Row[Any]:
    """A job of these rows; another one has rows of its own, which must not come along."""
    job_id, other = make_job(database), make_job(database)
    put(database, jobs, jobs.c.id == job_id, extra_columns=names, model_version="sha256:1")
    with database.write() as connection:
        write_results(connection, job_id, rows)
        write_results(connection, other, [ResultRow(index, "other") for index in range(200)])
    return job_of(database, job_id)


def export(database: Database, job: Row[Any], out: Path, **options: Any) -> int:
    """As the command does it; ``options`` are of ``Export`` and ``iter_batches``."""
    force = options.pop("force", False)
    safe = options.pop("spreadsheet_safe", False)
    pages = {"page_rows": options.pop("page_rows")} if "page_rows" in options else {}
    kind = "datasets" if out.suffix == ".datasets" else None

    def read(columns: Any, extra: Any) -> Iterator[Any]:
        return iter_batches(database, job, ResultFilter(**options), columns, extra, **pages)

    found = find_format(kind, out)
    given = Export(job=job, read=read, format=found.name, spreadsheet_safe=safe)
    return write_export(given, out, force=force)


def unpacked(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix == ".gz":
        return gzip.decompress(data)
    return zstandard.decompress(data, 1 << 30) if path.suffix == ".zst" else data


def load_table(path: Path, delimiter: str = ",") -> list[dict[str, Any]]:
    """By Arrow, which tells an empty text from no text, and every cell as a text."""
    data = unpacked(path)
    names = next(csv.reader(data.decode().splitlines(keepends=True), delimiter=delimiter))
    return list(
        pa.csv.read_csv(
            pa.BufferReader(data),
            pa.csv.ReadOptions(block_size=1 << 28),
            pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            pa.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        ).to_pylist()
    )


def load_jsonl(path: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in unpacked(path).split(b"\n")[:-1]]
    for row in rows:
        extra = row.pop("extra") or {}
        row |= {out: extra.get(name) for out, name in zip(EXPORTED_NAMES, NAMES, strict=True)}
    return rows


def load_datasets(path: Path) -> list[dict[str, Any]]:
    import datasets

    return list(datasets.load_from_disk(path))


LOADERS: dict[str, Callable[[Path], list[dict[str, Any]]]] = {
    "csv": load_table,
    "tsv": partial(load_table, delimiter="\t"),
    "jsonl": load_jsonl,
    "parquet": lambda path: list(pa.parquet.read_table(path).to_pylist()),
    "arrow": lambda path: list(pa.ipc.open_file(path).read_all().to_pylist()),
    "datasets": load_datasets,
}


def in_sql(database: Database, job: Row[Any]) -> list[dict[str, Any]]:
    """The rows as plain SQL has them: ``detail`` and ``extra`` read from JSON."""
    with database.read() as connection:
        query = select(results).where(results.c.job_id == job.id).order_by(results.c.record_index)
        return [dict(row._mapping) for row in connection.execute(query)]


def assert_equal(found: dict[str, Any], stored: dict[str, Any], kind: str) -> None:
    for name in ("record_id", "text", "label", "output", "error_code", "error_message"):
        assert found[name] == stored[name], name
    texts = kind in ("csv", "tsv")
    for name in ("record_index", "score", "input_tokens", "output_tokens"):
        value = found[name]
        if texts and value is not None:
            value = float(value) if name == "score" else int(value)
        assert value == stored[name], name
        if name == "score" and value is not None:
            assert math.copysign(1, value) == math.copysign(1, stored[name])
    detail = found["detail"]
    if kind != "jsonl" and detail is not None:
        detail = json.loads(detail)
    assert detail == stored["detail"]
    vector = found["vector"]
    if texts and vector is not None:
        vector = json.loads(vector)
    if stored["vector"] is None:
        assert vector is None
    else:
        assert np.array(vector, "<f4").tobytes() == stored["vector"]
    extra = stored["extra"] or {}
    for exported, name in zip(EXPORTED_NAMES, NAMES, strict=True):
        assert found[exported] == extra.get(name), name
