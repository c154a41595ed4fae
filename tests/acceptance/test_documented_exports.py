"""docs/exports.md shows what its commands print, and every format there is."""

from __future__ import annotations

import os
import re
import subprocess

from textmill.producer.exports.registry import FORMATS

from .conftest import ROOT, TEXTMILL, Shell

PAGE = (ROOT / "docs" / "exports.md").read_text(encoding="utf-8")


def test_the_page_shows_what_is_printed(shell: Shell) -> None:
    (shell.folder / "examples").symlink_to(ROOT / "examples")
    env = shell.env | {"PATH": f"{TEXTMILL.parent}{os.pathsep}{os.environ['PATH']}"}
    for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL):
        for part in block.split("$ ")[1:]:
            command, _, shown = part.partition("\n")
            if command == "cat comments.csv":
                shell.write("comments.csv", shown)
                continue
            done = subprocess.run(
                ["bash", "-c", command],
                cwd=shell.folder,
                env=env,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            if command.startswith("textmill run"):
                assert done.returncode == 0, done.stdout
            else:
                assert done.stdout == shown, command


def test_the_page_lists_every_format_with_its_file_names() -> None:
    listed = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", PAGE.split("## Order")[0], re.MULTILINE))
    for name, known in FORMATS.items():
        assert set(re.findall(r"`(\.\w+)`", listed[name])) == set(known.endings)
