"""A block of lines at the bottom of a terminal that changes in place, also when it is resized."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TextIO

from textmill.core.printable import printable
from textmill.producer.terminal import cell_width

Span = tuple[str, str]  # what it says, and the name of its style
Line = list[Span]

# Of the sixteen colours, which a person chooses for their terminal.
STYLES = {"strong": "1", "faint": "2", "good": "32", "bad": "31", "warn": "33", "bar": "36"}
SIZE = (80, 24)  # of a terminal that does not say

# What stands for our own characters where the terminal's encoding has none of them.
PLAIN = str.maketrans("━─█▉▊▋▌▍▎▏…–·", "=-########.--")

# While a block is painted, a line that is wider than it was taken for is cut and not wrapped.
CUT, WRAP = "\x1b[?7l", "\x1b[?7h"
TO_LINE_END, BELOW = "\x1b[K", "\x1b[J"


class Painter:
    """Paints over what it painted last; nothing else may be written meanwhile.

    The cursor stays below the block and is never hidden, so that a process that is killed leaves
    a terminal in order.
    """

    def __init__(self, file: TextIO, *, colors: bool) -> None:
        self._file = file
        self._colors = colors
        self._widths: list[int] = []  # of the lines that stand there
        self._painted: tuple[object, ...] = ()

    def size(self) -> tuple[int, int]:
        """Columns and rows now."""
        try:
            size = os.get_terminal_size(self._file.fileno())
        except (OSError, ValueError):
            return SIZE
        return size.columns or SIZE[0], size.lines or SIZE[1]

    def paint(self, lines: Sequence[Line]) -> None:
        """Put these lines where the last ones are; writes nothing if they stand there already."""
        columns, _ = self.size()
        painting = (columns, [list(line) for line in lines])
        if painting == self._painted:
            return
        rows = "".join(f"{self._styled(line)}{TO_LINE_END}\n" for line in lines)
        self._write(f"{self._to_start(columns)}{CUT}{rows}{BELOW}{WRAP}")
        self._widths = [sum(cell_width(text) for text, _ in line) for line in lines]
        self._painted = painting

    def clear(self) -> None:
        """Take the block away, so that others may write where it stood."""
        if self._widths:
            self._write(self._to_start(self.size()[0]) + BELOW)
        self.forget()

    def forget(self) -> None:
        """Leave the block as it stands; the next one begins where the cursor is."""
        self._widths, self._painted = [], ()

    def _to_start(self, columns: int) -> str:
        """To the block's first row; a terminal that became narrower has wrapped its lines."""
        rows = sum(max(1, -(-width // columns)) for width in self._widths)
        return f"\r\x1b[{rows}A" if rows else "\r"

    def _styled(self, line: Line) -> str:
        return "".join(self._colored(self._shown(text), style) for text, style in line)

    def _colored(self, text: str, style: str) -> str:
        code = STYLES.get(style)
        return f"\x1b[{code}m{text}\x1b[0m" if code and self._colors else text

    def _shown(self, text: str) -> str:
        """One line of what the terminal can show."""
        line = printable(text).replace("\n", " ").replace("\t", " ")
        encoding = self._file.encoding or "utf-8"
        if encoding.lower().replace("-", "").startswith("utf"):
            return line
        plain = line.translate(PLAIN)
        return "".join(one if _encodable(one, encoding) else "?" * cell_width(one) for one in plain)

    def _write(self, text: str) -> None:
        self._file.write(text)
        self._file.flush()


def _encodable(character: str, encoding: str) -> bool:
    try:
        character.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True
