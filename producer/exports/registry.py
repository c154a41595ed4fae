"""The formats: what each is called, which file names ask for it, and the module that writes it.

A module is imported when its format is written. What it has to have is said at ``Kind``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from textmill.core.errors import InvalidJobError
from textmill.core.tasks import nearest

Kind = Literal["text", "binary", "folder", "own"]
"""What a format's ``write`` is given, beside the Export; it returns the number of rows.

text    write(export, file): an open binary file, or stdout; may be compressed on its way
binary  write(export, file): the same, but never compressed, and not for a terminal
folder  write(export, folder): an empty folder, which takes its name afterwards; its files are
        written with ``atomic.durable_file``. ``MARKS`` are the names of files by which a folder is
        recognised as one of this format, which may be replaced
own     write(export, out, force): makes its files itself, with ``atomic.new_file``
"""

COMPRESSIONS = (".gz", ".zst")


@dataclass(frozen=True, slots=True)
class Format:
    """One format that results can be written in."""

    name: str
    endings: tuple[str, ...]  # of file names that ask for it
    module: str  # in this package
    kind: Kind

    def load(self) -> Any:
        """The module that writes it."""
        return import_module(f"textmill.producer.exports.{self.module}")


FORMATS = {
    one.name: one
    for one in (
        Format("csv", (".csv",), "delimited", "text"),
        Format("tsv", (".tsv", ".tab"), "delimited", "text"),
        Format("jsonl", (".jsonl", ".ndjson"), "jsonl", "text"),
        Format("parquet", (".parquet", ".pq"), "parquet", "binary"),
        Format("arrow", (".arrow", ".feather"), "arrow", "binary"),
        Format("datasets", (), "datasets_folder", "folder"),
    )
}


def find_format(name: str | None, out: Path | None) -> Format:
    """The format of this name, or else the one that the file's name asks for.

    Raises InvalidJobError where there is none, or where it cannot be written there.
    """
    found = _by_ending(out) if name is None and out is not None else _by_name(name or "jsonl")
    if out is None and found.kind == "folder":
        raise InvalidJobError(f"--format {found.name} makes a folder; name it with --out FOLDER")
    is_packed = found.kind in ("binary", "folder")
    if out is not None and is_packed and out.suffix.lower() in COMPRESSIONS:
        raise InvalidJobError(
            f"{out.name!r} would be compressed from outside, which is for {_listed(_texts())}; "
            f"leave {out.suffix} out"
        )
    return found


def _by_name(name: str) -> Format:
    if name not in FORMATS:
        raise InvalidJobError(
            f"format {name!r} is unknown; expected {', '.join(FORMATS)}{nearest(name, FORMATS)}"
        )
    return FORMATS[name]


def _by_ending(out: Path) -> Format:
    suffixes = [suffix.lower() for suffix in out.suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    ending = suffixes[-1] if suffixes else ""
    for one in FORMATS.values():
        if ending in one.endings:
            return one
    endings = [ending for one in FORMATS.values() for ending in one.endings]
    raise InvalidJobError(
        f"{out.name!r} names no known format; expected one of {_listed(endings)} "
        f"({' or '.join(COMPRESSIONS)} may follow that of a text), or pass --format"
    )


def _texts() -> Iterable[str]:
    return [one.name for one in FORMATS.values() if one.kind == "text"]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
