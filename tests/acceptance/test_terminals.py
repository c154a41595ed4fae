"""What a person sees on a terminal while a job runs: at any width, resized, and without colours."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from textmill.producer.terminal import cell_width

from ..screens import styles
from ..servers import wait_until
from .conftest import FAKE, Shell
from .terminals import Terminal

RIGHT_TO_LEFT, WIDE = "مرحبا", "漢字"
DONE = ["ham", "ham", "ham", "spam", WIDE, RIGHT_TO_LEFT, "ham", "ham", "error 1", "error 2"]


class Held:
    """A job of two chunks whose second waits for a file, so that the first stays on the screen."""

    def __init__(self, shell: Shell) -> None:
        self.shell = shell
        self._gate = shell.folder / "gate"
        texts = shell.write("texts.txt", "\n".join([*DONE, f"wait {self._gate}"]))
        shell.start_worker("--slots", "1")
        self.id = shell.submit(texts, *FAKE)
        wait_until(lambda: len(shell.rows("results")) == 10, 60, what="with the first chunk done")

    def watch(self, **options: int | str) -> Terminal:
        columns = int(options.pop("columns", 80))
        variables = {name: str(value) for name, value in options.items()}
        return Terminal(self.shell, "watch", self.id, columns=columns, **variables)

    def let_go(self) -> None:
        self._gate.touch()


@pytest.fixture
def held(shell: Shell) -> Iterator[Held]:
    job = Held(shell)
    yield job
    job.let_go()


def _assert_fits(rows: list[str], held: Held, columns: int) -> None:
    """Title, bar, counts, labels with their shares, errors by reason and workers, each once."""
    text = "\n".join(rows)
    assert rows[0].startswith(f"{held.id}  texts.txt"), text
    assert re.fullmatch("━+─+  90.9 %", rows[1]), text
    gutter = 10 if columns > 60 else 8
    for name, row in (
        ("records", "10 of 11   "),
        ("tokens", "8 in"),
        ("labels", "H "),
        ("errors", "2 of 10, 20.0 %"),
        ("workers", f"{os.uname().nodename} cpu  "[: columns // 2 - 8]),
    ):
        assert [line for line in rows if line.startswith(f"{name:<{gutter}}{row}")], (name, text)
        assert text.count(f"\n{name} ") == 1, text
    assert re.search(r"H +█+ +5 +62.5 %", text), text
    assert re.search(r"runner_error  2  ValueError: ?[a-z …]*$", text, flags=re.MULTILINE), text
    assert re.search(r"seen \d+ s ago$", text, flags=re.MULTILINE), text
    assert max(map(cell_width, rows)) < columns


def test_what_is_shown_fits_at_every_width_also_when_it_changes(held: Held) -> None:
    with held.watch(columns=40) as a, held.watch(columns=80) as b, held.watch(columns=160) as c:
        for terminal in (a, b, c):
            rows = terminal.wait_for("Ctrl-C stops watching", "runner_error  2")
            _assert_fits(rows, held, terminal.screen.columns)
        for terminal, columns in ((c, 60), (b, 40), (a, 80)):
            terminal.resize(columns)
            bar = columns - 1 - len("  90.9 %")
            whole = "━" * (bar * 10 // 11) + "─" * (bar - bar * 10 // 11)
            rows = terminal.wait_for(f"{whole}  90.9 %", "Ctrl-C stops watching")
            _assert_fits(rows, held, columns)
        held.let_go()
        for terminal in (a, b, c):
            assert terminal.wait() == 3
            rows = terminal.rows()
            text = "\n".join(rows)
            assert text.startswith("completed with errors: 11 of 11 records"), text
            assert "Ctrl-C" not in text, "the block gives way to the summary"
            assert not set("━─█") & set(text), text
            commands = "".join(rows)  # they are for copying: the terminal wraps them
            assert f"next      textmill results {held.id} --label" in commands, text


def test_columns_stay_in_line_beside_wide_and_right_to_left_labels(held: Held) -> None:
    with held.watch() as terminal:
        rows = terminal.wait_for("runner_error")
        shares = {row.replace("\u200e", "").index(" %") for row in rows if "12.5 %" in row}
        # A wide character is one of a string and two cells of the screen.
        (wide,) = (row for row in rows if WIDE[0] in row)
        assert len(shares) == 2
        assert max(shares) - min(shares) == 1
        assert wide.index(" %") == min(shares)
        assert any(RIGHT_TO_LEFT[0] + "\u200e" in row for row in rows), "or it reverses its row"


def test_colours_are_used_only_where_they_are_wanted(held: Held) -> None:
    with (
        held.watch() as colored,
        held.watch(NO_COLOR="1") as plain,
        held.watch(TERM="dumb") as dumb,
    ):
        for terminal in (colored, plain):
            terminal.wait_for("Ctrl-C stops watching", "runner_error")
        dumb.wait_for("errors 2")
        assert "\x1b[31m" in styles(colored.output)
        assert "\x1b[" in plain.output, "it changes in place"
        assert styles(plain.output) == []
        assert "\x1b" not in dumb.output
        held.let_go()
        assert colored.wait() == plain.wait() == dumb.wait() == 3
        assert "\x1b" not in dumb.output


def test_a_terminal_without_unicode_gets_what_it_can_show(held: Held) -> None:
    with held.watch(PYTHONIOENCODING="ascii") as terminal:
        rows = terminal.wait_for("runner_error")
        assert re.fullmatch("=+-+  90.9 %", rows[1]), rows
        assert any(re.search(r"H +#+ +5 +62.5 %", row) for row in rows), rows
        shown = {row[10:14]: row.index(" %") for row in rows if "12.5 %" in row}
        assert shown.keys() == {"S   ", "?   ", "??  "}, rows
        assert len(set(shown.values())) == 1, "a character's place is taken by as many cells"
        held.let_go()
        assert terminal.wait() == 3
        assert "Traceback" not in terminal.output


def test_nothing_but_text_goes_into_a_pipe(held: Held) -> None:
    watching = held.shell.start("watch", held.id, log="watch.log")
    held.shell.wait_for_log("errors 2: runner_error 2", "watch.log")
    held.let_go()
    assert watching.wait(60) == 3
    log = held.shell.log("watch.log")
    assert re.search(r"^1 worker: \S+ cpu \(1 slot\)$", log, flags=re.MULTILINE), log
    assert re.search(r"^10 of 11 \(90.9 %\)  .*  H 5  .*  errors 2: ", log, flags=re.MULTILINE), log
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", log), log


def test_ctrl_c_leaves_what_was_shown_and_says_how_to_come_back(held: Held) -> None:
    with held.watch() as terminal:
        terminal.wait_for("Ctrl-C stops watching", "runner_error")
        terminal.type(b"\x03")
        assert terminal.wait() == 0
        rows = terminal.rows()
        assert rows[-1] == (
            f"no longer watching; the job goes on. Again: textmill watch {held.id}"
        ), rows
        _assert_fits(rows, held, 80)
        assert terminal.screen._wraps, "the terminal is left as it was"


def test_after_ctrl_z_and_fg_it_begins_below_what_the_shell_wrote(held: Held) -> None:
    with held.watch() as terminal:
        rows = terminal.wait_for("Ctrl-C stops watching", "runner_error")
        terminal.process.send_signal(signal.SIGSTOP)
        stopped = psutil.Process(terminal.process.pid)
        wait_until(lambda: stopped.status() == psutil.STATUS_STOPPED, what="stopped")
        rows = terminal.rows()
        terminal.write("$ fg\r\n")
        terminal.process.send_signal(signal.SIGCONT)
        wait_until(lambda: terminal.rows()[-1].startswith("Ctrl-C"), 30, what="painted again")
        again = terminal.rows()
        assert again[: len(rows) + 1] == [*rows, "$ fg"]
        _assert_fits(again[len(rows) + 1 :], held, 80)


def test_a_paused_job_has_no_rate_and_says_what_lets_it_go_on(held: Held) -> None:
    assert held.shell.run("pause", held.id).returncode == 0
    with held.watch() as terminal:
        rows = terminal.wait_for(
            f"paused: textmill resume {held.id}", "waiting   the job is paused"
        )
        text = "\n".join(rows)
        assert "/s" not in text
        assert "left" not in text


def test_run_shows_the_same_and_says_how_to_go_on(shell: Shell) -> None:
    gate = shell.folder / "gate"
    texts = shell.write("texts.txt", "\n".join([*DONE, f"wait {gate}"]))
    words: list[str | Path] = ["run", texts, *FAKE, "--devices", "cpu"]
    with Terminal(shell, *words) as terminal:
        rows = terminal.wait_for("runner_error  2", "Ctrl-C stops it; textmill run --resume")
        assert rows[0].startswith("job "), rows
        assert "texts.txt · fake · m" in rows[1], rows
        gate.touch()
        assert terminal.wait() == 3
        text = "\n".join(terminal.rows())
        assert "completed with errors: 11 of 11 records" in text, text
        assert "Ctrl-C" not in text, text
