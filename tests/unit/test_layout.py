"""What a person sees of a watched job in a terminal of a given size."""

from __future__ import annotations

import re
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from textmill.db.queries import LabelCount
from textmill.producer.layout import lay_out, share_out
from textmill.producer.moment import Moment
from textmill.producer.painter import Line
from textmill.producer.rates import Pace
from textmill.producer.summary import Summary
from textmill.producer.terminal import cell_width
from textmill.producer.waiting import Reason

from ..screens import Screen
from .test_painter import WindowPainter

HINT = "Ctrl-C stops watching"
PACE = Pace(records_per_second=853.0, input_tokens_per_second=22100.0, seconds_left=3.5)


def moment(
    labels: dict[str, int] | None = None,
    errors: Iterable[tuple[str, int, str]] = (),
    workers: Iterable[tuple[str, str, list[str], float]] = (("box", "cuda:0", ["m"], 1.0),),
    *,
    pace: Pace = PACE,
    waiting: Reason | None = None,
    **job: Any,
) -> Moment:
    """A job of 1,000 records of which 400 have a row."""
    reasons, counts = list(errors), labels if labels is not None else {"ham": 300, "spam": 60}
    values = {
        "id": "06h0hkxfabcdefgh",
        "name": "mails.csv",
        "task": "classification",
        "model": "/models/spam-model",
        "queue": "default",
        "status": "running",
        "total_records": 1000,
        "done_records": 400 - sum(records for _, records, _ in reasons),
        "error_records": sum(records for _, records, _ in reasons),
        "input_tokens": 66560,
        "output_tokens": 0,
        "device_seconds": 2.0,
        "started_at": 1000.0,
        "created_at": 990.0,
    }
    names = ("host", "device", "models", "age")
    at_work = [SimpleNamespace(slots=4, **dict(zip(names, one, strict=True))) for one in workers]
    found = [LabelCount(label, records) for label, records in counts.items()]
    summary = Summary(SimpleNamespace(**values | job), found, reasons, at_work, 1012.0)
    return Moment(summary, pace, waiting=waiting)


def texts(lines: list[Line]) -> list[str]:
    return ["".join(text for text, _ in line).rstrip() for line in lines]


def shown(found: Moment, columns: int = 80, rows: int = 24) -> list[str]:
    return texts(lay_out(found, columns, rows, HINT))


def test_it_is_what_one_wants_to_look_at_for_an_hour() -> None:
    found = moment(
        {"ham": 300, "spam": 60},
        [("runner_error", 30, "ValueError: no"), ("too_long", 10, "it has 700 tokens; of 512")],
        [("gpu-1", "cuda:0", ["/models/spam-model"], 2.0), ("gpu-1", "cuda:1", [], 17.0)],
        waiting=Reason("work", "for 2 chunks in work: their texts take long"),
        output_tokens=12,
    )
    assert shown(found) == [
        "06h0hkxfabcdefgh  mails.csv · classification · spam-model",
        "━━━━━━━━━━━━━━━━━━━━━━━━━━━━───────────────────────────────────────────  40.0 %",
        "",
        "records   400 of 1,000   853 records/s   4 s left   began 12 s ago",
        "tokens    66,560 in, 22,100/s   12 out",
        "labels    ham   ████████████████████████████████████████  300  83.3 %",
        "          spam  ████████                                   60  16.7 %",
        "errors    40 of 400, 10.0 %",
        "          runner_error  30  ValueError: no",
        "          too_long      10  it has 700 tokens; of 512",
        "workers   gpu-1 cuda:0  4 slots  spam-model  seen 2 s ago",
        "          gpu-1 cuda:1  4 slots  –           seen 17 s ago",
        "waiting   for 2 chunks in work: their texts take long",
        "",
        HINT,
    ]


def test_in_forty_columns_less_is_said_of_the_same() -> None:
    errors = [("runner_error", 30, "ValueError: no such thing")]
    assert shown(moment(errors=errors), 40, 18) == [
        "06h0hkxfabcdefgh  mails.csv · classific…"[:38] + "…",
        "━━━━━━━━━━━━───────────────────  40.0 %",
        "records 400 of 1,000   853 records/s",
        "        4 s left   began 12 s ago",
        "tokens  66,560 in, 22,100/s",
        "labels  ham   ████████████  300  81.1 %",
        "        spam  ██▍            60  16.2 %",
        "errors  30 of 400, 7.5 %",
        "        runner_error  30  ValueError:…",
        "workers box cuda:0  m  seen 1 s ago",
        HINT,
    ]


def test_where_many_things_want_room_each_gets_some_and_says_how_much_there_is() -> None:
    found = moment(
        {f"label-{n:04}": 10000 - n for n in range(10000)},
        [(f"code_{n}", 2, "why") for n in range(50)],
        [(f"gpu-{n}", "cuda:0", ["m"], 1.0) for n in range(64)],
    )
    rows = shown(found)
    assert len(rows) == 23
    assert rows[5].startswith("labels    label-0000  █")
    assert [row.strip() for row in rows if "more" in row] == [
        "… 9,995 more",
        "… 47 more",
        "… 60 more",
    ]
    assert sum("code_" in row for row in rows) == 3
    assert sum("gpu-" in row for row in rows) == 4
    assert shown(found, 80, 200)[-1] == HINT
    assert "… 9,9" in "\n".join(shown(found, 80, 200))


def test_a_label_that_is_too_long_is_cut_and_leaves_the_rest_in_line() -> None:
    rows = shown(moment({"x" * 5000: 9, "b": 3, "漢" * 100: 1}))
    long, short, wide = (row for row in rows if " %" in row and "█" in row)
    assert long.startswith("labels    " + "x" * 22 + "…  ████")
    assert len({cell_width(row) for row in (long, short, wide)}) == 1


def test_bars_are_parts_of_the_most_frequent_label() -> None:
    rows = shown(moment({"all": 400, "half": 200, "trace": 1}))
    bars = [re.sub("[^█▏▎▍▌▋▊▉]", "", row) for row in rows if re.search(r"\d  +\d*\.\d %$", row)]
    assert bars == ["█" * 40, "█" * 20, "▏"]


def test_errors_whose_reasons_are_not_counted_yet_are_told_at_once() -> None:
    rows = shown(moment(error_records=7))
    assert "errors    7 of 407, 1.7 %" in rows
    assert not any("error" in row for row in rows[rows.index("errors    7 of 407, 1.7 %") + 1 :])


@pytest.mark.parametrize(
    ("job", "pace", "workers", "said"),
    [
        ({"status": "loading"}, Pace(), 1, "records are being loaded"),
        ({"status": "paused"}, Pace(), 1, "paused: textmill resume 06h0hkxfabcdefgh"),
        ({"queue": "gpu"}, Pace(), 0, "no live worker for queue 'gpu'"),
        ({"status": "queued"}, Pace(), 1, "queued"),
        ({"device_seconds": 0.0}, Pace(), 1, "loading the model"),
        ({"device_seconds": 0.0, "model": "m"}, Pace(), 1, "the first chunks are in work"),
        ({}, Pace(), 1, "measuring the rate"),
        ({}, Pace(0.1, still_seconds=64.0), 1, "nothing new for 1 min 0 s"),
        ({}, Pace(2.5), 1, "2.5 records/s"),
        ({}, Pace(2.5, seconds_left=7200.0), 1, "2.5 records/s   2 h 0 min left"),
    ],
)
def test_beside_the_counts_stands_how_fast_it_goes_or_why_not(
    job: dict[str, Any], pace: Pace, workers: int, said: str
) -> None:
    found = moment(workers=[("box", "cpu", ["m"], 1.0)] * workers, pace=pace, **job)
    rows = " ".join(shown(found))
    assert f"records   400 of 1,000   {said}  " in rows
    assert "began 12 s ago" in rows


def test_it_is_at_a_hundred_percent_when_all_is_done_and_no_sooner() -> None:
    assert moment(total_records=10**6, done_records=999_999).percent == "99.9 %"
    assert moment(total_records=400, done_records=400).percent == "100.0 %"
    assert moment(total_records=0, done_records=0).percent == "–"


def test_the_part_of_errors_is_seen_in_the_bar() -> None:
    line = lay_out(moment(errors=[("code", 1, "why")]), 80, 24)[1]
    assert [(len(text), style) for text, style in line[:3]] == [
        (27, "bar"),
        (1, "bad"),
        (43, "faint"),
    ]


def test_rows_are_shared_out_in_turn() -> None:
    assert share_out([9, 2, 5], 12) == [5, 2, 5]
    assert share_out([9, 2, 5], 2) == [1, 1, 0]
    assert share_out([1, 1, 1], 100) == [1, 1, 1]
    assert share_out([3, 3], 0) == [0, 0]


HOSTILE = st.text(st.characters(exclude_categories=()), max_size=40)
WORKERS = st.tuples(HOSTILE, HOSTILE, st.lists(HOSTILE, max_size=2), st.floats(0, 30))


@settings(deadline=None)
@given(
    st.dictionaries(HOSTILE, st.integers(1, 10**9), max_size=8),
    st.lists(st.tuples(HOSTILE, st.integers(1, 10**6), HOSTILE), max_size=4),
    st.lists(WORKERS, max_size=3),
    HOSTILE,
    st.integers(2, 200),
    st.integers(2, 60),
)
def test_whatever_it_is_given_it_fits_and_is_only_text(
    labels: dict[str, int],
    errors: list[tuple[str, int, str]],
    workers: list[tuple[str, str, list[str], float]],
    name: str,
    columns: int,
    rows: int,
) -> None:
    found = moment(
        labels, errors, workers, waiting=Reason("work", name), name=name, done_records=400
    )
    lines = lay_out(found, columns, rows, HINT)
    assert len(lines) < rows
    assert max(sum(cell_width(text) for text, _ in line) for line in lines) < columns
    WindowPainter(Screen(columns, rows), colors=True).paint(lines)  # it fails at what is no text
