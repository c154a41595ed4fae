"""The lifeline between a supervisor and its worker process: each notices when the other is gone.

The worker's standard input is one end of a socket pair. It closes when the supervisor ends, however
it ends; and a thread of the worker sends a pulse through it. Without a pulse the worker is stopped
or stuck in native code that holds the interpreter: it renews no lease, and on SQLite it may hold
the lock that every other writer waits for, so the supervisor ends it.
"""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import psutil
import structlog

PULSE_SECONDS = 0.25
# A process that is stopped is ended past its lease. One that runs, but silently, is ended in the
# middle of it: its chunks then still are its own, and count the crash that it is. (A lease shorter
# than 20 s may have ended by then: such a record is not found.)
STUCK_SHARE_OF_LEASE = 0.5
STUCK_LEAST_SECONDS = 10.0
NOT_RUNNING = (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP, psutil.STATUS_DISK_SLEEP)

log = structlog.get_logger("textmill.supervisor")


def at_end_of_input(action: Callable[[], None]) -> None:
    """Call ``action`` in a thread once standard input closes: the parent is gone."""

    def watch() -> None:
        # A parent that is killed with pulses unread resets the connection instead of ending it.
        with suppress(ConnectionResetError):
            while os.read(sys.stdin.fileno(), 1024):
                pass
        action()

    threading.Thread(target=watch, name="parent watch", daemon=True).start()


def start_pulse() -> None:
    """Tell the supervisor from now on that this process is alive and its interpreter runs."""

    def beat() -> None:
        while True:
            try:
                os.write(sys.stdin.fileno(), b".")
            except OSError:
                return  # the supervisor is gone
            time.sleep(PULSE_SECONDS)

    threading.Thread(target=beat, name="pulse", daemon=True).start()


class Pulse:
    """The supervisor's end: listens in a thread of its own, and kills a worker that falls silent.

    It must not wait for anything else, the database least of all: the silent worker may hold it.
    """

    def __init__(
        self,
        command: list[str],
        lease_seconds: float,
        *,
        stuck_least_seconds: float = STUCK_LEAST_SECONDS,
    ) -> None:
        """Start the worker. Raises OSError if the system has no room for another process."""
        self._end, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(command, stdin=theirs.fileno(), start_new_session=True)
        self.was_stopped = False  # it was ended for having been stopped, which is no crash
        self._stopped_limit = lease_seconds
        self._stuck_limit = max(STUCK_SHARE_OF_LEASE * lease_seconds, stuck_least_seconds)
        threading.Thread(target=self._listen, name="pulse", daemon=True).start()

    def _listen(self) -> None:
        # Silence is counted in slices, by what the process is in each: one in which this process
        # itself was stopped counts as one slice.
        beating, stopped, stuck = False, 0.0, 0.0
        with self._end:
            while self.process.poll() is None:
                if select.select([self._end], [], [], PULSE_SECONDS)[0]:
                    if not self._end.recv(1024):
                        return
                    beating, stopped, stuck = True, 0.0, 0.0
                elif not beating:
                    continue  # it is still starting
                elif self._is_stopped():
                    stopped += PULSE_SECONDS
                else:
                    stuck += PULSE_SECONDS
                if stopped > self._stopped_limit or stuck > self._stuck_limit:
                    self._kill(was_stopped=stopped > self._stopped_limit)

    def _is_stopped(self) -> bool:
        try:
            return psutil.Process(self.process.pid).status() in NOT_RUNNING
        except psutil.Error:  # it has just ended
            return False

    def _kill(self, *, was_stopped: bool) -> None:
        self.was_stopped = was_stopped
        what = "stopped" if was_stopped else "stuck"
        log.error("no pulse: killed", pid=self.process.pid, it_was=what)
        self.process.kill()
        self.process.wait()
