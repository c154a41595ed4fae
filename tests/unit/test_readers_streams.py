"""Files, compression, stdin and several inputs: what is opened and what is said when it fails."""

from __future__ import annotations

import gzip
import io
import os
import random
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import zstandard

from textmill.core.errors import InputError
from textmill.core.jobs import BadRecord, Record
from textmill.producer.readers import ReadOptions, open_records, streams

CONTENT = b"".join(b"%d,text number %d\n" % (n, n) for n in range(50_000))
HEADER = b"n,text\n"


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


def read(*inputs: Path | str, options: ReadOptions | None = None) -> list[Record | BadRecord]:
    with open_records(inputs, ["text"], options or ReadOptions()) as reader:
        return list(reader)


def texts(records: list[Record | BadRecord]) -> list[str]:
    return [r.inputs["text"] if isinstance(r, Record) else f"<{r.code}>" for r in records]


def feed_stdin(monkeypatch: pytest.MonkeyPatch, data: bytes) -> io.BytesIO:
    stream = io.BytesIO(data)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=stream))
    return stream


@pytest.mark.parametrize(("suffix", "compress"), [("gz", gzip.compress), ("zst", zstd)])
def test_compressed_files_are_read_whole_also_with_several_parts(
    tmp_path: Path, suffix: str, compress: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / f"in.csv.{suffix}"
    half = len(CONTENT) // 2  # within a row
    path.write_bytes(
        compress(HEADER) + compress(CONTENT[:half]) + compress(b"") + compress(CONTENT[half:])
    )
    records = read(path)
    assert texts(records) == [f"text number {n}" for n in range(50_000)]


@pytest.mark.parametrize(("suffix", "compress"), [("gz", gzip.compress), ("zst", zstd)])
@pytest.mark.parametrize("lost", [1, 9, 20_000])
def test_a_truncated_file_is_named(
    tmp_path: Path, suffix: str, compress: Callable[[bytes], bytes], lost: int
) -> None:
    path = tmp_path / f"in.csv.{suffix}"
    path.write_bytes(compress(HEADER + CONTENT)[:-lost])
    with pytest.raises(InputError, match=rf"in\.csv\.{suffix}: the compressed data ends too early"):
        read(path, options=ReadOptions(skip_bad=True))


@pytest.mark.parametrize(("suffix", "compress"), [("gz", gzip.compress), ("zst", zstd)])
def test_damaged_compression_is_named(
    tmp_path: Path, suffix: str, compress: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / f"in.csv.{suffix}"
    data = bytearray(compress(HEADER + CONTENT))
    data[len(data) // 2 :] = random.Random(1).randbytes(len(data) - len(data) // 2)
    path.write_bytes(data)
    with pytest.raises(InputError, match=rf"in\.csv\.{suffix}: (damaged|the compressed data)"):
        read(path)


def test_compression_is_told_by_content_not_by_name(tmp_path: Path) -> None:
    plain, packed = tmp_path / "plain.csv.gz", tmp_path / "packed.csv"
    plain.write_bytes(HEADER + b"1,a b\n")
    packed.write_bytes(gzip.compress(HEADER + b"2,c d\n"))
    assert texts(read(plain, packed)) == ["a b", "c d"]


def test_a_zstd_frame_that_expands_enormously_is_read_in_small_steps(tmp_path: Path) -> None:
    path = tmp_path / "in.txt.zst"
    path.write_bytes(zstd(b"a\n" * 20_000_000))
    assert len(read(path, options=ReadOptions(limit=5))) == 5


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.csv: no such file"):
        read(tmp_path / "none.csv")


def test_a_missing_second_file_is_named_before_anything_is_read(tmp_path: Path) -> None:
    first = tmp_path / "a.csv"
    first.write_bytes(HEADER + b"1,a b\n")
    with pytest.raises(InputError, match=r"none\.csv: no such file"):
        open_records([first, tmp_path / "none.csv"], ["text"], ReadOptions())


def test_a_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "in.csv").mkdir()
    with pytest.raises(InputError, match=r"in\.csv: is a directory"):
        read(tmp_path / "in.csv")


def test_a_file_without_permission_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # tests may run as root, who may read everything
    with pytest.raises(InputError, match=r"in\.csv: no permission to read it"):
        read(tmp_path / "in.csv")


@pytest.mark.parametrize("mark", [b"\xff\xfe", b"\xfe\xff"])
def test_utf16_is_refused_with_a_way_to_convert_it(tmp_path: Path, mark: bytes) -> None:
    path = tmp_path / "in.csv"
    path.write_bytes(mark + "text\na\n".encode("utf-16-le"))
    with pytest.raises(InputError, match=r"in\.csv: is UTF-16; .*iconv -f UTF-16"):
        read(path)


def test_utf16_without_a_mark_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_bytes("text\nhello\n".encode("utf-16-le"))
    with pytest.raises(InputError, match="binary data or UTF-16 without a byte order mark"):
        read(path)


def test_a_line_over_the_limit_is_refused_in_bounded_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "MAX_LINE_BYTES", 1 << 20)
    path = tmp_path / "in.txt"
    path.write_bytes(b"x" * (3 << 20))
    with pytest.raises(InputError, match=r"in\.txt: a line is over 1 MiB"):
        read(path)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("in.json", "jq -c"),
        ("in.xlsx", "save the sheet as CSV"),
        ("in.csv.bz2", r"expected \.gz or \.zst"),
        ("in", r"pass --format csv\|tsv\|jsonl\|parquet\|text"),
        ("in.gz", "pass --format"),
    ],
)
def test_a_name_without_a_known_format_is_refused(tmp_path: Path, name: str, hint: str) -> None:
    path = tmp_path / name
    with pytest.raises(InputError, match=rf"{name}: no such file"):
        read(path)
    path.write_text("x")
    with pytest.raises(InputError, match=rf"its format cannot be told by its name; .*{hint}"):
        read(path)


def test_a_format_can_be_stated(tmp_path: Path) -> None:
    path = tmp_path / "in.data"
    path.write_bytes(HEADER + b"1,a b\n")
    assert texts(read(path, options=ReadOptions(format="csv"))) == ["a b"]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'\n {"text": "a"}\n', ["a"]),
        (b"plain\nlines\n", ["plain", "lines"]),
        (gzip.compress(b'{"text": "a"}\n', mtime=0), ["a"]),
    ],
)
def test_stdin_is_json_lines_if_it_begins_with_a_brace_else_text(
    monkeypatch: pytest.MonkeyPatch, data: bytes, expected: list[str]
) -> None:
    stream = feed_stdin(monkeypatch, data)
    assert texts(read("-")) == expected
    assert not stream.closed


def test_stdin_can_be_csv(monkeypatch: pytest.MonkeyPatch) -> None:
    feed_stdin(monkeypatch, HEADER + CONTENT)
    assert len(read("-", options=ReadOptions(format="csv"))) == 50_000


def test_an_error_on_stdin_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    feed_stdin(monkeypatch, b'{"text": "a"}\nnope\n')
    with pytest.raises(InputError, match="stdin, line 2: the line is not JSON"):
        read("-")


def test_empty_stdin_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    feed_stdin(monkeypatch, b"")
    with pytest.raises(InputError, match="stdin: is empty"):
        read("-")


def test_stdin_twice_is_refused() -> None:
    with pytest.raises(InputError, match=r"stdin \(-\) was given twice"):
        read("-", "-")


def test_a_real_pipe_on_stdin_is_read() -> None:
    code = (
        "from textmill.producer.readers import *\n"
        "print(sum(1 for _ in open_records(['-'], ['text'], ReadOptions())))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=b"a line\n" * 100_000, capture_output=True, check=True
    )
    assert done.stdout.strip() == b"100000"


def test_named_pipes_are_opened_once_each(tmp_path: Path) -> None:
    pipes = [tmp_path / "a.csv", tmp_path / "b.csv"]
    for pipe in pipes:
        os.mkfifo(pipe)

    def write() -> None:
        for pipe in pipes:
            pipe.write_bytes(HEADER + b"1,a b\n")

    writer = threading.Thread(target=write)
    writer.start()
    assert texts(read(*pipes)) == ["a b", "a b"]
    writer.join()


def test_several_files_are_one_job_with_consecutive_indexes(tmp_path: Path) -> None:
    names = ["a.csv", "b.tsv", "c.csv.gz"]
    (tmp_path / "a.csv").write_bytes(b"n,text\n1,a a\nragged\n")
    (tmp_path / "b.tsv").write_bytes(b"text\tmore\nb b\t2\n")
    (tmp_path / "c.csv.gz").write_bytes(gzip.compress(b"text,n\nc c,3\n"))
    records = read(*(tmp_path / name for name in names), options=ReadOptions(skip_bad=True))
    assert texts(records) == ["a a", "<bad_row>", "b b", "c c"]
    assert [r.index for r in records] == [0, 1, 2, 3]
    assert [r.extra for r in records] == [{"n": "1"}, None, {"more": "2"}, {"n": "3"}]


def test_a_limit_counts_over_all_files(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.txt").write_bytes(b"1\n2\n")
    options = ReadOptions(limit=3)
    assert len(read(tmp_path / "a.txt", tmp_path / "b.txt", options=options)) == 3


def test_a_further_file_without_the_needed_column_is_named_before_reading(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"id,text\n1,a b\n")
    (tmp_path / "b.csv").write_bytes(b"id,texts\n1,a b\n")
    with pytest.raises(InputError, match=r"b\.csv: no column 'text' \(did you mean 'texts'\?\)"):
        open_records([tmp_path / "a.csv", tmp_path / "b.csv"], ["text"], ReadOptions())


def test_files_of_different_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"b\.jsonl: is jsonl, but .*a\.csv is csv"):
        read(tmp_path / "a.csv", tmp_path / "b.jsonl")


def test_an_empty_file_among_others_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"")
    (tmp_path / "b.csv").write_bytes(HEADER)
    (tmp_path / "c.csv").write_bytes(HEADER + b"1,a b\n")
    inputs = [tmp_path / name for name in ("a.csv", "b.csv", "c.csv")]
    assert texts(read(*inputs)) == ["a b"]
    assert texts(read(*reversed(inputs))) == ["a b"]


def test_only_empty_files_are_refused_each_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"")
    (tmp_path / "b.csv").write_bytes(HEADER)
    with pytest.raises(InputError, match=r"a\.csv: is empty; .*b\.csv: has a header but no rows"):
        read(tmp_path / "a.csv", tmp_path / "b.csv")


def test_no_input_is_refused() -> None:
    with pytest.raises(InputError, match="no input was given"):
        read()


def test_a_reader_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"1\n")
    with open_records([tmp_path / "a.txt"], ["text"], ReadOptions()) as reader:
        assert len(list(reader)) == 1
        with pytest.raises(RuntimeError, match="read once"):
            iter(reader)


def test_reading_holds_only_a_few_blocks_of_a_big_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "BLOCK_BYTES", 4096)
    path = tmp_path / "in.csv.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(HEADER)
        file.write(CONTENT)
    tracemalloc.start()
    try:
        with open_records([path], ["text"], ReadOptions()) as reader:
            count = sum(1 for _ in reader)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 50_000
    assert peak < 300_000 < len(CONTENT) / 3


def test_reading_csv_imports_neither_pyarrow_nor_zstandard(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_bytes(HEADER + b"1,a b\n")
    code = (
        "import sys\nfrom textmill.producer.readers import *\n"
        f"list(open_records([{str(path)!r}], ['text'], ReadOptions()))\n"
        "print([m for m in ('pyarrow', 'zstandard') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout.strip() == b"[]"


def test_a_file_with_only_carriage_returns_is_read_in_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "BLOCK_BYTES", 64)
    monkeypatch.setattr(streams, "MAX_LINE_BYTES", 1024)
    path = tmp_path / "in.csv"
    rows = b"".join(b"%d,text number %d\r" % (n, n) for n in range(200))
    path.write_bytes(b"n,text\r" + rows)
    assert texts(read(path)) == [f"text number {n}" for n in range(200)]
