"""How a watched job looks on a terminal of a given size: which lines, and what goes where."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from textmill.producer.moment import Moment, model_name
from textmill.producer.painter import Line
from textmill.producer.terminal import (
    cell_width,
    cut,
    number,
    pad,
    plural,
    roughly,
    share,
    shorten,
)

WIDE = 60  # columns from which there is room for the words that can be left out
GUTTER = {True: 10, False: 8}  # the column of names, on a wide terminal or a narrow one
AIRY_ROWS = 20  # from which there is room for empty lines
GAP = "  "
MAX_NAME, MAX_BAR, MIN_BAR = 40, 40, 4
WAITING_LINES = 3
LATE_SECONDS = 15.0  # of a worker that reports every ten
EIGHTHS = " ▏▎▍▌▋▊▉"


@dataclass(frozen=True, slots=True)
class Section:
    """Rows under one name; ``rows(n)`` makes the first n of its ``count``."""

    name: str
    count: int
    rows: Callable[[int], list[Line]]


def lay_out(moment: Moment, columns: int, rows: int, hint: str = "") -> list[Line]:
    """The lines of a job that is watched, as many and as wide as fit."""
    width = max(1, columns - 1)  # a full line makes some terminals wrap
    gutter = GUTTER[width >= WIDE]
    room = max(1, width - gutter)
    head = [_title(moment), _bar(moment, width)]
    fixed = [_progress(moment, room), _tokens(moment, room)]
    grown = [_labels(moment, room), _errors(moment, room), _workers(moment, room)]
    tail = _waiting(moment, room)
    taken = len(head) + sum(section.count for section in [*fixed, tail]) + bool(hint)
    airy = rows >= AIRY_ROWS
    free = max(0, rows - 1 - taken - 2 * airy)
    given = share_out([section.count for section in grown], free)
    lines = head + [[]] * airy
    for section in fixed:
        lines += _named(section, section.count, gutter)
    for section, count in zip(grown, given, strict=True):
        lines += _named(section, count, gutter)
    lines += _named(tail, tail.count, gutter)
    if hint:
        lines += [[]] * airy + [[(hint, "faint")]]
    return [_cut(line, width) for line in lines[: max(1, rows - 1)]]


def share_out(wanted: Sequence[int], free: int) -> list[int]:
    """Give rows in turn, one to each that still wants one, until none is free."""
    given = [0] * len(wanted)
    while free > 0 and given != list(wanted):
        for at, want in enumerate(wanted):
            if given[at] < want and free > 0:
                given[at] += 1
                free -= 1
    return given


def _named(section: Section, given: int, gutter: int) -> list[Line]:
    """The section's name beside its first row; what has no room is counted in the last one."""
    if given < 1:
        return []
    hidden = section.count - given
    rows = section.rows(given - (hidden > 0 and given > 1))
    if len(rows) < given:
        rows.append([(f"… {number(section.count - len(rows))} more", "faint")])
    names = [section.name, *[""] * (len(rows) - 1)]
    return [[(pad(name, gutter), "faint"), *row] for name, row in zip(names, rows, strict=True)]


def _title(moment: Moment) -> Line:
    job = moment.summary.job
    about = [shorten(job.name or "", MAX_NAME), job.task, shorten(model_name(job.model), MAX_NAME)]
    rest = " · ".join(part for part in about if part)
    return [(job.id, "strong"), (GAP + rest, "")]


def _bar(moment: Moment, width: int) -> Line:
    summary = moment.summary
    total = summary.job.total_records or 1
    percent = moment.percent
    cells = width - cell_width(percent) - len(GAP)
    done = cells * summary.processed // total
    bad = min(done, -(-cells * summary.job.error_records // total))
    spans = [("━" * (done - bad), "bar"), ("━" * bad, "bad"), ("─" * (cells - done), "faint")]
    return [*spans, (GAP + percent, "strong")]


def _progress(moment: Moment, room: int) -> Section:
    summary = moment.summary
    pieces = [f"{number(summary.processed)} of {number(summary.job.total_records)}"]
    pieces += moment.speed()
    if summary.job.started_at is not None:
        pieces.append(f"began {roughly(max(0.0, summary.read_at - summary.job.started_at))} ago")
    return _flow("records", pieces, room)


def _tokens(moment: Moment, room: int) -> Section:
    job, pace = moment.summary.job, moment.pace
    pieces = []
    for tokens, rate, way in (
        (job.input_tokens, pace.input_tokens_per_second, "in"),
        (job.output_tokens, pace.output_tokens_per_second, "out"),
    ):
        if tokens:
            pieces.append(f"{number(tokens)} {way}" + (f", {number(rate)}/s" if rate else ""))
    return _flow("tokens", pieces, room)


def _flow(name: str, pieces: Sequence[str], room: int) -> Section:
    """Pieces side by side, in as many rows as they need."""
    rows: list[str] = []
    for piece in pieces:
        if rows and cell_width(rows[-1]) + 3 + cell_width(piece) <= room:
            rows[-1] += "   " + piece
        else:
            rows.append(piece)
    return Section(name, len(rows), lambda count: [[(row, "")] for row in rows[:count]])


def _labels(moment: Moment, room: int) -> Section:
    labels, total = moment.summary.labels, moment.summary.job.done_records

    def rows(count: int) -> list[Line]:
        shown = labels[:count]
        names = _column([one.label for one in shown], min(MAX_NAME, room // 3))
        numbers = _column([number(one.records) for one in shown], room, right=True)
        shares = _column([share(one.records, total) for one in shown], room, right=True)
        used = sum(max(map(cell_width, cells)) + len(GAP) for cells in (names, numbers, shares))
        most = max(one.records for one in shown)
        bars = [_share_bar(one.records, most, room - used) for one in shown]
        return [
            [(name + GAP, ""), (bar, "bar"), (f"{records}{GAP}{part}", "")]
            for name, bar, records, part in zip(names, bars, numbers, shares, strict=True)
        ]

    return Section("labels", len(labels), rows)


def _share_bar(part: int, most: int, room: int) -> str:
    """A bar as long as its part of the most frequent label; at least a trace of anything."""
    cells = min(MAX_BAR, room)
    if cells < MIN_BAR:
        return ""
    whole, eighths = divmod(max(1, 8 * cells * part // most), 8)
    return pad("█" * whole + EIGHTHS[eighths].strip(), cells) + GAP


def _errors(moment: Moment, room: int) -> Section:
    job, errors = moment.summary.job, moment.summary.errors
    if not job.error_records:
        return Section("errors", 0, lambda count: [])
    rate = share(job.error_records, moment.summary.processed)
    total = f"{number(job.error_records)} of {number(moment.summary.processed)}, {rate}"

    def rows(count: int) -> list[Line]:
        shown = errors[: count - 1]
        codes = _column([code for code, _, _ in shown], room // 2)
        numbers = _column([number(records) for _, records, _ in shown], room, right=True)
        found: list[Line] = [[(total, "bad")]]
        for code, records, (_, _, example) in zip(codes, numbers, shown, strict=True):
            head = f"{code}{GAP}{records}{GAP}"
            left = room - cell_width(head)
            found.append([(head, ""), (shorten(example or "", left) if left > 7 else "", "faint")])
        return found

    return Section("errors", 1 + len(errors), rows)


def _workers(moment: Moment, room: int) -> Section:
    workers = moment.summary.workers

    def rows(count: int) -> list[Line]:
        shown = workers[:count]
        places = _column([f"{one.host} {one.device}" for one in shown], room // 2 - 2)
        slots = _column([plural(one.slots, "slot") for one in shown], room)
        models = [", ".join(map(model_name, one.models)) or "–" for one in shown]
        seen = [f"seen {roughly(max(0.0, one.age))} ago" for one in shown]
        wide = room >= WIDE - GUTTER[True]
        used = max(map(cell_width, places)) + max(map(cell_width, seen)) + 2 * len(GAP)
        used += (max(map(cell_width, slots)) + len(GAP)) * wide
        models = _column(models, min(MAX_NAME, room - used))
        return [
            [
                (place + GAP + (slot + GAP if wide else "") + model + GAP, ""),
                (age, "warn" if worker.age > LATE_SECONDS else "faint"),
            ]
            for place, slot, model, age, worker in zip(
                places, slots, models, seen, shown, strict=True
            )
        ]

    return Section("workers", len(workers), rows)


def _column(cells: Sequence[str], most: int, *, right: bool = False) -> list[str]:
    """Cells of one width, as wide as the widest, ``most`` at most."""
    cut = [shorten(cell, max(1, most)) for cell in cells]
    width = max(map(cell_width, cut), default=0)
    return [pad(cell, width, right=right) for cell in cut]


def _waiting(moment: Moment, room: int) -> Section:
    text = shorten(moment.waiting.text, WAITING_LINES * room) if moment.waiting else ""
    lines = textwrap.wrap(text, room)[:WAITING_LINES]
    return Section("waiting", len(lines), lambda count: [[(line, "warn")] for line in lines])


def _cut(line: Line, width: int) -> Line:
    """The line without what is beyond this width."""
    kept: Line = []
    for text, style in line:
        kept.append((cut(text, width) if width > 0 else "", style))
        width -= cell_width(text)
    return kept
