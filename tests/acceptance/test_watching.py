"""``textmill watch`` while nothing moves: it says why, once, and goes on when it can."""

from __future__ import annotations

import json
import signal
import subprocess

from ..servers import ValkeyServer, wait_until
from .conftest import FAKE, Shell


def _watch(shell: Shell, job: str, *options: str) -> subprocess.Popen[str]:
    return shell.start("watch", job, *options, log="watch.log")


def test_watch_says_once_that_there_is_no_worker(shell: Shell) -> None:
    job = shell.submit(shell.write("texts.txt", "a\nb\n"), *FAKE)
    watching = _watch(shell, job)
    shell.wait_for_log("waiting: no live worker serves queue 'default'", "watch.log")
    asking = _watch(shell, job, "--json")
    shell.wait_for_log('"waiting":"no live worker', "watch.log")  # it asks twice meanwhile
    shell.start_worker()
    assert watching.wait(60) == asking.wait(60) == 0
    log = shell.log("watch.log")
    assert log.count("waiting: no live worker") == 1
    last = json.loads([line for line in log.splitlines() if line.startswith("{")][-1])
    assert last["status"] == "completed"


def test_watch_says_that_the_job_waits_behind_others(shell: Shell) -> None:
    gate = shell.folder / "gate"
    shell.start_worker("--slots", "1")
    shell.submit(shell.write("long.txt", f"wait {gate}\n"), *FAKE)
    wait_until(lambda: shell.rows("jobs")[0]["status"] == "running", 60, what="running")
    watching = _watch(shell, shell.submit(shell.write("texts.txt", "a\n"), *FAKE))
    shell.wait_for_log("waiting: behind other work: 1 chunk of 1 other job", "watch.log")
    gate.touch()
    assert watching.wait(60) == 0


def test_watch_and_run_say_that_the_broker_is_away(
    broker_shell: Shell, own_valkey: ValkeyServer
) -> None:
    shell = broker_shell
    shell.start_worker()
    own_valkey.kill()
    job = shell.submit(shell.write("texts.txt", "a\n"), *FAKE)
    watching = _watch(shell, job)
    running = shell.start("run", "--resume", job, log="run.log")
    for log in ("watch.log", "run.log"):
        shell.wait_for_log("waiting: the broker", log)
    own_valkey.start()
    assert watching.wait(90) == running.wait(90) == 0
    assert shell.log("watch.log").count("waiting: the broker") == 1


def test_ctrl_c_ends_a_watch_that_waits(shell: Shell) -> None:
    job = shell.submit(shell.write("texts.txt", "a\n"), *FAKE)
    assert shell.run("pause", job).returncode == 0
    watching = _watch(shell, job)
    shell.wait_for_log(f"waiting: the job is paused; `textmill resume {job}`", "watch.log")
    watching.send_signal(signal.SIGINT)
    assert watching.wait(60) == 0
