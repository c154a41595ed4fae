"""CSV and TSV: rows of cells under a header."""

from __future__ import annotations

import csv
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from textmill.core.errors import InputError
from textmill.core.jobs import BadRecord, Record
from textmill.core.storable import is_utf8
from textmill.producer.readers.builder import RecordBuilder
from textmill.producer.readers.options import SAMPLE_ROWS, ReadOptions
from textmill.producer.readers.streams import ENCODING_HINT, Blocks, Lines

if TYPE_CHECKING:
    from _csv import Reader as CsvReader

MAX_CELL_CHARACTERS = 16 * 1024 * 1024
"""A longer cell is a bad row. The csv module holds 4 bytes a character, so this is 64 MiB."""
DELIMITERS = {",": "','", ";": "';'", "\t": "'\\t'", "|": "'|'"}
QUOTE_HINT = "If quotes are ordinary characters in this file, pass --quoting none."


class HeldLines:
    """Physical lines, of which those of the current row are held and can be read again.

    One stray quote opens a cell that swallows every row up to the next quote; reading goes on at
    the line after the stray one, so that only its own row is lost.
    """

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._held: list[str] = []
        self._again: list[str] = []  # reversed: the next line is last

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._again.pop() if self._again else next(self._lines)
        self._held.append(line)
        return line

    def settle(self) -> None:
        """Forget the lines of a row that was read whole."""
        self._held.clear()

    def replay(self) -> int:
        """Give all held lines but the first again; returns how many."""
        again = self._held[1:]
        self._again.extend(reversed(again))
        self._held.clear()
        return len(again)


class TableSource:
    """One CSV or TSV input."""

    unit = "line"

    def __init__(self, blocks: Blocks, kind: str, options: ReadOptions) -> None:
        # The csv module knows only one limit for the whole process; it is raised, never lowered.
        csv.field_size_limit(max(csv.field_size_limit(), MAX_CELL_CHARACTERS))
        self._blocks = blocks
        self.name = blocks.name
        self._has_header = options.header
        self._dialect: dict[str, Any] = {
            "delimiter": options.plain_delimiter("\t" if kind == "tsv" else ","),
            "strict": True,
            "quoting": csv.QUOTE_NONE if options.quoting == "none" else csv.QUOTE_MINIMAL,
        }
        self.columns = self._read_columns(options)

    def close(self) -> None:
        self._blocks.close()

    def has_rows(self) -> bool:
        # A row that is broken is also a row.
        rows = self._first_rows()
        try:
            if self._has_header:
                next(rows, None)
            return next(rows, None) is not None
        except csv.Error:
            return True

    def sample(self) -> Sequence[Mapping[str, str]]:
        good: list[dict[str, str]] = []
        rows = islice(self._first_rows(), int(self._has_header), SAMPLE_ROWS)
        # The block may end inside a row; a bad row is reported when it is reached.
        with suppress(csv.Error):
            good.extend(
                dict(zip(self.columns, row, strict=True))
                for row in rows
                if len(row) == len(self.columns)
            )
        return good

    def records(
        self, builder: RecordBuilder, index: int
    ) -> Generator[Record | BadRecord, None, int]:
        width, build = len(self.columns), builder.row_builder(self.columns)
        lines = Lines(self._blocks, newline="")
        physical: Iterator[str] = chain.from_iterable(lines)
        held = HeldLines(physical) if builder.skip_bad else None
        reader = self._after_header(held or physical)
        if held is not None:
            held.settle()
        twice = 0  # lines that the csv module counted a second time
        line = reader.line_num + 1
        while True:
            try:
                for row in reader:
                    if held is not None:
                        held.settle()
                    if len(row) == width:
                        if lines.suspect and not is_utf8("".join(row)):
                            yield self._not_utf8(builder, index, line)
                        else:
                            yield build(index, line, row)
                        index += 1
                    elif row:  # an empty line is no row
                        yield self._ragged(builder, index, line, row)
                        index += 1
                    line = reader.line_num - twice + 1
                return index
            except csv.Error as error:
                yield self._broken(builder, index, line, error)
                index += 1
                if held is not None:
                    twice += held.replay()
                line = reader.line_num - twice + 1

    def _after_header(self, lines: Iterator[str]) -> CsvReader:
        reader = csv.reader(lines, **self._dialect)
        if self._has_header:
            next(filter(None, reader))
        return reader

    def _first_rows(self) -> Iterator[list[str]]:
        first = Lines(self._blocks, newline="").decode(self._blocks.first)
        return (row for row in csv.reader(first, **self._dialect) if row)

    def _read_columns(self, options: ReadOptions) -> tuple[str, ...]:
        try:
            row = next(self._first_rows(), None)
        except csv.Error as error:
            raise InputError(
                f"{self.name}, line 1: the first row cannot be read: {error}. {QUOTE_HINT}"
            ) from None
        if row is None:
            return ()
        if not options.header:
            return tuple(f"column{number}" for number in range(1, len(row) + 1))
        columns = tuple(cell.strip() or f"column{at}" for at, cell in enumerate(row, 1))
        self._check_header(columns, options)
        return columns

    def _check_header(self, columns: tuple[str, ...], options: ReadOptions) -> None:
        if not all(map(is_utf8, columns)):
            raise InputError(f"{self.name}, line 1: the header is not UTF-8. {ENCODING_HINT}")
        twice = next((name for name in columns if columns.count(name) > 1), None)
        if twice is not None:
            raise InputError(
                f"{self.name}, line 1: the column {twice!r} occurs twice; rename one of them"
            )
        used = self._dialect["delimiter"]
        if len(columns) > 1 or options.delimiter is not None:
            return
        for delimiter, shown in DELIMITERS.items():
            if delimiter != used and delimiter in columns[0]:
                raise InputError(
                    f"{self.name}, line 1: {columns[0]!r} is one column when cells are separated "
                    f"by {DELIMITERS[used]}. Pass --delimiter {shown}, "
                    f"or --delimiter {DELIMITERS[used]} if it is one column"
                )

    def _ragged(self, builder: RecordBuilder, index: int, line: int, row: list[str]) -> BadRecord:
        cells = "1 cell" if len(row) == 1 else f"{len(row)} cells"
        problem = f"the row has {cells}; expected {len(self.columns)}, one for each column"
        return builder.bad(index, line, "bad_row", problem, hint=self._quote_hint())

    def _not_utf8(self, builder: RecordBuilder, index: int, line: int) -> BadRecord:
        return builder.bad(index, line, "bad_encoding", "the row is not UTF-8", hint=ENCODING_HINT)

    def _broken(self, builder: RecordBuilder, index: int, line: int, error: csv.Error) -> BadRecord:
        problem = f"the row cannot be read: {_explained(error)}"
        return builder.bad(index, line, "bad_row", problem, hint=self._quote_hint())

    def _quote_hint(self) -> str:
        return QUOTE_HINT if self._dialect["quoting"] == csv.QUOTE_MINIMAL else ""


def _explained(error: csv.Error) -> str:
    text = str(error)
    if "unexpected end of data" in text:
        return "a quote is opened and never closed"
    if "expected after" in text:
        return "a closing quote is followed by more text; expected a delimiter or the line's end"
    if "field larger" in text:
        return f"a cell is over {MAX_CELL_CHARACTERS} characters, or its quote is never closed"
    return text
