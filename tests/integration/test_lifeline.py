"""The lifeline of a worker: it and its supervisor notice when the other is gone or stands still."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil

from textmill.workers.lifeline import Pulse

from ..servers import alive, wait_until

WORKER = """
    import os, signal, sys, time
    from textmill.workers.lifeline import at_end_of_input, start_pulse
    at_end_of_input(lambda: os._exit(0))
    {first}
    start_pulse()
    PID = str(os.getpid())
    {then}
    time.sleep(60)
"""


def worker(lease_seconds: float, first: str = "", then: str = "", *, stuck: float = 1.0) -> Pulse:
    """A worker that counts as stuck after ``stuck`` seconds, or half its lease."""
    code = textwrap.dedent(WORKER).format(first=first, then=then)
    return Pulse([sys.executable, "-c", code], lease_seconds, stuck_least_seconds=stuck)


def test_a_stopped_worker_is_killed_past_its_lease_and_that_is_no_crash(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    pulse = worker(1.0, then=f"time.sleep(0.5); open({str(ready)!r}, 'w')", stuck=60)
    wait_until(ready.exists, 30, what="started")
    pulse.process.send_signal(signal.SIGSTOP)
    wait_until(lambda: pulse.process.poll() is not None, 30, what="killed")
    assert pulse.process.returncode == -signal.SIGKILL
    assert pulse.was_stopped


def test_a_worker_that_is_stopped_for_less_than_its_lease_lives_on(tmp_path: Path) -> None:
    ready, woken = tmp_path / "ready", tmp_path / "woken"
    pulse = worker(
        30.0,
        then=f"open({str(ready)!r}, 'w'); os.kill(os.getpid(), signal.SIGSTOP);"
        f" open({str(woken)!r}, 'w')",
    )
    try:
        wait_until(ready.exists, 30, what="started")
        wait_until(
            lambda: psutil.Process(pulse.process.pid).status() == psutil.STATUS_STOPPED,
            30,
            what="stopped",
        )
        time.sleep(2.0)  # past the time after which it would count as stuck
        pulse.process.send_signal(signal.SIGCONT)
        wait_until(woken.exists, 30, what="awake")
        assert pulse.process.poll() is None
    finally:
        pulse.process.kill()
        pulse.process.wait()


def test_a_worker_whose_interpreter_is_stuck_is_killed_and_that_is_a_crash() -> None:
    """One C call that never releases the interpreter: no thread of it runs any more."""
    stuck = "import re; re.match(r'(a+)+$', 'a' * 64 + 'b')"
    pulse = worker(4.0, then=f"time.sleep(0.5); {stuck}")
    wait_until(lambda: pulse.process.poll() is not None, 60, what="killed")
    assert pulse.process.returncode == -signal.SIGKILL
    assert not pulse.was_stopped


def test_a_worker_that_takes_long_to_start_is_not_silent(tmp_path: Path) -> None:
    started = tmp_path / "started"
    slow_start = f"time.sleep(2); open({str(started)!r}, 'w')"
    pulse = worker(0.5, first=slow_start, then="time.sleep(1); os._exit(0)")
    assert pulse.process.wait(60) == 0
    assert started.exists()


def test_a_worker_ends_when_its_supervisor_is_killed_with_pulses_unread(tmp_path: Path) -> None:
    """The supervisor stands still first, so that pulses pile up: its death resets the pair."""
    note = tmp_path / "pid"
    code = textwrap.dedent(WORKER).format(first="", then=f"open({str(note)!r}, 'w').write(PID)")
    supervisor = f"""
        import sys, time
        from textmill.workers.lifeline import Pulse
        Pulse([sys.executable, "-c", {code!r}], 60.0)
        time.sleep(60)
    """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(supervisor)])
    try:
        wait_until(lambda: note.exists() and note.read_text(), 30, what="started")
        pid = int(note.read_text())
        parent.send_signal(signal.SIGSTOP)
        before = _pauses(pid)
        wait_until(lambda: _pauses(pid) > before + 4, 30, what="with pulses unread")
    finally:
        parent.kill()
        parent.wait()
    wait_until(lambda: not alive(pid), 30, what="ended")


def _pauses(pid: int) -> int:
    """How often any of its threads has slept; the one that sends the pulse does so each time."""
    return sum(_sleeps(task) for task in Path(f"/proc/{pid}/task").iterdir())


def _sleeps(task: Path) -> int:
    status = (task / "status").read_text()
    return int(status.partition("voluntary_ctxt_switches:")[2].split()[0])
