"""What a person may say about an input, and what every kind of input offers the reader."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Protocol, Self

from textmill.core.errors import InputError
from textmill.core.jobs import BadRecord, Record
from textmill.core.tasks import nearest
from textmill.producer.readers.builder import RecordBuilder

OPENAI_BATCH = "openai-batch"
FORMATS = ("csv", "tsv", "jsonl", "parquet", "text", OPENAI_BATCH)
SAMPLE_ROWS = 100
"""So many rows decide which column can be the text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """How to read an input; raises InputError for values that cannot be meant."""

    columns: Mapping[str, str] = field(default_factory=dict)  # input field -> column that serves it
    id_column: str | None = None  # None: a record's id is its index
    format: str | None = None  # one of FORMATS; None: by the file's name
    delimiter: str | None = None  # None: "," for csv, tab for tsv
    quoting: Literal["minimal", "none"] = "minimal"  # none: quotes are ordinary characters
    header: bool = True  # False: columns are named column1, column2, …
    limit: int | None = None  # at most this many records, bad ones included
    skip_bad: bool = False  # a bad row becomes a BadRecord instead of an InputError

    def __post_init__(self) -> None:
        if self.format is not None and self.format not in FORMATS:
            raise InputError(
                f"unknown format {self.format!r}; expected one of: {', '.join(FORMATS)}"
                f"{nearest(self.format, FORMATS)}"
            )
        if self.quoting not in ("minimal", "none"):
            raise InputError(f"quoting is {self.quoting!r}; expected 'minimal' or 'none'")
        if self.limit is not None and self.limit < 1:
            raise InputError(f"limit is {self.limit}; expected 1 or more")
        delimiter = self.plain_delimiter(",")
        if self.delimiter == "" or len(delimiter) != 1 or delimiter in '\r\n"':
            raise InputError(
                f"delimiter is {self.delimiter!r}; expected one character, or \\t for a tab"
            )

    def plain_delimiter(self, default: str) -> str:
        """The delimiter as one character; a shell's ``'\\t'`` arrives as two."""
        return "\t" if self.delimiter == "\\t" else self.delimiter or default


class Source(Protocol):
    """One opened input: a file, stdin, or an iterable of objects."""

    name: str
    unit: str  # what its rows are counted in, for messages
    columns: tuple[str, ...]  # empty where nothing could be read yet

    def sample(self) -> Sequence[Mapping[str, Any]]:
        """Up to SAMPLE_ROWS good rows from the start; does not consume them."""

    def has_rows(self) -> bool:
        """Whether there is at least one row, good or bad, besides a header."""

    def records(
        self, builder: RecordBuilder, index: int
    ) -> Generator[Record | BadRecord, None, int]:
        """Yield records numbered from ``index`` and return the next index."""

    def close(self) -> None:
        """Close what was opened."""


class Records(Protocol):
    """The records of all inputs, once, as a submission reads them; a context manager."""

    @property
    def id_column(self) -> str | None:
        """The column of record ids that must differ; None if there is nothing to check."""

    @property
    def fields(self) -> Mapping[str, str]:
        """Input field of the task to the column that serves it."""

    @property
    def extra_columns(self) -> tuple[str, ...]:
        """The columns that are kept in ``Record.extra``."""

    def __iter__(self) -> Iterator[Record | BadRecord]:
        """All records, with indexes consecutive from 0; raises InputError."""

    def close(self) -> None:
        """Close the input that is open."""

    def __enter__(self) -> Self:
        """Nothing to do: it is open."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
