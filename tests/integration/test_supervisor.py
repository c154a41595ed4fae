"""The supervisor alone, without children: its signals."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from textmill.workers.supervisor import _describe

# It waits for no time at all between two looks, so that a signal finds it anywhere.
SUPERVISE = """
import sys, time
from textmill.core.settings import load_settings
from textmill.workers import supervisor

def ensure_services():
    print("up", flush=True)
    if sys.argv[1] == "hang":
        time.sleep(3600)

supervisor.POLL_SECONDS = 0.0
found = supervisor.Supervisor(load_settings(), [], ["normal"], ensure_services)
raise SystemExit(found.run())
"""


@pytest.mark.parametrize("services", ["answer", "hang"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_wherever_it_is(number: signal.Signals, services: str) -> None:
    command = [sys.executable, "-c", SUPERVISE, services]
    for _ in range(3):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout and process.stdout.readline() == "up\n"
                process.send_signal(number)
                assert process.wait(30) == 0
            finally:
                process.kill()


def test_it_can_name_every_end_of_a_worker() -> None:
    assert _describe(-signal.SIGKILL) == "killed by SIGKILL"
    assert _describe(3) == "exit code 3"
    assert all(_describe(-number).startswith("killed by ") for number in range(1, 65))
