"""docs/tasks.md shows what its commands print: they are run again, on models that can be had."""

from __future__ import annotations

import re
import shlex
import subprocess
from dataclasses import dataclass, field

import pytest

from textmill.core.tasks import TASKS

from ..documented import console_blocks
from ..real_models import PACKAGES
from .conftest import ROOT, TEXTMILL, Shell

PAGE = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")
# The tests of this process may have registered tasks of their own.
SHIPPED = {name for name, task in TASKS.items() if task.runner.startswith("textmill.")}
NOT_AT_HAND = {"models/marian-en-fr", "models/minilm-xquad"}


@dataclass
class Block:
    """One example: files, then commands with what they print."""

    files: dict[str, str] = field(default_factory=dict)
    commands: list[tuple[str, str]] = field(default_factory=list)

    def option(self, name: str) -> str:
        words = [word for command, _ in self.commands for word in shlex.split(command)]
        return words[words.index(name) + 1]


def _blocks() -> list[Block]:
    blocks = []
    for commands in console_blocks(PAGE):
        block = Block()
        for command, printed in commands:
            if command.startswith("cat "):
                block.files[command.split()[1]] = printed
            else:
                block.commands.append((command, printed))
        blocks.append(block)
    return blocks


BLOCKS = _blocks()


def test_every_task_is_shown_with_its_output() -> None:
    shown = {block.option("--task") for block in BLOCKS}
    assert shown == SHIPPED
    not_run = {block.option("--model") for block in BLOCKS} & NOT_AT_HAND
    assert not_run == NOT_AT_HAND  # the rest of the page's models is


def test_the_readme_begins_with_a_line_for_each_task() -> None:
    screen = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:30]
    assert {task for line in screen for task in re.findall(r"--task (\S+)", line)} == SHIPPED


@pytest.mark.timeout(600)  # a model for nearly every task, most of them made of a quantized file
def test_the_page_shows_what_is_printed(shell: Shell, subtests: pytest.Subtests) -> None:
    _link_models(shell)
    shell.start_worker()  # one that keeps a model for the next example
    for block in BLOCKS:
        if block.option("--model") in NOT_AT_HAND:
            continue
        with subtests.test(block.option("--task")):
            for name, content in block.files.items():
                shell.write(name, content)
            for command, printed in block.commands:
                done = _run(shell, command)
                assert done.returncode == 0, done.stderr
                if not command.startswith("textmill run"):
                    assert done.stdout.rstrip() == printed.rstrip(), command


def _link_models(shell: Shell) -> None:
    (shell.folder / "examples").symlink_to(ROOT / "examples")
    (shell.folder / "models").mkdir()
    for name, folder in PACKAGES.items():
        (shell.folder / "models" / name).symlink_to(folder)


def _run(shell: Shell, command: str) -> subprocess.CompletedProcess[str]:
    if command.startswith("textmill results") and "--format" not in command:
        command += " --format table"  # as on a terminal
    env = shell.env | {"PATH": f"{TEXTMILL.parent}:{shell.env['PATH']}", "COLUMNS": "100"}
    return subprocess.run(
        ["bash", "-c", command],
        cwd=shell.folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
