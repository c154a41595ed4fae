"""docs/query-from.md: each line of it runs, in the tool it is for, and prints what it says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import duckdb
import pytest

from ..documented import console_blocks
from ..machine import lacks
from ..servers import PostgresServer
from .conftest import ROOT, Shell

PAGE = (ROOT / "docs" / "query-from.md").read_text(encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Step:
    """A command, or a Python block, and what the page says that it prints."""

    language: str
    code: str
    printed: str


def read_steps(page: str) -> list[Step]:
    """In their order; a Python block's output is the block of plain text behind it."""
    steps: list[Step] = []
    blocks = re.findall(r"```(console|python|text)\n(.*?)```", page, re.DOTALL)
    for (language, content), (after, output) in zip(blocks, [*blocks[1:], ("", "")], strict=True):
        if language == "console":
            (commands,) = console_blocks(f"```console\n{content}```")
            steps += [Step("console", command, printed) for command, printed in commands]
        elif language == "python":
            steps.append(Step("python", content, output if after == "text" else ""))
    return steps


def install_extensions(home: Path) -> None:
    """What DuckDB would download at INSTALL; the packages hold the same files."""
    with duckdb.connect(config={"home_directory": str(home)}) as duck:
        for name in ("sqlite_scanner", "postgres_scanner"):
            package = import_module(f"duckdb_extension_{name}").__file__
            assert package is not None
            (file,) = Path(package).parent.rglob(f"v{duckdb.__version__}/*.duckdb_extension")
            folder = home / f".duckdb/extensions/v{duckdb.__version__}/{_platform(duck)}"
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, folder)


def _platform(duck: duckdb.DuckDBPyConnection) -> str:
    (found,) = duck.sql("PRAGMA platform").fetchall()[0]
    return str(found)


class Reader:
    """Somebody who types what the page says, in a home folder of their own."""

    def __init__(self, shell: Shell, postgres_url: str) -> None:
        self._folder = shell.folder
        self._postgres_url = postgres_url
        home = str(shell.folder)
        programs = [str(Path(sys.executable).parent), str(PostgresServer.program("psql").parent)]
        path = os.pathsep.join([*programs, os.environ["PATH"]])
        self._env = shell.env | {"HOME": home, "PATH": path, "COLUMNS": "100", "LANG": "C.UTF-8"}
        self._env["TEXTMILL_HOME"] = f"{home}/.local/share/textmill"

    def do(self, step: Step) -> str:
        """What it prints."""
        if step.language == "python":
            return self._run([sys.executable, "-c", step.code])
        word, _, rest = step.code.partition(" ")
        if word == "cd":
            self._folder = Path(rest.replace("~", self._env["HOME"]))
            return ""
        if word == "export":
            self._env[rest.partition("=")[0]] = self._postgres_url
            return ""
        printed = self._run(["bash", "-c", step.code])
        return "" if step.code.startswith(("textmill run", "textmill db")) else printed

    def _run(self, command: list[str]) -> str:
        done = subprocess.run(
            command, cwd=self._folder, env=self._env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (command, done.stderr)
        return done.stdout


@pytest.fixture
def reader(shell: Shell, postgres_url: str) -> Reader:
    if shutil.which("sqlite3") is None:
        lacks("the shell sqlite3 is not installed here")
    clone = shell.folder / "textmill"
    clone.mkdir()
    (clone / "examples").symlink_to(ROOT / "examples")
    shell.env["TEXTMILL_HOME"] = str(shell.folder / ".local/share/textmill")
    install_extensions(shell.folder)
    return Reader(shell, postgres_url)


@pytest.mark.timeout(300)
def test_every_line_of_the_page_prints_what_it_says(reader: Reader) -> None:
    steps = read_steps(PAGE)
    assert len(steps) > 15
    for step in steps:
        assert reader.do(step).rstrip() == step.printed.rstrip(), step.code
