"""A terminal's screen, as far as Textmill asks for it: whatever else it is sent fails the test.

It wraps what is too wide, scrolls, and wraps its lines anew when it becomes narrower, as most
terminals do (tmux, and those of GNOME, KDE and macOS).
"""

from __future__ import annotations

import re

from textmill.producer.terminal import cell_width

_SEQUENCE = re.compile(r"\x1b\[(\??)(\d*(?:;\d+)*)([A-Za-z])")
_STYLE = re.compile(r"\x1b\[[0-9;]*m")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


class Screen:
    """What stands on it, and how it got there."""

    def __init__(self, columns: int, lines: int = 24) -> None:
        self.columns, self.lines = columns, lines
        self._rows: list[list[str]] = [[]]  # from the first ever; a wide character has two cells
        self._row = self._column = 0
        self._wraps = True
        self._left = ""  # the beginning of a sequence whose end has not come yet

    def feed(self, text: str) -> None:
        """Show what a program wrote; AssertionError at anything that it should not write."""
        text, self._left = self._left + text, ""
        at = 0
        while at < len(text):
            if text[at] != "\x1b":
                self._put(text[at])
                at += 1
                continue
            found = _SEQUENCE.match(text, at)
            if found is None:
                assert len(text) - at < 12, f"an unknown sequence: {text[at : at + 40]!r}"
                self._left = text[at:]
                return
            self._obey(found)
            at = found.end()

    def resize(self, columns: int, lines: int = 24) -> None:
        """Another size; rows that are too wide now are wrapped, and the cursor stays in its row."""
        rows: list[list[str]] = []
        cursor = 0
        for at, row in enumerate(self._rows):
            if at == self._row:
                cursor = len(rows)
            rows += [row[n : n + columns] for n in range(0, len(row), columns)] or [[]]
        self._rows, self._row, self._column = rows, cursor, min(self._column, columns - 1)
        self.columns, self.lines = columns, lines

    def text(self) -> list[str]:
        """The rows that can be seen, without what is empty at their ends."""
        seen = ["".join(row).rstrip() for row in self._rows[self._top :]]
        while seen and not seen[-1]:
            seen.pop()
        return seen

    @property
    def _top(self) -> int:
        return max(0, len(self._rows) - self.lines)

    def _put(self, character: str) -> None:
        if character == "\r":
            self._column = 0
            return
        if character == "\n":
            self._row += 1
            self._rows += [[] for _ in range(self._row + 1 - len(self._rows))]
            return
        if character == "\t":
            self._column = min(self._column // 8 * 8 + 8, self.columns - 1)
            return
        assert not _CONTROL.match(character), f"a control character: {character!r}"
        cells = cell_width(character)
        if not cells:  # it belongs to the one before
            before = self._rows[self._row][: self._column]
            self._rows[self._row][len(before) - 1 : len(before)] = [
                "".join([*before[-1:], character])
            ] * bool(before)
            return
        if self._column + cells > self.columns:
            if not self._wraps:
                return
            self._put("\r")
            self._put("\n")
        row = self._rows[self._row]
        row += [" "] * (self._column - len(row))
        row[self._column : self._column + cells] = [character, ""][:cells]
        self._column += cells

    def _obey(self, found: re.Match[str]) -> None:
        private, values, command = found.groups()
        if private:
            assert values == "7", f"an unknown mode: {found[0]!r}"
            self._wraps = command == "h"
        elif command == "A":
            self._row = max(self._top, self._row - int(values or 1))
        elif command == "K":
            assert not values
            del self._rows[self._row][self._column :]
        elif command == "J":
            assert not values
            del self._rows[self._row][self._column :]
            del self._rows[self._row + 1 :]
        else:
            assert command == "m", f"an unknown sequence: {found[0]!r}"


def styles(output: str) -> list[str]:
    """Every sequence in it that changes colour or weight."""
    return _STYLE.findall(output)
