"""The results of a job on the terminal: the columns that hold something, as wide as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from textmill.db.result_rows import Result
from textmill.producer.cli.result_options import NO_ROWS
from textmill.producer.terminal import (
    GAP,
    cell_width,
    plural,
    say,
    shorten,
    table,
    tell,
    terminal_columns,
)

VECTOR_BYTES = 4  # float32
MIN_WIDTH = 20  # of a column of texts, unless the line is too narrow for all columns


def print_results(rows: Iterable[Result]) -> int:
    """Print them as a table; returns how many there were."""
    found = list(rows)
    if not found:
        say(NO_ROWS)
        return 0
    free = terminal_columns()
    columns = {name: [shorten(cell(row), free) for row in found] for name, cell in COLUMNS.items()}
    filled = {name: cells for name, cells in columns.items() if any(cells)}
    free -= sum(_width(name, cells) for name, cells in filled.items() if name not in LONG)
    long = [name for name in filled if name in LONG]
    long.sort(key=lambda name: _width(name, filled[name]))  # of equal ones the first stays first
    for at, name in enumerate(long):  # what a narrow one does not need is left to the next
        width = max(MIN_WIDTH, free // (len(long) - at) - GAP)
        filled[name] = [shorten(cell, width) for cell in filled[name]]
        free -= _width(name, filled[name])
    lines = list(zip(*filled.values(), strict=True))
    tell(table(list(filled), lines, right="score", columns=terminal_columns()))
    return len(found)


def _width(name: str, cells: list[str]) -> int:
    return max(cell_width(cell) for cell in [name, *cells]) + GAP


def _what_was_read(row: Result) -> str:
    """The text; of a question and its context the question."""
    question = row.detail.get("question") if row.detail else None
    return question if isinstance(question, str) else row.text or ""


COLUMNS: dict[str, Callable[[Result], str]] = {
    "record": lambda row: shorten(row.record_id, 16),
    "label": lambda row: shorten(row.label or "", 16),
    "vector": lambda row: plural(len(row.vector) // VECTOR_BYTES, "number") if row.vector else "",
    "output": lambda row: row.output or "",
    "score": lambda row: "" if row.score is None else f"{row.score:.3f}",
    "error": lambda row: f"{row.error_code}: {row.error_message}" if row.error_code else "",
    "text": _what_was_read,
}
LONG = {"output", "error", "text"}  # they share what the others leave of a line
