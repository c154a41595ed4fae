"""Texts, labels, ids, names and messages full of escape sequences: no command lets one through."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ..servers import wait_until
from .conftest import FAKE, Shell
from .terminals import Terminal

# It sets the window's title, colours, clears the screen (in seven bits and in eight), goes up,
# rings, goes back to the line's start, and turns what follows around.
EVIL = "\x1b]0;owned\x07\x1b[31m\x1b[2J\x9b2J\x1b[9A\a\r\u202eevil"
SHOWN = r"\x1b]0;owned\x07\x1b[31m"


class Evil:
    """A job of which everything that a person can name is hostile."""

    def __init__(self, shell: Shell) -> None:
        self.shell = shell
        self.gate = shell.folder / "gate"
        texts = [EVIL, f"blame {EVIL}", *["ham"] * 8, f"wait {self.gate}"]
        records = [{"id": f"{EVIL}{n}", "text": text, EVIL: EVIL} for n, text in enumerate(texts)]
        lines = "".join(json.dumps(record) + "\n" for record in records)
        path = shell.write("\x1b[31mred.jsonl", lines)
        name = ["--name", EVIL, "--key", EVIL, "--id-column", "id"]
        model = ["--task", "fake", "--model", "m\x1b[31m"]
        self.submission: list[str | Path] = ["submit", path, *model, *name]
        self.id = ""

    def run(self) -> None:
        """Submit it; its first chunk is done, the second waits."""
        self.shell.start_worker("--slots", "1")
        self.id = self.shell.submit(*self.submission[1:])
        wait_until(lambda: len(self.shell.rows("results")) == 10, 60, what="with a chunk done")

    def see(self, *words: str | Path, code: int = 0) -> str:
        """What a command shows on a terminal, which would fail at a control character."""
        with Terminal(self.shell, *words, columns=2000, TERM="dumb") as terminal:
            assert terminal.wait() == code, terminal.output
            assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202e]", terminal.output)
            return "\n".join(terminal.rows())


@pytest.fixture
def evil(shell: Shell) -> Evil:
    return Evil(shell)


def test_a_submission_and_its_mistakes_show_no_control_characters(evil: Evil) -> None:
    assert SHOWN in evil.see(*evil.submission, "--dry-run")
    evil.see(*evil.submission)
    assert "is job" in evil.see(*evil.submission), "said of its key"
    other = evil.shell.write("other.txt", "a\n")
    assert "key" in evil.see("submit", other, *FAKE, "--key", EVIL, code=2)
    assert SHOWN in evil.see("submit", f"{EVIL}.csv", *FAKE, code=2)
    assert "evil" in evil.see("submit", other, "--task", EVIL, "--model", "m", code=2)
    assert "evil" in evil.see("submit", other, "--model", f"./{EVIL}", code=2)
    for command in ("jobs", "show", "pause", "resume", "cancel"):
        shown = evil.see(command, *(["last"] if command != "jobs" else []))
        assert SHOWN in shown or command not in ("jobs", "show"), shown
        assert r"model     m\x1b[31m" in shown or command != "show", shown
    assert "evil" in evil.see("show", EVIL + "?", code=2)


def test_what_runs_and_what_came_of_it_show_no_control_characters(evil: Evil) -> None:
    evil.run()
    with Terminal(evil.shell, "watch", "last", columns=120) as watching:
        rows = watching.wait_for("runner_error  1", "Ctrl-C stops watching")  # or the screen fails
        text = "\n".join(rows)
        assert f"{evil.id}  {SHOWN}" in rows[0], text
        assert re.search(r"^ +\\x1b +█+ +1 +11.1 %$", text, flags=re.MULTILINE), text
        assert f"runner_error  1  ValueError: {SHOWN}" in text, text
        evil.gate.touch()
        assert watching.wait() == 3
        after = watching.output.rpartition("\x1b")[2]
        assert SHOWN in after, "the name and the error, in the summary"
    for words in (
        ["watch", "last"],
        ["show", "last"],
        ["results", "last"],
        ["results", "last", "--errors"],
        ["results", "last", "--record-id", f"{EVIL}0"],
        *[["results", "last", "--format", kind] for kind in ("csv", "tsv")],
    ):
        code = 3 if words[0] == "watch" else 0
        assert SHOWN in evil.see(*words, code=code), words
    for words in (["watch", "last"], ["show", "last"], ["jobs"]):
        code = 3 if words[0] == "watch" else 0
        assert json.loads(evil.see(*words, "--json", code=code))
    first, *_ = evil.see("results", "last", "--format", "jsonl", "--limit", "1").splitlines()
    assert json.loads(first)["text"] == EVIL, "JSON says the same in other letters"


def test_what_goes_into_a_file_or_a_pipe_is_not_changed(evil: Evil) -> None:
    evil.run()
    evil.gate.touch()
    assert evil.shell.run("watch", "last").returncode == 3
    for kind in ("csv", "tsv", "jsonl"):
        out = evil.shell.folder / f"out.{kind}"
        assert evil.shell.run("results", "last", "--out", out).returncode == 0
        assert out.read_text() == evil.shell.run("results", "last", "--format", kind).stdout
    assert EVIL.replace("\r", "\n") in (evil.shell.folder / "out.csv").read_text()
