"""The supervisor: one worker process per device, each replaced when it dies.

It computes nothing and imports no torch. A dead child's leases end at once, so its chunks are not
held up until they expire; a stopping child gets the drain time, then its chunks are given back.
"""

from __future__ import annotations

import os
import platform
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType

import structlog

from textmill.core.broker import Publisher
from textmill.core.errors import (
    ConfigurationError,
    InvalidJobError,
    TextmillError,
    describe_error,
)
from textmill.core.settings import Settings
from textmill.db import workers as worker_table
from textmill.db.chunks import give_back
from textmill.db.session import Database
from textmill.db.sweep import sweep_and_publish
from textmill.workers.lifeline import Pulse
from textmill.workers.watchdog import REPLACE_EXIT_CODE

POLL_SECONDS = 0.1
SERVICES_SECONDS = 5.0  # between two looks at the bundled broker
FIRST_RESTART_SECONDS = 0.5
LONGEST_RESTART_SECONDS = 30.0
KILL_SECONDS = 5.0  # until a process that was killed must be gone
RELEASE_SECONDS = 10.0  # for giving back at the end of a drain; else the leases run out
OWN_EXIT_CODES = (0, InvalidJobError.exit_code, REPLACE_EXIT_CODE)
STEADY_SECONDS = 60.0  # a child that lived this long starts its backoff anew

log = structlog.get_logger("textmill.supervisor")


class Child:
    """One device's worker process and the memory of its restarts."""

    def __init__(self, device: str, queues: Sequence[str], settings: Settings) -> None:
        self.device = device
        self.queues = queues
        self.settings = settings
        self.pause = FIRST_RESTART_SECONDS
        self.restart_at = 0.0
        self.pulse: Pulse | None = None
        self.id = ""

    def start(self) -> None:
        """Start a process under a new worker id."""
        self.id = f"{platform.node()}:{self.device}:{secrets.token_hex(3)}"
        self.started_at = time.monotonic()
        command = [sys.executable, "-P", "-m", "textmill.workers.app"]
        command += ["--id", self.id, "--device", self.device]
        command += ["--queues", ",".join(self.queues), "--slots", str(self.settings.slots)]
        self.pulse = Pulse(command, self.settings.lease_seconds)

    @property
    def process(self) -> subprocess.Popen[bytes] | None:
        """Its process, dead or alive, until its death was dealt with."""
        return None if self.pulse is None else self.pulse.process

    @property
    def running(self) -> bool:
        """True while the process lives."""
        return self.process is not None and self.process.poll() is None

    @property
    def crashed(self) -> bool:
        """True if native code or the OOM killer ended it, or it hung or got stuck.

        An exit of its own, for a broker's sake say, is no chunk's fault, and being stopped neither.
        """
        if self.pulse is None or self.pulse.was_stopped:
            return False
        return self.pulse.process.returncode not in OWN_EXIT_CODES

    def signal(self, number: signal.Signals) -> None:
        """Send a signal if it still lives."""
        if self.process is not None:
            self.process.send_signal(number)

    def plan_restart(self) -> None:
        """Restart after a pause that doubles while it keeps dying young."""
        self.pulse = None
        if time.monotonic() - self.started_at > STEADY_SECONDS:
            self.pause = FIRST_RESTART_SECONDS
        self.restart_at = time.monotonic() + self.pause
        self.pause = min(2 * self.pause, LONGEST_RESTART_SECONDS)

    def restart_soon(self) -> None:
        """It died over its chunks: a record that kills workers is found by halving, quickly."""
        self.pause = FIRST_RESTART_SECONDS
        self.restart_at = min(self.restart_at, time.monotonic() + self.pause)


class Supervisor:
    """Keeps one child per device until SIGTERM or SIGINT. A second signal stops at once."""

    def __init__(
        self,
        settings: Settings,
        devices: Sequence[str],
        queues: Sequence[str],
        ensure_services: Callable[[], None],
    ) -> None:
        self.settings = settings
        self._ensure_services = ensure_services
        self.children = [Child(device, queues, settings) for device in devices]
        self.stop_requests = 0
        self.exit_code = 0

    def run(self) -> int:
        """Supervise until told to stop; returns the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        threading.Thread(target=self._tend_services, name="services", daemon=True).start()
        while not self.stop_requests:
            for child in self.children:
                self._tend(child)
            time.sleep(POLL_SECONDS)
        self._drain()
        return self.exit_code

    def request_stop(self) -> None:
        """Stop gracefully; called a second time, at once.

        Runs inside signal handlers, so it takes no lock: its own thread may hold it.
        """
        self.stop_requests += 1

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.request_stop()

    def _tend(self, child: Child) -> None:
        if child.running:
            return
        if child.process is not None:
            code = child.process.returncode
            if code == InvalidJobError.exit_code:  # a setting is wrong: no restart mends that
                self.exit_code = code
                child.pulse = None
                self.request_stop()
                return
            log.error("worker died", worker=child.id, exit=_describe(code))
            crashed = child.crashed
            child.plan_restart()  # first: the release may bring it forward
            self._start_release(child, crashed=crashed)
        elif time.monotonic() >= child.restart_at:
            try:
                child.start()
            except OSError as error:  # no room for a process now, after an OOM kill say
                log.error("worker not started", reason=str(error))
                child.plan_restart()

    def _tend_services(self) -> None:
        """The bundled broker has a keeper; if somebody ends both, they are started again here.

        In a thread: a broker that hangs takes long to be found out, and no child waits for that.
        """
        while not self.stop_requests:
            try:
                self._ensure_services()
            except (TextmillError, OSError) as error:
                log.warning("services not started", reason=str(error))
            time.sleep(SERVICES_SECONDS)

    def _drain(self) -> None:
        """SIGTERM, the drain time, then the chunks are given back and the process is killed."""
        for child in self.children:
            child.signal(signal.SIGTERM)
        deadline = time.monotonic() + self.settings.drain_seconds
        while any(child.running for child in self.children):
            if time.monotonic() > deadline or self.stop_requests > 1:
                break
            time.sleep(POLL_SECONDS)
        for child in self.children:
            if child.running:
                why = "told twice" if self.stop_requests > 1 else "drain time is over"
                log.warning(why, worker=child.id)
                child.signal(signal.SIGKILL)
        releases = [
            self._start_release(child, crashed=False)
            for child in self.children  # those that could not give back their chunks themselves
            if child.process is not None and _wait(child.process) != 0
        ]
        deadline = time.monotonic() + RELEASE_SECONDS
        for release in releases:
            release.join(max(0.0, deadline - time.monotonic()))

    def _start_release(self, child: Child, *, crashed: bool) -> threading.Thread:
        """Release in a thread: a database that is away or locked must hold up no other child."""
        arguments = (child, child.id, crashed)
        thread = threading.Thread(target=self._release, args=arguments, daemon=True)
        thread.start()
        return thread

    def _release(self, child: Child, worker_id: str, crashed: bool) -> None:
        """End the leases of a worker that is gone. On failure they run out by themselves."""
        try:
            database = Database.open(self.settings)
            try:
                chunks = database.transact(give_back, worker_id, crashed=crashed)
                if chunks:
                    child.restart_soon()
                database.transact(worker_table.forget_worker, worker_id)
                if chunks and not self.stop_requests:
                    self._dispatch_again(database)
            finally:
                database.close()
        except Exception as error:  # whatever it is, the other devices go on
            log.warning("leases left to run out", worker=worker_id, reason=describe_error(error))
        else:
            log.info("released", worker=worker_id, chunks=chunks)

    def _dispatch_again(self, database: Database) -> None:
        """Sweep at once, so that what was released does not wait for somebody's next round."""
        publisher = Publisher(self.settings)
        try:
            sweep_and_publish(database, self.settings, publisher)
        finally:
            publisher.close()


def _wait(process: subprocess.Popen[bytes]) -> int | None:
    """Its exit code; None if not even SIGKILL ends it, because a device's driver hangs, say."""
    try:
        return process.wait(KILL_SECONDS)
    except subprocess.TimeoutExpired:
        return None


def _describe(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    names = {one.value: one.name for one in signal.Signals}  # not all real-time signals have one
    return f"killed by {names.get(-code, f'signal {-code}')}"


def find_devices(wanted: str) -> list[str]:
    """The devices of ``--devices``: as named, or for ``auto`` every NVIDIA GPU, else one ``auto``.

    Asks in a process of its own, because a parent that imported torch could not fork safely.
    """
    if wanted != "auto":
        devices = [device.strip() for device in wanted.split(",") if device.strip()]
        if not devices:
            raise ConfigurationError(
                f"--devices is {wanted!r}; expected auto, or a list such as cuda:0,cuda:1 or cpu"
            )
        return devices
    if not os.path.exists("/dev/nvidiactl"):  # noqa: PTH110 - a device file, not a path of ours
        return ["auto"]
    found = subprocess.run(
        [sys.executable, "-P", "-m", "textmill.workers.runners.devices"],
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.split() or ["auto"]
