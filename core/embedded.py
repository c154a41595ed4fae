"""The bundled Valkey server of one data folder: started when needed, shared, ended when unused.

Three kinds of process take part, and ``flock`` alone decides between them, so that a SIGKILL of any
of them leaves nothing to clean up first:

* a *command* holds ``services.lock`` shared while it needs the server (``EmbeddedServices``);
* the *keeper* (``core.keeper``) holds ``keeper.lock``; it starts the server, restarts or adopts it,
  and ends it once it could have had ``services.lock`` for itself for a while;
* the *server* holds ``server.lock``, inherited from its keeper: while it lives there is no second.

Speaks its few words of Redis itself: neither Celery nor redis-py is loaded.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textmill.core.errors import ServiceUnavailableError
from textmill.core.folders import folder_errors
from textmill.core.locks import is_free, open_lock, read_holder, try_lock, wait_for

if TYPE_CHECKING:
    from textmill.core.settings import Settings

IDLE_SECONDS = 10.0  # how long nobody may need the server before it ends
START_SECONDS = 10.0  # a server that is not up by then counts as failed
ANSWER_SECONDS = 1.0


class EmbeddedServices:
    """Keeps the bundled server running while the ``with`` block is; does nothing with a broker URL.

    The lock ends with the process, also at ``os.execv``: the program that replaces this one enters
    its own. Raises ServiceUnavailableError if the data folder cannot be written or the server does
    not come up.
    """

    def __init__(self, settings: Settings, *, idle_seconds: float = IDLE_SECONDS) -> None:
        self._settings = settings
        self._idle_seconds = idle_seconds
        self._lock: int | None = None

    def __enter__(self) -> EmbeddedServices:
        if self._settings.embedded_broker:
            home = self._settings.home
            with folder_errors(home):
                home.mkdir(mode=0o700, parents=True, exist_ok=True)
                (home / "logs").mkdir(exist_ok=True)
                self._lock = open_lock(home / "services.lock")
            try:
                # A keeper that is ending holds it for the moment that takes.
                _lock_before(self._lock, fcntl.LOCK_SH, "the old server has not ended")
                self.ensure()
            except BaseException:
                self._release()
                raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._release()

    def ensure(self) -> None:
        """Start what is missing; a command that runs for days may call this now and then."""
        if self._lock is None:
            return
        home = self._settings.home
        with folder_errors(home):
            mutex = open_lock(home / "start.lock")
        try:
            _lock_before(mutex, fcntl.LOCK_EX, "another command is starting it")
            self._start()
        finally:
            os.close(mutex)

    def _start(self) -> None:
        home, path = self._settings.home, self._settings.socket_path
        deadline = time.monotonic() + START_SECONDS
        while True:
            if is_free(home / "keeper.lock"):
                _launch_keeper(home, path, self._idle_seconds)
            _link_socket(path, read_holder(home / "keeper.lock"))
            if answers(path):
                return
            if time.monotonic() > deadline:
                raise _start_error(home, f"did not answer on {path} within {START_SECONDS:g} s")
            time.sleep(0.02)

    def _release(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)


def is_running(settings: Settings) -> bool:
    """True if the bundled server of this data folder answers."""
    return settings.embedded_broker and answers(settings.socket_path)


def hangs(settings: Settings) -> bool:
    """True if the bundled server takes connections and answers none."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(ANSWER_SECONDS)
        try:
            connection.connect(str(settings.socket_path))
        except OSError:
            return False
    return not answers(settings.socket_path)


def stop(settings: Settings) -> None:
    """End keeper and server now, whoever needs them; for tests and for a person who asks."""
    home = settings.home
    if not home.is_dir():
        return
    if not is_free(home / "keeper.lock"):
        with contextlib.suppress(KeyError, ProcessLookupError):
            os.kill(read_holder(home / "keeper.lock")["pid"], signal.SIGTERM)
        wait_for(lambda: is_free(home / "keeper.lock"), START_SECONDS)
    end_server(home, settings.socket_path)


def answers(path: Path) -> bool:
    """True if a server answers PING on this socket."""
    return _ask(path, b"PING\r\n").startswith(b"+PONG")


def _ask(path: Path, command: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(ANSWER_SECONDS)
        try:
            connection.connect(str(path))
            connection.sendall(command)
            return connection.recv(1024)
        except OSError:
            return b""


def _launch_keeper(home: Path, path: Path, idle_seconds: float) -> None:
    """Run the keeper; it returns 0 once a keeper, itself or another, holds ``keeper.lock``."""
    command = [sys.executable, "-P", "-m", "textmill.core.keeper", str(home)]
    options = ["--socket", str(path), "--idle-seconds", str(idle_seconds)]
    with folder_errors(home):
        log = (home / "logs" / "keeper.log").open("ab")
    with log:
        try:
            done = subprocess.run(
                [*command, *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=home,
                start_new_session=True,  # Ctrl-C is for the command
                timeout=START_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise _start_error(home, f"has no keeper after {START_SECONDS:g} s") from None
    if done.returncode:
        raise _start_error(home, "could not be started")


def _link_socket(path: Path, keeper: dict[str, Any]) -> None:
    """Lead our path to the keeper's socket where the two differ.

    A login, a cron job and a batch system give one data folder other XDG_RUNTIME_DIR and TMPDIR.
    """
    target = keeper.get("socket")
    if target in (None, str(path)) or answers(path):
        return
    private_folder(path.parent)
    fresh = path.with_suffix(f".{os.getpid()}")
    fresh.symlink_to(str(target))
    fresh.replace(path)


def _start_error(home: Path, problem: str) -> ServiceUnavailableError:
    parts = [f"the bundled Valkey server of {home} {problem}"]
    host = read_holder(home / "keeper.lock").get("host", socket.gethostname())
    if host != socket.gethostname() and not is_free(home / "keeper.lock"):
        parts.append(f"it runs on host {host}: set TEXTMILL_HOME to a folder of this host's own")
    for name in ("keeper.log", "valkey.log"):
        with contextlib.suppress(OSError):
            lines = (home / "logs" / name).read_text(errors="replace").splitlines()[-5:]
            parts.append("\n  ".join([f"end of {home / 'logs' / name}:", *lines]))
    return ServiceUnavailableError("\n".join(parts))


def private_folder(folder: Path) -> None:
    """Make the socket's folder; it may lie in /tmp, where anybody could have made it before us."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise ServiceUnavailableError(f"cannot make {folder} for a socket: {error}") from error
    private = stat.S_ISDIR(found.st_mode) and not found.st_mode & 0o077
    if not private or found.st_uid != os.getuid():
        raise ServiceUnavailableError(
            f"{folder} is to hold a private socket, but is not a folder that only this user can "
            "enter: remove it, or set XDG_RUNTIME_DIR to a folder of your own"
        )


def _lock_before(file: int, kind: int, otherwise: str) -> None:
    """Take the lock, or raise ServiceUnavailableError; others hold it at most for one start."""
    if not wait_for(lambda: try_lock(file, kind), 2 * START_SECONDS):
        raise ServiceUnavailableError(
            f"the bundled Valkey server is not to be had: {otherwise}; try again"
        )


def end_server(home: Path, path: Path) -> None:
    """Ask it to end, then insist; returns when no server of this data folder lives."""
    lock = home / "server.lock"
    _ask(Path(read_holder(lock).get("socket", path)), b"SHUTDOWN NOSAVE\r\n")
    if not wait_for(lambda: is_free(lock), 5.0):
        with contextlib.suppress(KeyError, ProcessLookupError):
            os.kill(read_holder(lock)["pid"], signal.SIGKILL)
        wait_for(lambda: is_free(lock), 5.0)
