"""A database that goes away, ends sessions or refuses writes, while a job is under way."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..machine import lacks
from ..servers import PostgresServer, die_with_parent
from .conftest import FAKE, IMPATIENT, Shell, assert_user_error
from .load import Load, worker_pids


def _end(how: str, server: PostgresServer) -> None:
    {"fast": server.stop, "immediate": server.crash}[how]()


@pytest.mark.parametrize("how", ["fast", "immediate"])
def test_a_database_that_is_stopped_under_load(
    database_shell: Shell, own_postgres: PostgresServer, how: str
) -> None:
    database_shell.start_worker("--devices", "cpu,cpu")
    pids = worker_pids(database_shell, 2)
    load = Load(database_shell, 1000)  # more than is done before the server has stopped
    load.wait_for_results()
    _end(how, own_postgres)
    database_shell.wait_for_log("to=database")
    own_postgres.start()
    load.assert_complete()
    log = database_shell.log()
    assert "going on" in log
    assert "Traceback" not in log
    assert worker_pids(database_shell, 2) == pids, "the same processes went on"


def test_sessions_that_the_database_ends_under_load(
    database_shell: Shell, own_postgres: PostgresServer
) -> None:
    database_shell.start_worker("--devices", "cpu,cpu")
    load = Load(database_shell, 1000)  # more than is done in ten rounds on a busy machine
    for _ in range(10):
        load.wait_for_results()
        assert own_postgres.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'textmill worker'"
        )
    load.assert_complete()
    assert "Traceback" not in database_shell.log()


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
    database_shell.wait_for_log("to=database")
    texts = database_shell.write("other.txt", "a\n")
    done = database_shell.run("submit", texts, *FAKE)
    assert_user_error(done, "takes no writes", "read-only", code=1)
    assert done.stderr.count("\n") == 1
    _make_read_only(own_postgres, "off")
    load.assert_complete()
    assert len(database_shell.rows("jobs")) == 1
    assert "Traceback" not in database_shell.log()


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
            lacks("this machine allows no mount namespace, in which a small disk is made")
        assert given.run("db", "upgrade").returncode == 0
        yield given
    finally:
        given.close()


def test_a_disk_that_is_full_for_a_while(small_disk_shell: SmallDiskShell) -> None:
    shell = small_disk_shell
    shell.start_worker()
    load = Load(shell, 1000)
    load.wait_for_results()
    shell.inside(f"cat /dev/zero > {shell.disk}/ballast || true")
    shell.wait_for_log("to=database")
    assert "no space left" in shell.log()
    shell.inside(f"rm {shell.disk}/ballast")
    load.assert_complete()
    assert "Traceback" not in shell.log()
