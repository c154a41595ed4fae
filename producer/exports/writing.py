"""One export to its end: what can be wrong is found before any work, then the format writes."""

from __future__ import annotations

import gzip
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from textmill.core.errors import InvalidJobError
from textmill.db.jobs import check_not_purged
from textmill.producer.exports.atomic import new_file, new_folder
from textmill.producer.exports.export import Export
from textmill.producer.exports.registry import FORMATS, Format
from textmill.producer.terminal import data_output

SPREADSHEETS = ("csv", "tsv")
GZIP_LEVEL = 6
ZSTD_LEVEL = 3


def write_export(export: Export, out: Path | None, *, force: bool = False) -> int:
    """Write the export to ``out``, or to stdout, and return the number of its rows.

    Raises InvalidJobError for what cannot be meant, and for an ``out`` that exists unless
    ``force``; ServiceUnavailableError if the disk refuses. What lies under the final name is whole.
    """
    check_not_purged(export.job)
    if export.spreadsheet_safe and export.format not in SPREADSHEETS:
        raise InvalidJobError(
            f"--spreadsheet-safe is for {' and '.join(SPREADSHEETS)}; the format is {export.format}"
        )
    return cast(int, _write(FORMATS[export.format], export, out, force))


def _write(given: Format, export: Export, out: Path | None, force: bool) -> Any:
    module = given.load()
    if given.kind == "own":
        return module.write(export, out, force)
    if out is None:
        return module.write(export, _stdout(given))
    if given.kind == "folder":
        with new_folder(out, force=force, marks=module.MARKS) as folder:
            return module.write(export, folder)
    with new_file(out, force=force) as file, compressed(file, out) as sink:
        return module.write(export, sink)


def _stdout(given: Format) -> IO[bytes]:
    if given.kind == "binary" and sys.stdout.isatty():
        raise InvalidJobError(
            f"{given.name} is nothing for a terminal; pass --out FILE, or send stdout to a file"
        )
    return cast("IO[bytes]", data_output(json=given.name == "jsonl"))


@contextmanager
def compressed(file: IO[bytes], out: Path) -> Iterator[IO[bytes]]:
    """The file itself, or what compresses into it where the name ends in ``.gz`` or ``.zst``."""
    ending = out.suffix.lower()
    if ending == ".gz":
        # Without a name and a time in it: equal rows give equal files.
        with gzip.GzipFile("", "wb", GZIP_LEVEL, file, 0) as packed:
            yield cast("IO[bytes]", packed)
    elif ending == ".zst":
        import zstandard

        packer = zstandard.ZstdCompressor(level=ZSTD_LEVEL)
        with packer.stream_writer(file, closefd=False) as packed:
            yield cast("IO[bytes]", packed)
    else:
        yield file
