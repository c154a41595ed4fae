"""Disks that are full or read-only for a while, below SQLite and below PostgreSQL."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..servers import die_with_parent, wait_until
from .conftest import FAKE, IMPATIENT, Shell, assert_user_error
from .disks import DiskShell, SmallDiskPostgres
from .load import Load, worker_pids


@pytest.fixture
def disk_shell(tmp_path: Path, broker_url: str) -> Iterator[DiskShell]:
    """A shell with a broker and SQLite on a small disk, which its log of 16 MB fits on."""
    given = DiskShell(tmp_path, "24m", TEXTMILL_BROKER_URL=broker_url, **IMPATIENT)
    try:
        assert given.run("db", "upgrade").returncode == 0
        yield given
    finally:
        given.close()


def test_a_disk_that_is_full_for_a_while(disk_shell: DiskShell) -> None:
    disk_shell.start_worker()
    load = Load(disk_shell, 1000)
    load.wait_for_results()
    disk_shell.disk.fill()
    disk_shell.wait_for_log("to=database")
    assert "no space left" in disk_shell.log()
    disk_shell.disk.free()
    load.assert_complete()
    assert "Traceback" not in disk_shell.log()


def test_a_disk_that_is_read_only_for_a_while(disk_shell: DiskShell) -> None:
    """Linux refuses that while a file is open for writing, so the worker is just being replaced."""
    shell = disk_shell
    shell.start_worker()
    load = Load(shell, 1000)
    load.wait_for_results()
    (pid,) = worker_pids(shell, 1)
    os.kill(pid, signal.SIGTERM)  # no crash, and its supervisor starts another
    shell.disk.turn("ro")
    shell.wait_for_log("to=database")
    assert "is on a read-only disk" in shell.log()
    refused = shell.run("submit", shell.write("other.txt", "a\n"), *FAKE)
    assert_user_error(refused, str(shell.disk.folder), "is on a read-only disk", code=1)
    assert refused.stderr.count("\n") == 1
    shell.disk.turn("rw")
    load.assert_complete()
    assert "Traceback" not in shell.log()


def test_a_read_only_disk_without_room_is_called_read_only(disk_shell: DiskShell) -> None:
    """As a medium that can never be written has no byte free either."""
    shell = disk_shell
    texts = shell.write("texts.txt", "a\n")
    shell.disk.fill()
    shell.disk.turn("ro")
    assert_user_error(shell.run("submit", texts, *FAKE), "is on a read-only disk", code=1)
    shell.disk.turn("rw")
    assert_user_error(shell.run("submit", texts, *FAKE), "no space left", code=1)


@pytest.fixture
def small_postgres() -> Iterator[SmallDiskPostgres]:
    """A PostgreSQL server whose databases lie on a small disk."""
    server = SmallDiskPostgres()
    try:
        server.start()
        yield server
    finally:
        server.close()


def test_a_full_disk_below_postgresql(
    tmp_path: Path, broker_url: str, small_postgres: SmallDiskPostgres
) -> None:
    url = small_postgres.create_database()
    shell = Shell(tmp_path, TEXTMILL_BROKER_URL=broker_url, TEXTMILL_DATABASE_URL=url, **IMPATIENT)
    try:
        assert shell.run("db", "upgrade").returncode == 0
        shell.start_worker()
        load = Load(shell, 1000)
        load.wait_for_results()
        small_postgres.disk.fill()
        shell.wait_for_log("to=database")
        assert "no space left" in shell.log()
        small_postgres.disk.free()
        load.assert_complete()
        assert "Traceback" not in shell.log()
    finally:
        shell.close()


def test_a_disk_that_fills_while_a_submission_waits_for_its_database(
    tmp_path: Path, broker_url: str, small_postgres: SmallDiskPostgres
) -> None:
    """It waits for a server that is away; for a disk that is full it does not."""
    url = small_postgres.create_database()
    shell = Shell(tmp_path, TEXTMILL_BROKER_URL=broker_url, TEXTMILL_DATABASE_URL=url)
    shell.env["TEXTMILL_LEASE_SECONDS"] = "600"  # so long it would wait
    fifo = shell.folder / "texts.txt"
    rest = shell.write("rest.txt", "".join(f"{os.urandom(60).hex()}\n" for _ in range(20_000)))
    try:
        assert shell.run("db", "upgrade").returncode == 0
        os.mkfifo(fifo)
        process = shell.start("submit", fifo, *FAKE, log="submit.log")
        with fifo.open("w") as pipe:
            pipe.write("some text\n" * 20_000)
            pipe.flush()
            wait_until(lambda: len(shell.rows("chunks")) > 400, 60, what="with chunks")
            small_postgres.crash()
            small_postgres.disk.fill()
            writer = ["cat", str(rest)]  # which waits for a reader that waits for the database
            shell.started.append(
                subprocess.Popen(writer, stdout=pipe, text=True, preexec_fn=die_with_parent)
            )
        shell.wait_for_log("waiting: the database", "submit.log")
        small_postgres.start()
        assert process.wait(60) == 1
        waiting, error = shell.log("submit.log").splitlines()
        assert "does not answer" in waiting
        assert "no space left" in error
        small_postgres.disk.free()
        assert shell.submit(shell.write("small.txt", "one\n"), *FAKE)
    finally:
        shell.close()
