"""How commands talk: data on stdout, everything else on stderr, numbers as people write them.

Everything that a command prints goes through here, and is neutralised on its way.
"""

from __future__ import annotations

import os
import sys
import time
import unicodedata
from collections.abc import Collection, Sequence
from typing import Any, TextIO

from textmill.core.printable import printable, printable_json

DUMB = ("", "dumb", "unknown")  # values of TERM for what cannot move its cursor
PIPED_COLUMNS = 100  # as wide as a table is where nobody can say how wide the terminal is
GAP = 2  # between columns of a table
LEFT_TO_RIGHT = "\u200e"  # a mark of no width


def say(message: str = "") -> None:
    """One line for the person, on stderr."""
    print(printable(message), file=sys.stderr, flush=True)


def tell(answer: str) -> None:
    """What the person asked for, on stdout."""
    print(printable(answer))


def emit_json(value: Any) -> None:
    """One JSON document on one line of stdout."""
    import orjson

    options = orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_DATACLASS
    sys.stdout.write(printable_json(orjson.dumps(value, option=options).decode()))
    sys.stdout.flush()


class _Shown:
    """Stdout for exported rows on a terminal; JSON stays equal, other formats are neutralised."""

    def __init__(self, file: TextIO, *, json: bool) -> None:
        self._file = file
        self._clean = printable_json if json else printable

    def write(self, data: Any) -> int:
        """Whole lines of UTF-8."""
        self._file.write(self._clean(bytes(data).decode("utf-8", "replace")))
        return len(data)

    def flush(self) -> None:
        self._file.flush()


def data_output(*, json: bool) -> Any:
    """Where the bytes of exported rows go without --out: untouched into a pipe or a file."""
    sys.stdout.flush()
    return _Shown(sys.stdout, json=json) if sys.stdout.isatty() else sys.stdout.buffer


def can_repaint(file: TextIO) -> bool:
    """True for a terminal that can write over what it shows."""
    return file.isatty() and os.environ.get("TERM", "") not in DUMB


def terminal_columns(file: TextIO | None = None) -> int:
    """How wide stdout's terminal (or another) is now; ``COLUMNS`` says it where there is none."""
    try:
        columns = os.get_terminal_size((file or sys.stdout).fileno()).columns
    except (OSError, ValueError):
        columns = 0
    given = os.environ.get("COLUMNS", "")
    return columns or (int(given) if given.isdigit() else 0) or PIPED_COLUMNS


def cell_width(text: str) -> int:
    """How many cells of a terminal a text takes: two for 漢, none for a combining mark."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def pad(text: str, width: int, *, right: bool = False) -> str:
    """The text filled with spaces to so many cells; ``right`` aligns it there."""
    spaces = " " * max(0, width - cell_width(text))
    return spaces + text if right else text + spaces


def table(
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: str | Collection[str] = "",
    columns: int | None = None,
    least: int = 2,
) -> str:
    """Plain aligned columns; ``right`` names the headers whose cells align right, also by comma.

    With ``columns`` it is so wide at most, as ``fit`` makes it.
    """
    to_right = set(right.split(",") if isinstance(right, str) else right)
    lines = [headers, *rows] if columns is None else fit([headers, *rows], columns, least)
    widths = [max(map(cell_width, cells)) for cells in zip(*lines, strict=True)]

    def line(cells: Sequence[str]) -> str:
        aligned = (
            pad(cell, width, right=header in to_right)
            for cell, width, header in zip(cells, widths, headers, strict=True)
        )
        return (" " * GAP).join(aligned).rstrip()

    return "\n".join(map(line, lines))


def fit(lines: Sequence[Sequence[str]], columns: int, least: int = 2) -> list[list[str]]:
    """The cells of a table that shall be so wide: the longest are shortened, to ``least`` or more.

    What narrow columns leave goes to the others; a table that fits stays as it is.
    """
    widths = [max(map(cell_width, cells)) for cells in zip(*lines, strict=True)]
    room = columns - GAP * (len(widths) - 1)
    if sum(widths) <= room:
        return [list(line) for line in lines]
    for at, width in enumerate(sorted(widths)):
        limit = max(least, room // (len(widths) - at))
        if width > limit:
            break
        room -= width
    return [[shorten(cell, limit) for cell in line] for line in lines]


def number(value: float) -> str:
    """``12,345``; one decimal below ten, two digits below one."""
    if value == int(value) or value >= 10:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def plural(count: int, name: str) -> str:
    """``1 chunk``, ``2,000 chunks``."""
    return f"{number(count)} {name}{'s' * (count != 1)}"


def share(part: float, whole: float) -> str:
    """``12.3 %``."""
    return f"{part / whole:.1%}".replace("%", " %") if whole else "–"


def duration(seconds: float | None) -> str:
    """``4.2 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def roughly(seconds: float) -> str:
    """A duration that changes seldom while one looks: ``42 s``, ``3 min 20 s``, ``42 min``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 600:
        minutes, rest = divmod(round(seconds, -1), 60)
        return f"{minutes:.0f} min {rest:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return plural(round(minutes / 1440), "day")


def ago(timestamp: float | None) -> str:
    """How long ago a moment was, by this machine's clock; for people only."""
    return "–" if timestamp is None else f"{duration(max(0.0, time.time() - timestamp))} ago"


def shorten(text: str, width: int) -> str:
    """One line of at most ``width`` cells, neutralised.

    A text written from right to left ends in a mark, or it would reverse the columns behind it.
    """
    head = text.lstrip()[: 50 * width + 200]  # texts may have megabytes
    line = printable(" ".join(head.split()))
    line = cut(line, width) if len(head) == len(text.lstrip()) else cut(line + "…", width)
    return line + LEFT_TO_RIGHT if _runs_left(line) else line


def cut(text: str, width: int) -> str:
    """The text's beginning, at most so many cells of it; an ellipsis says that there was more."""
    if cell_width(text) <= width:
        return text
    from rich.cells import split_text

    return split_text(text, max(0, width - 1))[0].rstrip() + "…"


def _runs_left(line: str) -> bool:
    return not line.isascii() and any(
        unicodedata.bidirectional(character) in ("R", "AL", "AN") for character in line
    )
