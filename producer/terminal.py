"""How commands talk: data on stdout, everything else on stderr, numbers as people write them."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Collection, Sequence
from typing import Any

# Other people's texts may hold what moves the cursor, turns the line round, or is no character.
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def say(message: str = "") -> None:
    """One line for the person, on stderr."""
    print(message, file=sys.stderr, flush=True)


def emit_json(value: Any) -> None:
    """One JSON document on one line of stdout."""
    import orjson

    options = orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_DATACLASS
    sys.stdout.write(orjson.dumps(value, option=options).decode())
    sys.stdout.flush()


def table(
    headers: Sequence[str], rows: Sequence[Sequence[str]], *, right: str | Collection[str] = ""
) -> str:
    """Plain aligned columns; ``right`` names the headers whose cells align right, also by comma."""
    to_right = set(right.split(",") if isinstance(right, str) else right)
    widths = [
        max([len(header), *(len(row[at]) for row in rows)]) for at, header in enumerate(headers)
    ]

    def line(cells: Sequence[str]) -> str:
        aligned = (
            cell.rjust(width) if header in to_right else cell.ljust(width)
            for cell, width, header in zip(cells, widths, headers, strict=True)
        )
        return "  ".join(aligned).rstrip()

    return "\n".join(line(row) for row in [headers, *rows])


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


def ago(timestamp: float | None) -> str:
    """How long ago a moment was, by this machine's clock; for people only."""
    return "–" if timestamp is None else f"{duration(max(0.0, time.time() - timestamp))} ago"


def shorten(text: str, width: int) -> str:
    """One line of at most ``width`` characters."""
    line = UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", " ".join(text.split()))
    return line if len(line) <= width else line[: max(1, width - 1)] + "…"
