"""The supervisor alone, without children: its signals."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

# It waits for no time at all between two looks, so that a signal finds it anywhere.
SUPERVISE = """
from textmill.core.settings import load_settings
from textmill.workers import supervisor

supervisor.POLL_SECONDS = 0.0
found = supervisor.Supervisor(load_settings(), [], ["normal"], lambda: print("up", flush=True))
raise SystemExit(found.run())
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_wherever_it_is(number: signal.Signals) -> None:
    command = [sys.executable, "-c", SUPERVISE]
    for _ in range(3):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout and process.stdout.readline() == "up\n"
                process.send_signal(number)
                assert process.wait(30) == 0
            finally:
                process.kill()
