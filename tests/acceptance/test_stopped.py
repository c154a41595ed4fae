"""Workers that stand still (SIGSTOP) block nobody, and write nothing when they wake."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from ..servers import alive, wait_until
from .conftest import IMPATIENT, Shell
from .load import Load, worker_pids


@pytest.fixture(params=["sqlite", "postgresql"])
def quick_shell(request: pytest.FixtureRequest) -> Iterator[Shell]:
    """Both databases, short leases and sweeps."""
    name = "shell" if request.param == "sqlite" else "server_shell"
    shell: Shell = request.getfixturevalue(name)
    shell.env |= IMPATIENT
    if request.param == "postgresql":
        assert shell.run("db", "upgrade").returncode == 0
    yield shell
    for process in shell.started:  # a stopped one would not hear SIGTERM
        for each in _family(process):
            each.send_signal(signal.SIGCONT)


def _family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """A supervisor and its workers."""
    if process.poll() is not None:
        return []
    parent = psutil.Process(process.pid)
    return [parent, *parent.children()]


def _stopping(shell: Shell, **more: str) -> Path:
    """The next workers run tests/plugins/stopping.py; the file in which one notes its stop."""
    note = shell.folder / "stopped"
    shell.env |= {"TEXTMILL_PLUGINS": "stopping", "STOP_NOTE": str(note), **more}
    return note


def _pids(note: Path) -> list[int]:
    wait_until(lambda: note.exists() and note.read_text(), 60, what="stopped in its transaction")
    return [int(word) for word in note.read_text().split()]


def test_a_worker_stopped_inside_its_transaction_is_ended_and_its_chunk_runs_elsewhere(
    quick_shell: Shell,
) -> None:
    note = _stopping(quick_shell)
    quick_shell.start_worker()
    quick_shell.start_worker()
    load = Load(quick_shell, 100)
    worker, _ = _pids(note)
    wait_until(lambda: not alive(worker), 30, what="ended by its supervisor")
    load.assert_complete()  # no crash is counted: a process that was stopped did nothing wrong
    assert "no pulse: killed" in (quick_shell.folder / "worker.log").read_text()


def test_a_host_stopped_inside_its_transaction_does_not_block_the_new_owner(
    server_shell: Shell,
) -> None:
    """Nobody is left on it to end the worker: PostgreSQL ends the transaction."""
    shell = server_shell
    shell.env |= IMPATIENT
    assert shell.run("db", "upgrade").returncode == 0
    note = _stopping(shell, STOP_SUPERVISOR="1")
    shell.start_worker()
    shell.start_worker()
    load = Load(shell, 100)
    pids = _pids(note)
    try:
        load.wait_for_end()
        assert all(psutil.Process(pid).status() == psutil.STATUS_STOPPED for pid in pids)
        written = shell.rows("results")
    finally:
        for pid in pids:  # the worker first: it wakes inside its transaction
            os.kill(pid, signal.SIGCONT)
    _wait_until_awake(shell)
    assert shell.rows("results") == written
    load.assert_complete()


def test_a_host_that_wakes_after_its_leases_have_ended_cannot_write(quick_shell: Shell) -> None:
    """What it held was done by another meanwhile; it goes on with other work."""
    shell = quick_shell
    gate = shell.folder / "gate"
    first = shell.start_worker("--slots", "1")
    load = Load(shell, 40, first=[f"wait {gate}"])
    wait_until(lambda: _holders(shell), 60, what="claimed")
    stopped = _stop_outside_transactions(shell, first)
    gate.touch()
    shell.start_worker()
    load.wait_for_end()
    written = shell.rows("results")
    for process in reversed(stopped):
        process.send_signal(signal.SIGCONT)
    _wait_until_awake(shell)
    assert shell.rows("results") == written
    load.assert_complete()
    pids = worker_pids(shell, 2)
    assert {process.pid for process in stopped} & pids, "it has been replaced without a reason"
    Load(shell, 40).assert_complete()


def _stop_outside_transactions(shell: Shell, worker: subprocess.Popen[str]) -> list[psutil.Process]:
    """Stop a supervisor and its workers while none of them holds SQLite's one lock of writers.

    With a whole host stopped inside its transaction nobody is left to free the file.
    """
    family = _family(worker)
    while True:
        for process in family:
            process.send_signal(signal.SIGSTOP)
        if _is_free_to_write(shell):
            return family
        for process in reversed(family):
            process.send_signal(signal.SIGCONT)


def _is_free_to_write(shell: Shell) -> bool:
    """Also true on PostgreSQL, where such a transaction is ended by the server."""
    database = shell.database()
    try:
        if not database.is_sqlite:
            return True
        path = database.engine.url.database
        assert path is not None
        with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
    except sqlite3.OperationalError:
        return False
    finally:
        database.close()
    return True


def _holders(shell: Shell) -> set[str]:
    return {row["lease_owner"] for row in shell.rows("chunks") if row["status"] == "running"}


def _wait_until_awake(shell: Shell) -> None:
    """Until the woken worker has found out that it lost its chunk."""
    log = shell.folder / "worker.log"
    wait_until(lambda: "chunk lost" in log.read_text(), 30, what="told that its chunk is lost")
