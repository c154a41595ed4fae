"""What is exported is what is in SQL: every format, both databases, texts that break files."""

from __future__ import annotations

import csv
import json
import sys
import types
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from sqlalchemy import text

from textmill.core.errors import InvalidJobError
from textmill.db.results import ResultRow, to_json
from textmill.db.session import Database
from textmill.producer.exports import (
    Export,
    datasets_folder,
    parquet,
    registry,
)
from textmill.producer.exports.atomic import new_file

from .. import builders
from ..exported import (
    EXPORTED_NAMES,
    FORMATS,
    HOSTILE,
    LOADERS,
    NAMES,
    assert_equal,
    export,
    fill,
    in_sql,
    rows_of,
)

database, postgresql, tables_url = builders.database, builders.postgresql, builders.tables_url


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


CONTROLS = ("\t", "\r", "\n")


def test_a_spreadsheet_finds_no_formula(database: Database, tmp_path: Path) -> None:
    hidden = ["\u00a0=1", "\u200b\ufeff=1", "\u3000 +1", "\v-1", "﹦1", "⁺1", "−1"]
    texts = [*HOSTILE[:-2], *hidden, "＝1", "  =1", "\n@x", "a=1", "1-2", "x;=1", "\u00a0x"]
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
            seen = value.lstrip(" \t\r\n\v\u00a0\u3000\u200b\ufeff")
            dangerous = (
                value in hidden or seen.startswith(tuple("=+-@＝")) or value.startswith(CONTROLS)
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
