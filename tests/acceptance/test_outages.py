"""Servers that go away, hang, lose what they hold or refuse writes, while a job is under way."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ..servers import PostgresServer, ValkeyServer, die_with_parent, wait_until
from .conftest import FAKE, Shell, assert_user_error
from .load import IMPATIENT, Load, worker_pids


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


def _log(shell: Shell, name: str = "worker.log") -> str:
    return (shell.folder / name).read_text()


def _wait_for_log(shell: Shell, text: str, name: str = "worker.log") -> None:
    wait_until(lambda: text in _log(shell, name), 30, what=f"{text!r} in {name}")


def _is_idle(shell: Shell) -> bool:
    return all(chunk["status"] != "running" for chunk in shell.rows("chunks"))


# The broker


@pytest.mark.parametrize("until_idle", [False, True], ids=["busy", "until idle"])
def test_a_broker_that_is_killed_under_load(
    broker_shell: Shell, own_valkey: ValkeyServer, until_idle: bool
) -> None:
    broker_shell.start_worker()
    load = Load(broker_shell)
    load.wait_for_results()
    own_valkey.kill()
    if until_idle:
        wait_until(lambda: _is_idle(broker_shell), 30, what="idle")
    own_valkey.start()
    load.assert_complete()


def test_idle_workers_go_on_after_a_restart_of_the_broker(
    broker_shell: Shell, own_valkey: ValkeyServer
) -> None:
    broker_shell.start_worker("--devices", "cpu,cpu")
    Load(broker_shell, 40).assert_complete()
    own_valkey.restart()
    loads = [Load(broker_shell, 40) for _ in range(3)]
    for load in loads:
        load.assert_complete()


def test_a_running_job_survives_the_loss_of_all_messages(
    broker_shell: Shell, own_valkey: ValkeyServer
) -> None:
    broker_shell.start_worker()
    load = Load(broker_shell)
    for _ in range(3):
        load.wait_for_results()
        own_valkey.flush()
    load.assert_complete()


def test_connections_that_the_broker_cuts_under_load(
    broker_shell: Shell, own_valkey: ValkeyServer
) -> None:
    broker_shell.start_worker("--devices", "cpu,cpu")
    load = Load(broker_shell, 400)
    for _ in range(4):
        load.wait_for_results()
        with own_valkey.client() as client:
            for kind in ("normal", "pubsub"):
                client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
    load.assert_complete()


def test_a_broker_that_hangs_under_load(broker_shell: Shell, own_valkey: ValkeyServer) -> None:
    """It hangs for longer than any of our time-outs, and until a worker has said so."""
    broker_shell.start_worker()
    load = Load(broker_shell)
    load.wait_for_results()
    own_valkey.pause()
    _wait_for_log(broker_shell, "does not answer within")
    hung = time.monotonic()
    wait_until(lambda: time.monotonic() - hung > 6, what="hung for longer than any time-out")
    own_valkey.unpause()
    load.assert_complete()


# The database


def _end(how: str, server: PostgresServer) -> None:
    {"fast": server.stop, "immediate": server.crash}[how]()


@pytest.mark.parametrize("how", ["fast", "immediate"])
def test_a_database_that_is_stopped_under_load(
    database_shell: Shell, own_postgres: PostgresServer, how: str
) -> None:
    database_shell.start_worker("--devices", "cpu,cpu")
    pids = worker_pids(database_shell, 2)
    load = Load(database_shell)
    load.wait_for_results()
    _end(how, own_postgres)
    _wait_for_log(database_shell, "to=database")
    own_postgres.start()
    load.assert_complete()
    log = _log(database_shell)
    assert "going on" in log
    assert "Traceback" not in log
    assert worker_pids(database_shell, 2) == pids, "the same processes went on"


def test_sessions_that_the_database_ends_under_load(
    database_shell: Shell, own_postgres: PostgresServer
) -> None:
    database_shell.start_worker("--devices", "cpu,cpu")
    load = Load(database_shell, 400)
    for _ in range(10):
        load.wait_for_results()
        own_postgres.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'textmill'"
        )
    load.assert_complete()
    assert "Traceback" not in _log(database_shell)


def _make_read_only(server: PostgresServer, value: str) -> None:
    server.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
    server.execute("SELECT pg_reload_conf()")


def test_a_database_that_takes_no_writes_for_a_while(
    database_shell: Shell, own_postgres: PostgresServer
) -> None:
    database_shell.start_worker()
    load = Load(database_shell)
    load.wait_for_results()
    _make_read_only(own_postgres, "on")
    _wait_for_log(database_shell, "to=database")
    texts = database_shell.write("other.txt", "a\n")
    done = database_shell.run("submit", texts, *FAKE)
    assert_user_error(done, "takes no writes", "read-only", code=1)
    assert done.stderr.count("\n") == 1
    _make_read_only(own_postgres, "off")
    load.assert_complete()
    assert len(database_shell.rows("jobs")) == 1
    assert "Traceback" not in _log(database_shell)


READ_TABLE = """
import pickle, sys
from sqlalchemy import select
from textmill.core.settings import load_settings
from textmill.db.models import metadata
from textmill.db.session import Database
with Database.open(load_settings()).read() as connection:
    rows = connection.execute(select(metadata.tables[sys.argv[1]]))
    pickle.dump([{str(k): v for k, v in row._mapping.items()} for row in rows], sys.stdout.buffer)
"""


class SmallDiskShell(Shell):
    """A shell whose database lies on a small disk, which can be filled.

    The disk is mounted in a namespace of its own, kept by a process of ours.
    """

    def __init__(self, folder: Path, **variables: str) -> None:
        self.disk = folder / "disk"
        self.disk.mkdir()
        url = f"sqlite:///{self.disk}/textmill.db"
        super().__init__(folder, TEXTMILL_DATABASE_URL=url, **variables)
        mount = f"mount -t tmpfs -o size=8m tmpfs {self.disk} && echo ready && exec sleep inf"
        self._keeper = subprocess.Popen(
            ["unshare", "-rm", "sh", "-c", mount],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=die_with_parent,
        )
        enter = ["nsenter", "--target", str(self._keeper.pid), "--user", "--mount"]
        self.prefix = [*enter, "--preserve-credentials", f"--wd={folder}"]

    @property
    def is_mounted(self) -> bool:
        """False if this machine allows no such mount."""
        assert self._keeper.stdout is not None
        return self._keeper.stdout.readline() == b"ready\n"

    def rows(self, table: str) -> list[dict[str, Any]]:
        command = [*self.prefix, sys.executable, "-c", READ_TABLE, table]
        found = subprocess.run(command, env=self.env, capture_output=True, check=True)
        rows: list[dict[str, Any]] = pickle.loads(found.stdout)
        return rows

    def inside(self, command: str) -> None:
        """Run a shell command where the disk is mounted."""
        subprocess.run([*self.prefix, "sh", "-c", command], check=True, capture_output=True)

    def close(self) -> None:
        super().close()
        self._keeper.kill()
        self._keeper.communicate()


@pytest.fixture
def small_disk_shell(tmp_path: Path, broker_url: str) -> Iterator[SmallDiskShell]:
    given = SmallDiskShell(tmp_path, TEXTMILL_BROKER_URL=broker_url, **IMPATIENT)
    try:
        if not given.is_mounted:
            pytest.skip("this machine allows no mount namespace, in which a small disk is made")
        assert given.run("db", "upgrade").returncode == 0
        yield given
    finally:
        given.close()


def test_a_disk_that_is_full_for_a_while(small_disk_shell: SmallDiskShell) -> None:
    shell = small_disk_shell
    shell.start_worker()
    load = Load(shell, 400)
    load.wait_for_results()
    shell.inside(f"cat /dev/zero > {shell.disk}/ballast || true")
    _wait_for_log(shell, "to=database")
    assert "no space left" in _log(shell)
    shell.inside(f"rm {shell.disk}/ballast")
    load.assert_complete()
    assert "Traceback" not in _log(shell)


# Those who watch


def _watch(shell: Shell, load: Load, *options: str) -> subprocess.Popen[str]:
    process = shell.start("watch", load.job, *options, log="watch.log")
    wait_until(lambda: _log(shell, "watch.log"), 30, what="watching")
    return process


def test_watch_waits_for_the_database_and_goes_on(
    database_shell: Shell, own_postgres: PostgresServer
) -> None:
    database_shell.start_worker()
    load = Load(database_shell)
    load.wait_for_results()
    watching = _watch(database_shell, load)
    own_postgres.stop()
    _wait_for_log(database_shell, "waiting: the database", "watch.log")
    own_postgres.start()
    assert watching.wait(60) == 0
    log = _log(database_shell, "watch.log")
    assert log.count("waiting:") == log.count("going on:") == 1
    assert "completed: 200 of 200 records" in log
    load.assert_complete()


def test_ctrl_c_ends_watch_while_the_database_is_away(
    database_shell: Shell, own_postgres: PostgresServer
) -> None:
    load = Load(database_shell, 10)
    watching = _watch(database_shell, load)
    own_postgres.stop()
    _wait_for_log(database_shell, "waiting: the database", "watch.log")
    watching.send_signal(signal.SIGINT)
    assert watching.wait(60) == 0
    log = _log(database_shell, "watch.log")
    assert "no longer watching" in log
    assert "Traceback" not in log
    own_postgres.start()


def test_run_waits_for_the_database_and_goes_on(
    database_shell: Shell, own_postgres: PostgresServer
) -> None:
    shell = database_shell
    lines = [f"slow 0.020{at:05d}" for at in range(150)]
    texts = shell.write("texts.txt", "\n".join(lines))
    running = shell.start("run", texts, *FAKE, "--devices", "cpu", log="run.log")
    wait_until(lambda: len(shell.rows("results")) >= 20, 60, what="with first results")
    own_postgres.crash()
    _wait_for_log(shell, "waiting: the database", "run.log")
    own_postgres.start()
    assert running.wait(60) == 0, _log(shell, "run.log")
    assert "completed: 150 of 150 records" in _log(shell, "run.log")
    rows = sorted(shell.rows("results"), key=lambda row: row["record_index"])
    assert [row["output"] for row in rows] == [line.upper() for line in lines]


def _python(shell: Shell, code: str) -> Callable[[], tuple[str, str]]:
    """A script under way; call what is returned for its stdout and stderr at the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=shell.folder,
        env=dict(os.environ, **shell.env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=die_with_parent,
    )
    shell.started.append(process)
    return lambda: process.communicate(timeout=60)


def test_job_wait_outlasts_the_database_silently(
    database_shell: Shell, own_postgres: PostgresServer
) -> None:
    shell = database_shell
    load = Load(shell, 10)
    script = (
        "from pathlib import Path\n"
        "from textmill import Job\n"
        f"job = Job({load.job!r})\n"
        "Path('started').touch()\n"
        "try:\n"
        "    job.wait(timeout=0.5)\n"
        "except TimeoutError as error:\n"
        "    Path('timed-out').write_text(str(error))\n"
        "print(job.wait())\n"
    )
    own_postgres.stop()
    ended = _python(shell, script)  # Job() itself needs the database, and fails at once
    assert "ServiceUnavailableError" in ended()[1]

    own_postgres.start()
    ended = _python(shell, script)
    wait_until(lambda: (shell.folder / "started").exists(), 30, what="started")
    own_postgres.stop()
    wait_until(lambda: (shell.folder / "timed-out").exists(), 30, what="timed out")
    own_postgres.start()
    shell.start_worker()
    assert ended() == ("completed\n", "")
    assert load.job in (shell.folder / "timed-out").read_text()


def test_one_shot_commands_fail_at_once_with_a_clear_message(
    database_shell: Shell, own_postgres: PostgresServer
) -> None:
    load = Load(database_shell, 10)
    own_postgres.stop()
    texts = database_shell.write("texts.txt", "a\n")
    for words in (["show", load.job], ["results", load.job], ["submit", texts, *FAKE]):
        done = database_shell.run(*words)
        assert_user_error(done, "does not answer", "TEXTMILL_DATABASE_URL", code=1)
        assert done.stdout == ""
    own_postgres.start()
    (row,) = json.loads(database_shell.run("jobs", "--json").stdout)
    assert row["status"] == "queued"
