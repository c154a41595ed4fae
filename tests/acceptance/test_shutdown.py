"""Workers that are told to stop: they finish or give back, whatever else is away at that moment."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from ..servers import PostgresServer, ValkeyServer, wait_until
from .conftest import IMPATIENT, Shell
from .load import Load, worker_pids

FOREVER = ("--drain-seconds", "3600")  # a worker that needs it is not seen to end


@pytest.fixture
def quick_shell(shell: Shell) -> Shell:
    """SQLite and the bundled broker, short leases and sweeps."""
    shell.env |= IMPATIENT
    return shell


def _stop(worker: subprocess.Popen[str]) -> None:
    worker.send_signal(signal.SIGTERM)


def _running(shell: Shell) -> int:
    return sum(chunk["status"] == "running" for chunk in shell.rows("chunks"))


@pytest.fixture
def gate(quick_shell: Shell) -> Path:
    """A text ``wait GATE`` is not done before this file exists."""
    return quick_shell.folder / "gate"


def test_a_record_that_outlasts_the_drain_time_is_given_back(
    quick_shell: Shell, gate: Path
) -> None:
    worker = quick_shell.start_worker("--drain-seconds", "1")
    load = Load(quick_shell, 60, first=[f"wait {gate}"])
    wait_until(lambda: _running(quick_shell) == 4, 30, what="with all slots busy")
    _stop(worker)
    assert worker.wait(60) == 0
    assert quick_shell.workers() == []
    assert _running(quick_shell) == 0
    assert "drain time is over" in quick_shell.log()
    gate.touch()
    quick_shell.start_worker()
    load.assert_complete()


def test_a_second_sigterm_gives_back_at_once(quick_shell: Shell, gate: Path) -> None:
    worker = quick_shell.start_worker(*FOREVER)
    load = Load(quick_shell, 60, first=[f"wait {gate}"])
    wait_until(lambda: _running(quick_shell) == 4, 30, what="with all slots busy")
    _stop(worker)
    quick_shell.wait_for_log("Warm shutdown")
    assert worker.poll() is None
    _stop(worker)
    assert worker.wait(60) == 0  # the drain time is an hour
    assert _running(quick_shell) == 0
    assert quick_shell.workers() == []
    gate.touch()
    quick_shell.start_worker()
    load.assert_complete()


def test_what_runs_is_finished_within_the_drain_time(quick_shell: Shell) -> None:
    """Nothing that a stopping worker has begun is done a second time by the next one."""
    quick_shell.env["TEXTMILL_LEASE_SECONDS"] = "30"
    worker = quick_shell.start_worker(*FOREVER)
    load = Load(quick_shell)
    load.wait_for_results()
    _stop(worker)
    assert worker.wait(60) == 0
    assert 0 < load.done < len(load.lines)
    quick_shell.start_worker()
    load.assert_complete()
    assert {chunk["attempt"] for chunk in load.rows("chunks")} == {1}


@pytest.mark.parametrize("hangs", [False, True], ids=["killed", "hangs"])
def test_sigterm_while_the_broker_is_away(
    quick_shell: Shell, own_valkey: ValkeyServer, hangs: bool
) -> None:
    quick_shell.env["TEXTMILL_BROKER_URL"] = own_valkey.url
    worker = quick_shell.start_worker("--drain-seconds", "20")
    load = Load(quick_shell, 300)
    load.wait_for_results()
    if hangs:
        own_valkey.pause()
    else:
        own_valkey.kill()
    quick_shell.wait_for_log("left to sweep")
    _stop(worker)
    assert worker.wait(60) == 0
    assert _running(quick_shell) == 0
    if hangs:
        own_valkey.unpause()
    else:
        own_valkey.start()
    quick_shell.start_worker()
    load.assert_complete()


def test_sigterm_while_the_database_is_away(
    database_shell: Shell, own_postgres: PostgresServer
) -> None:
    shell = database_shell
    worker = shell.start_worker(*FOREVER)
    load = Load(shell, 100)
    load.wait_for_results()
    own_postgres.stop()
    shell.wait_for_log("to=database")
    _stop(worker)
    assert worker.wait(60) == 0

    # One that has not come as far as the table of workers ends as well.
    early = shell.start("worker", "--devices", "cpu", *FOREVER, log="early.log")
    wait_until(lambda: "to=database" in (shell.folder / "early.log").read_text(), 30, what="up")
    _stop(early)
    assert early.wait(60) == 0

    late = shell.start("worker", "--devices", "cpu", log="late.log")
    wait_until(lambda: "to=database" in (shell.folder / "late.log").read_text(), 30, what="up")
    own_postgres.start()
    load.assert_complete()
    assert late.poll() is None


def test_a_rolling_restart_loses_and_repeats_nothing(quick_shell: Shell, gate: Path) -> None:
    shell = quick_shell
    shell.env["TEXTMILL_LEASE_SECONDS"] = "30"
    options = ("--slots", "1", "--drain-seconds", "10")
    workers = [shell.start_worker(*options), shell.start_worker(*options)]
    # On a slow machine the job may come to its last record before all workers have been replaced.
    # That one waits for them, and is then given back when its worker's drain time is over.
    load = Load(shell, 800, last=f"wait {gate}")
    load.wait_for_results()
    for _ in range(4):
        workers.append(shell.start_worker(*options))
        oldest = workers.pop(0)
        _stop(oldest)
        assert oldest.wait(60) == 0
    assert load.done < len(load.lines)
    gate.touch()
    load.assert_complete()
    assert len(worker_pids(shell, 2)) == 2
    *others, _ = sorted(load.rows("chunks"), key=lambda chunk: int(chunk["id"]))
    assert {chunk["attempt"] for chunk in others} == {1}, "done once"
