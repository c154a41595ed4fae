"""Which format an input has, and opening it as that."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from textmill.core.errors import InputError
from textmill.producer.readers.jsonl import JsonLinesSource
from textmill.producer.readers.options import FORMATS, OPENAI_BATCH, ReadOptions, Source
from textmill.producer.readers.parquet import ParquetSource
from textmill.producer.readers.streams import STDIN, Blocks, open_bytes
from textmill.producer.readers.tables import TableSource
from textmill.producer.readers.textlines import TextSource

SUFFIXES = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".txt": "text",
}
COMPRESSIONS = (".gz", ".zst")
_OTHER = {
    ".json": "one JSON value is not read as a stream; convert it: jq -c '.[]' OLD > NEW.jsonl",
    ".xlsx": "save the sheet as CSV",
    ".zip": "unpack it",
    ".bz2": "expected .gz or .zst; unpack it",
    ".xz": "expected .gz or .zst; unpack it",
}


def format_of(path: str | Path, options: ReadOptions) -> str | None:
    """The format as asked or by the file's name; None for stdin, which is told by its content."""
    if options.format is not None:
        return options.format
    if str(path) == STDIN:
        return None
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    suffix = suffixes[-1] if suffixes else ""
    if suffix in SUFFIXES:
        return SUFFIXES[suffix]
    if Path(path).is_dir() or not Path(path).exists():
        open_bytes(path)  # says so
    raise InputError(
        f"{path}: its format cannot be told by its name; "
        f"{_OTHER.get(suffix, 'pass --format ' + '|'.join(FORMATS))}"
    )


def check_one_family(inputs: Sequence[str | Path], options: ReadOptions) -> None:
    """Raise InputError unless all inputs can be read as one job's."""
    if not inputs:
        raise InputError("no input was given; expected a file, or - for stdin")
    if [str(path) for path in inputs].count(STDIN) > 1:
        raise InputError("stdin (-) was given twice; it can be read once")
    first = format_of(inputs[0], options)
    for path in inputs[1:]:
        kind = format_of(path, options)
        if first and kind and _family(kind) != _family(first):
            raise InputError(
                f"{path}: is {kind}, but {inputs[0]} is {first}; "
                "expected one format, so submit two jobs or convert one"
            )


def _family(kind: str) -> str:
    return "csv" if kind == "tsv" else kind


def open_source(path: str | Path, options: ReadOptions) -> Source:
    """Open one input; raises InputError where it cannot be read as its format."""
    kind = format_of(path, options)
    if kind == "parquet":
        return ParquetSource(path)
    if kind == OPENAI_BATCH:
        kind = "jsonl"
    blocks = Blocks(path, lone_cr_ends_line=kind in ("csv", "tsv"))
    if kind is None:
        kind = "jsonl" if blocks.first.lstrip()[:1] == b"{" else "text"
        if kind == "text" and (options.columns or options.id_column):
            blocks.close()
            raise InputError(
                f"{blocks.name}: columns are named, but its format cannot be told; "
                "pass --format csv, tsv or jsonl"
            )
    try:
        if kind == "jsonl":
            return JsonLinesSource(blocks)
        if kind == "text":
            return TextSource(blocks)
        return TableSource(blocks, kind, options)
    except InputError:
        blocks.close()
        raise
