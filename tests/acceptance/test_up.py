"""``textmill up``: one in a data folder, and what it says when its worker is killed."""

from __future__ import annotations

import os
import signal
import subprocess

import psutil

from ..servers import wait_until
from .conftest import FAKE, Shell, assert_user_error


def _up(shell: Shell) -> subprocess.Popen[str]:
    before = len(shell.workers())
    process = shell.start("up", "--devices", "cpu", log=f"up-{len(shell.started)}.log")
    wait_until(lambda: len(shell.workers()) > before, 60, what="with a live worker")
    return process


def test_up_says_that_its_supervisor_was_killed_and_how_to_go_on(shell: Shell) -> None:
    process = _up(shell)
    shell.wait_for_log("ready", "up-0.log")  # from then on it leaves the table as it ends
    (supervisor,) = psutil.Process(process.pid).children()
    os.kill(supervisor.pid, signal.SIGKILL)
    assert process.wait(60) == 1
    log = shell.log("up-0.log")
    assert "error: the worker's supervisor was killed by SIGKILL" in log
    assert "go on     textmill up" in log
    assert "Traceback" not in log
    wait_until(lambda: not shell.workers(), 60, what="without the worker it left")

    _up(shell)  # as it says
    job = shell.submit(shell.write("texts.txt", "a\n"), *FAKE)
    assert shell.run("watch", job).returncode == 0


def test_a_second_up_in_one_data_folder_is_refused_and_harms_nothing(shell: Shell) -> None:
    first = _up(shell)
    second = shell.run("up", "--devices", "cpu")
    assert_user_error(second, "runs already", f"process {first.pid} on host", "textmill worker")
    assert second.stderr.count("\n") == 1
    assert first.poll() is None
    assert len(shell.workers()) == 1

    first.send_signal(signal.SIGTERM)
    assert first.wait(60) == 0
    third = _up(shell)
    third.send_signal(signal.SIGINT)
    assert third.wait(60) == 0
