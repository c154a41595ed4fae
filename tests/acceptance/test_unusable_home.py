"""A data folder that cannot be used: one clear message, and a doctor that goes on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .conftest import FAKE, Shell, assert_user_error
from .disks import DiskShell


def _file_in_its_place(shell: Shell) -> str:
    home = Path(shell.env["TEXTMILL_HOME"])
    home.write_text("not a folder")
    return f"{home} is a file, not a folder"


def _forbidden(shell: Shell) -> str:
    home = Path(shell.env["TEXTMILL_HOME"])
    home.mkdir(mode=0o500)
    if os.geteuid() == 0:  # root may do all, unless it is taken from it
        shell.prefix = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    return f"this user may not write in {home}"


@pytest.fixture(params=[_file_in_its_place, _forbidden])
def broken(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Shell, str]]:
    """A shell whose data folder cannot be used, and why in words."""
    given = Shell(tmp_path)
    make: Callable[[Shell], str] = request.param
    yield given, make(given)


def _check(shell: Shell, problem: str) -> None:
    home = shell.env["TEXTMILL_HOME"]
    texts = shell.write("texts.txt", "a\n")
    commands = (["jobs"], ["submit", texts, *FAKE], ["run", texts, *FAKE], ["up"], ["worker"])
    for words in commands:
        done = shell.run(*words)
        assert_user_error(done, problem, home, "TEXTMILL_HOME", code=1)
        assert done.stderr.count("\n") == 1, done.stderr
        assert done.stdout == ""


def _check_doctor(shell: Shell, problem: str) -> None:
    done = shell.run("doctor")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    lines = done.stdout.splitlines()
    wrong = [line for line in lines if line.startswith("WRONG")]
    assert [line.split()[1] for line in wrong] == ["home", "database"]
    assert all(problem in line and "TEXTMILL_HOME" in line for line in wrong)
    assert any(line.startswith("ok     versions") for line in lines)
    assert any(line.startswith("ok     broker") for line in lines)


def test_an_unusable_home_is_told_in_one_line(broken: tuple[Shell, str]) -> None:
    _check(*broken)


def test_doctor_goes_on_beside_an_unusable_home(broken: tuple[Shell, str]) -> None:
    _check_doctor(*broken)


def test_a_read_only_home_that_was_used_before(tmp_path: Path) -> None:
    home = tmp_path / "disk" / "home"
    shell = DiskShell(
        tmp_path, TEXTMILL_HOME=str(home), TEXTMILL_DATABASE_URL=f"sqlite:///{home}/textmill.db"
    )
    try:
        shell.env.pop("TEXTMILL_DATABASE_URL")
        assert shell.run("jobs").returncode == 0  # makes folder and tables
        shell.disk.turn("ro")
        _check(shell, "is on a read-only disk")
        _check_doctor(shell, "is on a read-only disk")
    finally:
        shell.close()


def test_doctor_with_an_unusable_home_and_servers_elsewhere(
    tmp_path: Path, broker_url: str, postgres_url: str
) -> None:
    shell = Shell(tmp_path, TEXTMILL_BROKER_URL=broker_url, TEXTMILL_DATABASE_URL=postgres_url)
    assert shell.run("db", "upgrade").returncode == 0
    problem = _file_in_its_place(shell)
    lines = shell.run("doctor").stdout.splitlines()
    assert [line for line in lines if line.startswith("WRONG")] == [
        f"WRONG  home          the data folder {shell.env['TEXTMILL_HOME']} cannot be used: "
        f"{problem}; mend that, or set TEXTMILL_HOME to another folder"
    ]
    for subject in ("broker", "database", "workers", "jobs"):
        assert any(line.startswith(f"ok     {subject}") for line in lines), subject
