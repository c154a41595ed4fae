"""Foreign text on its way to a terminal: what is neutralised, and how wide what is left is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from textmill.core.printable import printable, printable_event, printable_json
from textmill.producer import terminal
from textmill.producer.terminal import cell_width, cut, roughly, shorten, table

from ..screens import Screen

ANY_TEXT = st.text(st.characters(exclude_categories=()))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b31mred \x85 \x7f", r"\x9b31mred \x85 \x7f"),
        ("over\rwritten\b\b", r"over\x0dwritten\x08\x08"),
        ("\ud800", r"\ud800"),
        ("user \u202etxt.exe\u2066", "user txt.exe"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("Straße 漢字 مرحبا שלום\u200f 👨‍👩‍👧", "Straße 漢字 مرحبا שלום\u200f 👨‍👩‍👧"),
    ],
    ids=repr,
)
def test_what_controls_a_terminal_is_shown_and_not_sent(text: str, shown: str) -> None:
    assert printable(text) == shown


@settings(deadline=None)
@given(ANY_TEXT)
def test_no_text_controls_a_terminal(text: str) -> None:
    screen = Screen(columns=10**6)
    screen.feed(printable(text).replace("\t", " "))  # the screen fails at what controls it
    line = shorten(text, 30)
    screen.feed(line)
    assert cell_width(line) <= 30
    assert "\n" not in line


@settings(deadline=None)
@given(ANY_TEXT)
def test_json_for_a_terminal_is_the_same_json(text: str) -> None:
    shown = printable_json(json.dumps({text: text}, ensure_ascii=False))
    Screen(columns=10**6).feed(shown)
    assert json.loads(shown) == {text: text}


def test_what_commands_say_and_answer_is_neutralised(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.say("to a person \x1b[31m")
    terminal.tell("what was asked \x9b31m")
    terminal.emit_json({"text": "\x1b\x9b"})
    out, err = capsys.readouterr()
    assert err == "to a person \\x1b[31m\n"
    assert out == 'what was asked \\x9b31m\n{"text":"\\u001b\\u009b"}\n'


def test_events_of_a_log_are_neutralised() -> None:
    event: dict[str, Any] = {"event": "no \x1b[2J", "reason": "\x9b2J", "records": 3}
    assert printable_event(None, "info", event) == {
        "event": r"no \x1b[2J",
        "reason": r"\x9b2J",
        "records": 3,
    }


@pytest.mark.parametrize(
    ("text", "width", "short"),
    [
        ("  a  b\n c ", 20, "a b c"),
        ("abcdef", 6, "abcdef"),
        ("abcdefg", 6, "abcde…"),
        ("漢字漢字", 8, "漢字漢字"),
        ("漢字漢字", 7, "漢字漢…"),
        ("漢字漢字", 6, "漢字…"),
        ("مرحبا", 6, "مرحبا\u200e"),
        ("مرحبا بالعالم", 6, "مرحبا…\u200e"),
        ("x" * 10**7, 5, "xxxx…"),
        ("", 5, ""),
        ("abc", 0, "…"),
    ],
)
def test_a_text_is_cut_to_cells(text: str, width: int, short: str) -> None:
    assert shorten(text, width) == short


def test_cut_leaves_the_spaces_that_align_a_row() -> None:
    assert cut("a    b    c", 9) == "a    b…"
    assert cut("a    b", 6) == "a    b"


def test_columns_of_a_table_are_aligned_by_cells() -> None:
    rows = [["漢字漢字", "1"], ["abc", "12,345"]]
    assert table(["label", "records"], rows, right="records").splitlines() == [
        "label     records",
        "漢字漢字        1",
        "abc        12,345",
    ]


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.2, "0 s"),
        (59.4, "59 s"),
        (64, "1 min 0 s"),
        (599, "10 min 0 s"),
        (601, "10 min"),
        (3599, "1 h 0 min"),
        (47 * 3600, "47 h 0 min"),
        (49 * 3600, "2 days"),
    ],
)
def test_a_time_left_is_told_roughly(seconds: float, shown: str) -> None:
    assert roughly(seconds) == shown


def test_the_width_is_the_terminals_else_what_columns_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "")
    assert terminal.terminal_columns() == terminal.PIPED_COLUMNS
    monkeypatch.setenv("COLUMNS", "123")
    assert terminal.terminal_columns() == 123
