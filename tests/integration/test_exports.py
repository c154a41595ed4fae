"""What is exported is what is in SQL: every format, both databases, texts that break files."""

from __future__ import annotations

import csv
import gzip
import json
import math
import random
import sys
import types
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import zstandard
from sqlalchemy import Row, select, text

from textmill.core.errors import InvalidJobError
from textmill.db.batches import iter_batches
from textmill.db.filters import ResultFilter
from textmill.db.models import jobs, results
from textmill.db.results import ResultRow, to_json, write_results
from textmill.db.session import Database
from textmill.producer.exports import (
    Export,
    datasets_folder,
    find_format,
    parquet,
    registry,
    write_export,
)
from textmill.producer.exports.atomic import new_file

from .. import builders
from ..builders import job_of, make_job, put
from ..servers import wait_until

database, postgresql, tables_url = builders.database, builders.postgresql, builders.tables_url

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
NAMES = ["country", "label", "input_label", "record_index", 'a "b", c\n;\t', "=1+1", LONG_NAME, "é"]
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


@pytest.mark.parametrize("ending", FORMATS)
def test_every_format_gives_back_what_is_in_sql(
    database: Database, tmp_path: Path, ending: str
) -> None:
    job = fill(database, rows_of(database))
    out = tmp_path / f"all.{ending}"
    kind = ending.split(".")[0]
    stored = in_sql(database, job)
    assert export(database, job, out) == len(stored)
    loaded = LOADERS[kind](out)
    assert [row["record_index"] for row in stored] == [int(row["record_index"]) for row in loaded]
    for found, row in zip(loaded, stored, strict=True):
        assert_equal(found, row, kind)
    assert list(tmp_path.glob(".*")) == []


@pytest.mark.parametrize("kind", ["csv", "tsv"])
def test_python_reads_the_tables_too(database: Database, tmp_path: Path, kind: str) -> None:
    """Its csv module knows no NULL, and limits cells unless it is told otherwise."""
    job = fill(database, rows_of(database))
    out = tmp_path / f"all.{kind}"
    export(database, job, out)
    csv.field_size_limit(1 << 22)
    try:
        with out.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, delimiter="\t" if kind == "tsv" else ","))
    finally:
        csv.field_size_limit(131072)
    stored = in_sql(database, job)
    assert [row["text"] for row in rows] == [row["text"] or "" for row in stored]
    assert [row["output"] for row in rows] == [row["output"] or "" for row in stored]
    assert list(rows[0])[-len(NAMES) :] == EXPORTED_NAMES


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet", "arrow", "datasets"])
def test_a_job_without_rows_has_the_columns(
    database: Database, tmp_path: Path, ending: str
) -> None:
    job = fill(database, [])
    out = tmp_path / f"none.{ending}"
    assert export(database, job, out) == 0
    assert LOADERS[ending](out) == []
    if ending == "parquet":
        assert pa.parquet.read_schema(out).names[-len(NAMES) :] == EXPORTED_NAMES


def test_types_and_the_job_are_in_the_files(database: Database, tmp_path: Path) -> None:
    job = fill(database, rows_of(database), ["country", "label"])
    for ending in ("parquet", "arrow"):
        export(database, job, tmp_path / f"all.{ending}")
    schema = pa.parquet.read_schema(tmp_path / "all.parquet")
    assert schema.equals(pa.ipc.open_file(tmp_path / "all.arrow").schema, check_metadata=False)
    assert schema.field("vector").type.value_type == pa.float32()
    assert schema.field("record_index").type == pa.int64()
    assert schema.field("score").type == pa.float64()
    for name in ("text", "detail", "country", "input_label"):
        assert schema.field(name).type == pa.string()
    for metadata in (schema.metadata, pa.ipc.open_file(tmp_path / "all.arrow").schema.metadata):
        assert metadata[b"textmill.job_id"] == job.id.encode()
        assert metadata[b"textmill.task"] == b"classification"
        assert metadata[b"textmill.model"] == b"org/model"
        assert metadata[b"textmill.model_version"] == b"sha256:1"
    columns = pa.parquet.ParquetFile(tmp_path / "all.parquet").metadata.row_group(0)
    assert columns.column(2).compression == "ZSTD"


def test_datasets_of_two_exports_are_two_datasets(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In shards, with the types that Arrow has; the library caches by the fingerprint."""
    import datasets

    job = fill(database, rows_of(database))
    monkeypatch.setattr(datasets_folder, "SHARD_BYTES", 1000)
    for name in ("one.datasets", "two.datasets"):
        export(database, job, tmp_path / name, page_rows=10)
    one, two = (
        datasets.load_from_disk(tmp_path / name) for name in ("one.datasets", "two.datasets")
    )
    assert one._fingerprint != two._fingerprint
    shards = sorted(path.name for path in (tmp_path / "one.datasets").glob("*.arrow"))
    assert shards == [f"data-{at:05d}-of-{len(shards):05d}.arrow" for at in range(len(shards))]
    assert len(shards) > 2
    assert one.features["vector"] == datasets.List(datasets.Value("float32"))
    assert one.features["score"] == datasets.Value("float64")
    assert list(one) == list(two)
    assert job.id in one.info.description


def test_extra_values_that_are_no_texts_are_json(database: Database, tmp_path: Path) -> None:
    values = [1, -2.5, True, False, None, {"a": [1, "é"]}, [], "text", "5"]
    rows = [
        ResultRow(at, f"r{at}", extra=to_json({"value": value})) for at, value in enumerate(values)
    ]
    job = fill(database, [*rows, ResultRow(99, "none")], ["value"])
    for ending in ("csv", "parquet"):
        out = tmp_path / f"all.{ending}"
        export(database, job, out)
        found = [row["value"] for row in LOADERS[ending](out)]
        assert found[-3:] == ["text", "5", None]
        assert [None if cell is None else json.loads(cell) for cell in found[:-3]] == values[:-2]


def test_what_others_wrote_into_the_file_is_exported_as_well_as_can_be(tmp_path: Path) -> None:
    """SQLite takes bytes that are no UTF-8 for a text, and JSON with half of a surrogate pair."""
    database = Database(f"sqlite:///{tmp_path / 'textmill.db'}")
    for _ in builders.with_tables(database.url):
        pass
    job = fill(database, [ResultRow(at, f"r{at}", "text") for at in range(3)], ["name"])
    with database.write() as connection:
        for statement in (
            "UPDATE results SET text = CAST(x'61edA08062' AS TEXT) WHERE record_index = 0",
            """UPDATE results SET extra = '{"name": "\\ud800x"}' WHERE record_index = 1""",
            """UPDATE results SET detail = '{"a":\n 1}', extra = '[1]' WHERE record_index = 2""",
        ):
            connection.execute(text(f"{statement} AND job_id = :job"), {"job": job.id})
    for ending in ("csv", "parquet"):
        out = tmp_path / f"all.{ending}"
        export(database, job, out)
        first, second, third = LOADERS[ending](out)
        assert first["text"].strip("ab") == "\N{REPLACEMENT CHARACTER}" * 3
        assert second["name"].strip("\N{REPLACEMENT CHARACTER}") == "x"
        assert third["name"] is None
    export(database, job, tmp_path / "all.jsonl")
    lines = (tmp_path / "all.jsonl").read_bytes().splitlines()
    assert json.loads(lines[2])["detail"] == {"a": 1}
    database.close()


def test_a_spreadsheet_finds_no_formula(database: Database, tmp_path: Path) -> None:
    texts = [*HOSTILE[:-2], "＝1", "  =1", "\n@x", "a=1", "1-2", "x;=1"]
    rows = [
        ResultRow(at, f"r{at}", value, score=-0.5, extra=to_json({"=x": value, "n": -5}))
        for at, value in enumerate(texts)
    ]
    job = fill(database, rows, ["=x", "n"])
    for kind, delimiter in (("csv", ","), ("tsv", "\t")):
        out = tmp_path / f"safe.{kind}"
        export(database, job, out, spreadsheet_safe=True)
        with out.open(newline="", encoding="utf-8") as file:
            header, *cells = csv.reader(file, delimiter=delimiter)
        assert header[-2:] == ["'=x", "n"]
        at = {name: place for place, name in enumerate(header)}
        for row, value in zip(cells, texts, strict=True):
            dangerous = value.lstrip(" \t\r\n").startswith(tuple("=+-@＝")) or value.startswith(
                ("\t", "\r", "\n")
            )
            for name in ("text", "'=x"):
                assert row[at[name]] == ("'" + value if dangerous else value), name
            assert row[at["score"]] == "-0.5", "a number of ours stays one"
            assert row[at["n"]] == "'-5", "a column of the input holds texts"
        raw = out.read_text(encoding="utf-8")
        assert f'{delimiter}"x;=1"{delimiter}' in raw, "no ; begins a cell where ; is the delimiter"
        assert f"{delimiter}-0.5{delimiter}" in raw


def test_a_format_may_make_its_files_itself(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than one, say: each whole or not at all."""

    def write_ids(export: Export, out: Path, force: bool) -> int:
        errors = out.with_name(f"{out.name}.errors")
        with new_file(out, force=force) as good, new_file(errors, force=force) as bad:
            for batch in export.read(["record_id", "error_code"], ["country"]):
                for row in batch.to_pylist():
                    line = f"{row['record_id']} {row['country']}\n".encode()
                    (bad if row["error_code"] else good).write(line)
        return 3

    module = types.SimpleNamespace(write=write_ids)
    monkeypatch.setitem(sys.modules, "textmill.producer.exports.ids", module)
    monkeypatch.setitem(registry.FORMATS, "ids", registry.Format("ids", (".ids",), "ids", "own"))
    job = fill(
        database,
        [
            ResultRow(0, "good", extra=to_json({"country": "DE"})),
            ResultRow(1, "bad", error_code="empty_text"),
        ],
    )
    assert export(database, job, tmp_path / "all.ids") == 3
    assert (tmp_path / "all.ids").read_text() == "good DE\n"
    assert (tmp_path / "all.ids.errors").read_text() == "bad None\n"
    (tmp_path / "all.ids").unlink()
    with pytest.raises(InvalidJobError, match="errors exists"):
        export(database, job, tmp_path / "all.ids")
    assert not (tmp_path / "all.ids").exists()


def test_only_tables_are_made_safe(database: Database, tmp_path: Path) -> None:
    job = fill(database, [])
    with pytest.raises(InvalidJobError, match="for csv and tsv; the format is parquet"):
        export(database, job, tmp_path / "all.parquet", spreadsheet_safe=True)
    assert list(tmp_path.glob("*.parquet")) == []


def test_rows_come_in_the_order_that_is_asked_for(database: Database, tmp_path: Path) -> None:
    scores = [0.5, None, 0.9, 0.5, 0.1, 0.9]
    rows = [ResultRow(at, f"r{at}", score=score) for at, score in enumerate(scores)]
    job = fill(database, rows, [])
    for order, expected in {
        "input": [0, 1, 2, 3, 4, 5],
        "fastest": [0, 1, 2, 3, 4, 5],
        "score": [2, 5, 0, 3, 4],
    }.items():
        for page_rows in (1, 2, 3, 100):
            for limit in (None, 0, 1, 2, 4, 99):
                wanted = ResultFilter(order=order, limit=limit)  # type: ignore[arg-type]
                batches = iter_batches(database, job, wanted, ["record_index"], page_rows=page_rows)
                found = [index for batch in batches for index in batch.column(0).to_pylist()]
                assert found == expected[:limit], (order, page_rows, limit)


@pytest.mark.parametrize("page_rows", [1, 8, 50])
def test_rows_are_found_however_they_lie(database: Database, page_rows: int) -> None:
    """Few in a wide window, many in the next; a job that was interrupted has gaps."""
    dice = random.Random(page_rows)
    shares = [0.0, 0.01, 1.0, 0.0, 0.5, 1.0, 0.02]
    labels = ["spam" if dice.random() < share else "ham" for share in shares for _ in range(150)]
    rows = [ResultRow(3 * at, f"r{at}", label=label) for at, label in enumerate(labels)]
    job = fill(database, [row for row in rows if dice.random() < 0.9 or row.label == "spam"], [])
    expected = [row.record_index for row in rows if row.label == "spam"]
    for limit in (None, 1, 7, len(expected)):
        wanted = ResultFilter(label="spam", limit=limit)
        batches = iter_batches(database, job, wanted, ["record_index"], page_rows=page_rows)
        found = [index for batch in batches for index in batch.column(0).to_pylist()]
        assert found == expected[:limit]


def test_a_job_that_the_planner_knows_nothing_of_is_read_once(postgresql: Database) -> None:
    """Before ANALYZE PostgreSQL expects a few rows of it, and would sort all for every page."""
    rows = 20_000
    job = fill(postgresql, [ResultRow(at, f"r{at}", "text") for at in range(rows)], [])
    before = fetched_rows(postgresql)
    batches = iter_batches(postgresql, job, ResultFilter(), ["record_index"], page_rows=500)
    assert sum(batch.num_rows for batch in batches) == rows
    wait_until(lambda: fetched_rows(postgresql) >= before + rows, 30, what="counted")
    assert fetched_rows(postgresql) < before + 2 * rows


def fetched_rows(database: Database) -> int:
    """Rows that PostgreSQL has fetched by an index of ``results`` so far."""
    query = "SELECT idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'results'"
    with database.read() as connection:
        connection.execute(text("SELECT pg_stat_force_next_flush()"))
    with database.read() as connection:
        return connection.scalar(text(query)) or 0


def test_a_page_of_large_rows_ends_early(database: Database) -> None:
    """Whatever the rows before were like; and the connection is as good as before."""
    sizes = [10] * 300 + [1_000_000] * 60 + [10] * 100
    rows = [ResultRow(at, f"r{at}", "x" * size) for at, size in enumerate(sizes)]
    job = fill(database, rows, [])
    for _ in range(2):
        batches = list(iter_batches(database, job, ResultFilter(), ["record_index", "text"]))
        found = [index for batch in batches for index in batch.column(0).to_pylist()]
        assert found == list(range(len(sizes)))
        # At most what is fetched at once is over the limit of 4 MB.
        assert max(batch.nbytes for batch in batches) < (4 << 20) + 65 * 1_000_000
        assert len(batches) > 3


def test_row_groups_are_bounded_by_rows_and_bytes(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [ResultRow(at, f"r{at}", "x" * (100_000 if at > 50 else 1)) for at in range(100)]
    job = fill(database, rows, [])
    monkeypatch.setattr(parquet, "GROUP_ROWS", 20)
    monkeypatch.setattr(parquet, "GROUP_BYTES", 1 << 20)
    export(database, job, tmp_path / "all.parquet", page_rows=5)
    file = pa.parquet.ParquetFile(tmp_path / "all.parquet").metadata
    groups = [file.row_group(at) for at in range(file.num_row_groups)]
    assert [group.num_rows for group in groups[:2]] == [20, 20]
    assert max(group.num_rows for group in groups[3:]) <= 15
    assert sum(group.num_rows for group in groups) == 100
