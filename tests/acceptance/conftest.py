"""The installed command as a user runs it: real processes, a data folder of the test's own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from textmill.core import embedded
from textmill.core.settings import load_settings
from textmill.db.models import metadata
from textmill.db.session import Database

from ..in_process import run_main
from ..servers import PostgresServer, ValkeyServer, die_with_parent, wait_until

ROOT = Path(__file__).parents[2]
TEXTMILL = Path(sys.executable).parent / "textmill"
MODEL = ROOT / "examples" / "sms_spam" / "model"
MESSAGES = ROOT / "examples" / "sms_spam" / "sms_spam.tsv"
WRITTEN = ("jobs", "chunks", "payloads", "results", "result_values", "label_counts")
FAKE = ["--task", "fake", "--model", "m"]  # see tests/plugins/fake_tasks.py

# Leases, sweeps and patience short enough for a test to see them all.
IMPATIENT = {
    "TEXTMILL_LEASE_SECONDS": "2",
    "TEXTMILL_SWEEP_SECONDS": "0.5",
    "TEXTMILL_DISPATCH_GRACE_SECONDS": "1",
    "TEXTMILL_STARVATION_SECONDS": "5",
}


class Shell:
    """A terminal with its own TEXTMILL_HOME, from which commands are run."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self.folder = folder
        self.prefix: list[str] = []  # a program that runs the commands, in a namespace say
        self.env = os.environ | {
            "TEXTMILL_HOME": str(folder / "home"),
            "TEXTMILL_PLUGINS": "fake_tasks",
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'plugins'}",
            **variables,
        }
        self.started: list[subprocess.Popen[str]] = []

    def run(self, *words: str | Path, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """``textmill …`` to its end."""
        return subprocess.run(
            [*self.prefix, str(TEXTMILL), *map(str, words)],
            cwd=self.folder,
            env=self.env,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )

    def json(self, *words: str | Path) -> Any:
        """What a successful command prints with ``--json``."""
        done = self.run(*words, "--json")
        assert done.returncode in (0, 3), done.stderr
        return json.loads(done.stdout)

    def start(self, *words: str | Path, log: str = "worker.log") -> subprocess.Popen[str]:
        """``textmill …`` in the background; its output goes to a file of the test's folder."""
        with (self.folder / log).open("a") as file:
            process = subprocess.Popen(
                [*self.prefix, str(TEXTMILL), *map(str, words)],
                cwd=self.folder,
                env=self.env,
                stdout=file,
                stderr=file,
                text=True,
                preexec_fn=die_with_parent,
            )
        self.started.append(process)
        return process

    def start_worker(self, *options: str) -> subprocess.Popen[str]:
        """A worker, once it is in the table of live workers."""
        before = {row["id"] for row in self.workers()}  # a sweep may end one of these meanwhile
        process = self.start("worker", "--devices", "cpu", *options)
        wait_until(
            lambda: {row["id"] for row in self.workers()} - before, 60, what="with a live worker"
        )
        return process

    def workers(self) -> list[dict[str, Any]]:
        """The rows of the table of workers."""
        return self.rows("workers")

    def submit(self, *words: str | Path) -> str:
        """The id of a job that was accepted."""
        done = self.run("submit", *words)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def write(self, name: str, content: str | bytes) -> Path:
        """A file in the test's folder."""
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def database(self) -> Database:
        """The database that the commands use; the caller closes it."""
        return Database.open(
            load_settings(
                home=self.env["TEXTMILL_HOME"], database_url=self.env.get("TEXTMILL_DATABASE_URL")
            )
        )

    def rows(self, table: str) -> list[dict[str, Any]]:
        """Every row of a table; none if there is no database yet."""
        database = self.database()
        try:
            with database.read() as connection:
                if not database.engine.dialect.has_table(connection, table):
                    return []
                found = connection.execute(select(metadata.tables[table]))
                return [{str(k): v for k, v in row._mapping.items()} for row in found]
        finally:
            database.close()

    def assert_nothing_written(self) -> None:
        """No half job: not one row in any table that a submission writes."""
        database = self.database()
        try:
            with database.read() as connection:
                for name in WRITTEN:
                    if database.engine.dialect.has_table(connection, name):
                        table = metadata.tables[name]
                        assert connection.scalar(select(func.count()).select_from(table)) == 0, name
        finally:
            database.close()

    def log(self, name: str = "worker.log") -> str:
        """What a background command has written so far."""
        return (self.folder / name).read_text()

    def wait_for_log(self, text: str, name: str = "worker.log") -> None:
        """Until a background command has written this."""
        wait_until(lambda: text in self.log(name), 30, what=f"{text!r} in {name}")

    def close(self) -> None:
        """End what was started and is still there, and with it the services."""
        for process in self.started:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.started:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGTERM)  # a second one stops at once
                process.wait(20)
        if "TEXTMILL_BROKER_URL" not in self.env:
            embedded.stop(load_settings(home=self.env["TEXTMILL_HOME"]))


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """A shell with the embedded default: SQLite and the bundled Valkey."""
    given = Shell(tmp_path)
    yield given
    given.close()


@pytest.fixture
def server_shell(tmp_path: Path, broker_url: str, postgres_url: str) -> Iterator[Shell]:
    """A shell whose commands use a password-protected broker and PostgreSQL."""
    given = Shell(tmp_path, TEXTMILL_BROKER_URL=broker_url, TEXTMILL_DATABASE_URL=postgres_url)
    yield given
    given.close()


@pytest.fixture
def broker_shell(tmp_path: Path, own_valkey: ValkeyServer) -> Iterator[Shell]:
    """A shell with a broker of the test's own and SQLite."""
    given = Shell(tmp_path, TEXTMILL_BROKER_URL=own_valkey.url, **IMPATIENT)
    yield given
    given.close()


@pytest.fixture
def database_shell(
    tmp_path: Path, broker_url: str, own_postgres: PostgresServer
) -> Iterator[Shell]:
    """A shell with a PostgreSQL server of the test's own, and tables."""
    url = own_postgres.create_database()
    given = Shell(tmp_path, TEXTMILL_BROKER_URL=broker_url, TEXTMILL_DATABASE_URL=url, **IMPATIENT)
    assert given.run("db", "upgrade").returncode == 0
    yield given
    given.close()


def assert_user_error(done: subprocess.CompletedProcess[str], *parts: str, code: int = 2) -> None:
    """One clear message that holds every part, the exit code, no traceback."""
    assert done.returncode == code, (done.returncode, done.stderr)
    assert "Traceback" not in done.stderr
    for part in parts:
        assert part in done.stderr, (part, done.stderr)


class Refusals:
    """``textmill submit …`` in this process: what is said of a submission that cannot be meant.

    The console command's own entry, called hundreds of times: as many processes take minutes.
    """

    def __init__(self, shell: Shell, monkeypatch: Any, capsys: Any) -> None:
        self._shell = shell
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        for name in ("TEXTMILL_HOME", "TEXTMILL_PLUGINS"):
            monkeypatch.setenv(name, shell.env[name])
        monkeypatch.syspath_prepend(ROOT / "tests" / "plugins")
        monkeypatch.chdir(shell.folder)

    def submit(self, *words: str | Path) -> tuple[int, str, str]:
        """Exit code, stdout and stderr."""
        return run_main(self._monkeypatch, self._capsys, "submit", *words)

    def check(self, words: Sequence[str | Path], *parts: str) -> None:
        """One line that holds every part, exit code 2, and nothing in the database."""
        code, out, err = self.submit(*words)
        assert code == 2, (code, out, err)
        assert out == ""
        assert err.startswith("error: "), err
        assert err.count("\n") == 1, err
        for part in parts:
            assert part in err, (part, err)
        self._shell.assert_nothing_written()


@pytest.fixture
def refusals(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Refusals:
    """Submissions in this process, from the shell's folder into the shell's data folder."""
    return Refusals(shell, monkeypatch, capsys)
