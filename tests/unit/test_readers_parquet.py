"""Parquet: what is read, and what is said about files and cells that cannot be."""

from __future__ import annotations

import datetime as dt
import decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from textmill.core.errors import InputError
from textmill.core.jobs import BadRecord, Record
from textmill.producer.readers import ReadOptions, open_records


def write(folder: Path, columns: dict[str, Any], name: str = "in.parquet", **how: Any) -> Path:
    path = folder / name
    pq.write_table(pa.table(columns), path, **how)
    return path


def read(*paths: Path, options: ReadOptions | None = None) -> list[Record | BadRecord]:
    with open_records(paths, ["text"], options or ReadOptions()) as reader:
        return list(reader)


def test_a_row_becomes_a_record_with_typed_extra(tmp_path: Path) -> None:
    path = write(tmp_path, {"id": [7, 8], "text": ["a b", "c d"], "n": [1.5, None]})
    assert read(path, options=ReadOptions(id_column="id")) == [
        Record(0, "7", {"text": "a b"}, None, {"n": 1.5}),
        Record(1, "8", {"text": "c d"}, None, {"n": None}),
    ]


def test_values_are_made_fit_for_json(tmp_path: Path) -> None:
    moment = dt.datetime(2024, 1, 31, 10, 0, 0, 5, tzinfo=dt.UTC)
    path = write(
        tmp_path,
        {
            "text": ["a b"],
            "day": [dt.date(2024, 1, 31)],
            "at": pa.array([moment], pa.timestamp("ns", "UTC")),
            "time": pa.array([3_600_000_000_001], pa.time64("ns")),
            "price": [decimal.Decimal("1.50")],
            "raw": [b"\x00\xff"],
            "inf": [float("inf")],
            "deep": [[{"x": float("nan"), "y": "\0"}]],
            "word": pa.array(["w"]).dictionary_encode(),
            "nul": ["x\0"],
        },
    )
    (record,) = read(path, options=ReadOptions(columns={"text": "text"}))
    assert record.extra == {
        "day": "2024-01-31",
        "at": "2024-01-31T10:00:00.000005+00:00",
        "time": "01:00:00",
        "price": "1.50",
        "raw": "AP8=",
        "inf": None,
        "deep": [{"x": None, "y": "�"}],
        "word": "w",
        "nul": "x�",
    }


def test_the_only_string_column_is_the_text(tmp_path: Path) -> None:
    path = write(tmp_path, {"n": [1], "raw": [b"x"], "day": [dt.date(2024, 1, 1)], "body": ["a b"]})
    assert isinstance(read(path)[0], Record)


@pytest.mark.parametrize(
    ("column", "kind"), [("n", "int64"), ("raw", "binary"), ("day", r"date32\[day\]")]
)
def test_a_column_that_holds_no_strings_cannot_be_the_text(
    tmp_path: Path, column: str, kind: str
) -> None:
    path = write(tmp_path, {"n": [1], "raw": [b"x"], "day": [dt.date(2024, 1, 1)]})
    with pytest.raises(InputError, match=rf"column '{column}' holds {kind}; expected strings"):
        read(path, options=ReadOptions(columns={"text": column}))


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), "utf8")])
def test_every_kind_of_string_column_is_read(tmp_path: Path, kind: pa.DataType) -> None:
    path = write(tmp_path, {"text": pa.array(["a b", "é"]).cast(kind)})
    assert [r.inputs["text"] for r in read(path)] == ["a b", "é"]  # type: ignore[union-attr]


def test_null_and_empty_texts_are_bad_rows(tmp_path: Path) -> None:
    path = write(tmp_path, {"text": ["a b", " ", None]})
    with pytest.raises(InputError, match="row 3: column 'text' is missing"):
        read(path)
    records = read(path, options=ReadOptions(skip_bad=True))
    assert [getattr(r, "code", "ok") for r in records] == ["ok", "empty_text", "missing_text"]


def test_cells_that_are_not_utf8_are_bad_rows(tmp_path: Path) -> None:
    broken = pa.array([b"good", b"caf\xe9", None, b"fine"]).view(pa.string())
    path = write(tmp_path, {"text": ["a b"] * 4, "note": broken})
    options = ReadOptions(skip_bad=True, columns={"text": "text"})
    records = read(path, options=options)
    assert [getattr(r, "code", "ok") for r in records] == ["ok", "bad_encoding", "ok", "ok"]
    with pytest.raises(InputError, match=r"in\.parquet, row 2: a cell is not UTF-8"):
        read(path, options=ReadOptions(columns={"text": "text"}))


def test_many_batches_and_row_groups_are_read_in_order(tmp_path: Path) -> None:
    texts = [f"text {n}" for n in range(5000)]
    path = write(tmp_path, {"text": texts}, row_group_size=700)
    records = read(path)
    assert [r.inputs["text"] for r in records] == texts  # type: ignore[union-attr]
    assert [r.index for r in records] == list(range(5000))


def test_several_files_are_one_job(tmp_path: Path) -> None:
    first = write(tmp_path, {"text": ["a b"]}, "a.parquet")
    second = write(tmp_path, {"n": [1], "text": ["c d"]}, "b.parquet")
    assert read(first, second)[1] == Record(1, "1", {"text": "c d"}, None, {"n": 1})


def test_a_further_file_without_the_column_is_named(tmp_path: Path) -> None:
    first = write(tmp_path, {"text": ["a b"]}, "a.parquet")
    second = write(tmp_path, {"body": ["c d"]}, "b.parquet")
    with pytest.raises(InputError, match=r"b\.parquet: no column 'text'"):
        open_records([first, second], ["text"], ReadOptions())


@pytest.mark.parametrize("lost", [1, 100, 2000])
def test_a_truncated_file_is_named(tmp_path: Path, lost: int) -> None:
    path = write(tmp_path, {"text": [f"text {n}" for n in range(1000)]})
    path.write_bytes(path.read_bytes()[:-lost])
    with pytest.raises(InputError, match=r"in\.parquet: damaged or unreadable Parquet"):
        read(path)


def test_a_file_damaged_inside_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, {"text": [f"text {n}" for n in range(1000)]})
    data = bytearray(path.read_bytes())
    data[4:400] = b"\xff" * 396
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"in\.parquet: damaged or unreadable Parquet"):
        read(path)


def test_other_files_named_parquet_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    path.write_bytes(b"text,n\na,1\n")
    with pytest.raises(InputError, match="is not a Parquet file"):
        read(path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match="is empty"):
        read(path)
    with pytest.raises(InputError, match="no such file"):
        read(tmp_path / "none.parquet")


def test_no_rows_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, {"text": pa.array([], pa.string())})
    with pytest.raises(InputError, match=r"in\.parquet: has a header but no rows"):
        read(path)


def test_a_limit_is_kept(tmp_path: Path) -> None:
    path = write(tmp_path, {"text": ["a b"] * 3000})
    assert len(read(path, options=ReadOptions(limit=1500))) == 1500


def test_stdin_cannot_be_parquet() -> None:
    with pytest.raises(InputError, match="Parquet cannot be read from stdin"):
        open_records(["-"], ["text"], ReadOptions(format="parquet"))
