"""Plain text: one text a line."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from itertools import chain, islice

from textmill.core.jobs import BadRecord, Record
from textmill.core.storable import is_utf8
from textmill.producer.readers.builder import RecordBuilder
from textmill.producer.readers.options import SAMPLE_ROWS
from textmill.producer.readers.streams import ENCODING_HINT, Blocks, Lines

COLUMN = "text"


class TextSource:
    """One plain-text input; an empty line is a record with an empty text."""

    unit = "line"

    def __init__(self, blocks: Blocks) -> None:
        self._blocks = blocks
        self.name = blocks.name
        self.columns: tuple[str, ...] = (COLUMN,) if blocks.first else ()

    def close(self) -> None:
        self._blocks.close()

    def has_rows(self) -> bool:
        return bool(self._blocks.first)

    def sample(self) -> Sequence[Mapping[str, str]]:
        lines = Lines(self._blocks, newline="\n").decode(self._blocks.first)
        return [{COLUMN: line} for line in islice(lines, SAMPLE_ROWS)]

    def records(
        self, builder: RecordBuilder, index: int
    ) -> Generator[Record | BadRecord, None, int]:
        build, lines = builder.build, Lines(self._blocks, newline="\n")
        physical: Iterator[str] = chain.from_iterable(lines)
        for number, line in enumerate(physical, 1):
            if lines.suspect and not is_utf8(line):
                problem = "the line is not UTF-8"
                yield builder.bad(index, number, "bad_encoding", problem, hint=ENCODING_HINT)
            else:
                yield build(index, number, {COLUMN: line.rstrip("\r\n")})
            index += 1
        return index
