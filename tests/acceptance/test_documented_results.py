"""docs/results.md: its commands print what it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ..documented import JOB, console_blocks
from .conftest import ROOT, TEXTMILL, Shell

PAGE = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")


def run(shell: Shell, command: str) -> str:
    """What a terminal of 100 columns shows, without what a run says of its progress and time."""
    shows_table = command.startswith(("textmill results", "textmill sql"))
    if shows_table and "--format" not in command and "--out" not in command:
        command += " --format table"
    programs = f"{TEXTMILL.parent}:{Path(sys.executable).parent}:{shell.env['PATH']}"
    done = subprocess.run(
        ["bash", "-c", f"{command} 2>&1"],
        cwd=shell.folder,
        env=shell.env | {"PATH": programs, "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode in (0, 2, 3), done.stdout
    return "" if command.startswith("textmill run") else JOB.sub("JOB", done.stdout)


@pytest.mark.timeout(300)
def test_the_page_shows_what_is_printed(shell: Shell) -> None:
    (shell.folder / "examples").symlink_to(ROOT / "examples")
    shell.start_worker()  # keeps the model from one run to the next
    steps = [step for block in console_blocks(PAGE) for step in block]
    assert len(steps) > 20
    for command, printed in steps:
        assert run(shell, command).rstrip() == JOB.sub("JOB", printed).rstrip(), command
