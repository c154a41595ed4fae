"""What is under attack: real servers, two hosts with a supervisor and a worker each, one database.

Fixed while a seed runs: two hosts. A host that a fault ended is started again by the fault itself
or by ``mend``.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from textmill.core.broker import Publisher
from textmill.core.settings import load_settings
from textmill.db.schema import upgrade
from textmill.db.session import Database

from ...servers import PostgresServer, ValkeyServer, die_with_parent

ROOT = Path(__file__).parents[3]
LEASE_SECONDS = 1.5
WORKER_SETTINGS = {
    "TEXTMILL_PLUGINS": "fake_tasks",
    "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'plugins'}",  # this tree, in any copy
    "TEXTMILL_SLOTS": "2",
    "TEXTMILL_LEASE_SECONDS": str(LEASE_SECONDS),
    "TEXTMILL_SWEEP_SECONDS": "0.3",
    "TEXTMILL_DISPATCH_GRACE_SECONDS": "0.5",
    "TEXTMILL_STARVATION_SECONDS": "4",
    "TEXTMILL_DRAIN_SECONDS": "3",
}


class Host:
    """One machine: a supervisor with one worker process."""

    def __init__(self, number: int, environment: dict[str, str], folder: Path) -> None:
        self.log = folder / f"host{number}.log"
        self._environment = environment
        self._folder = folder
        self.supervisor: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the supervisor unless it runs; it starts its worker."""
        if self.running:
            return
        with self.log.open("ab") as log:
            self.supervisor = subprocess.Popen(
                [sys.executable, "-P", "-m", "textmill.workers", "--devices", "cpu"],
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent,
            )

    @property
    def running(self) -> bool:
        """True while the supervisor lives."""
        return self.supervisor is not None and self.supervisor.poll() is None

    def worker(self) -> psutil.Process | None:
        """Its worker process, if there is one now."""
        if not self.running or self.supervisor is None:
            return None
        try:
            for child in psutil.Process(self.supervisor.pid).children():
                if "textmill.workers.app" in child.cmdline():
                    return child
        except psutil.Error:
            pass
        return None

    def processes(self) -> list[psutil.Process]:
        """The supervisor, then its worker."""
        if not self.running or self.supervisor is None:
            return []
        worker = self.worker()
        return [psutil.Process(self.supervisor.pid), *([worker] if worker else [])]

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Signal every process of it and wait for the supervisor."""
        for process in self.processes():
            send(process, signal.SIGCONT)
            send(process, number)
        if self.supervisor is not None:
            self.supervisor.wait()


def send(process: psutil.Process, number: signal.Signals) -> None:
    """A signal to a process that may have ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)


class Servers:
    """The broker and the database server of all seeds of a run."""

    def __init__(self, database: str) -> None:
        self.kind = database
        self.broker = ValkeyServer()
        # A commit that was answered must survive a crash of the server.
        durable = {"synchronous_commit": "on"}
        self.postgres = PostgresServer(**durable) if database == "postgresql" else None

    def __enter__(self) -> Servers:
        self.broker.start()
        if self.postgres is not None:
            self.postgres.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.broker.close()
        if self.postgres is not None:
            self.postgres.close()

    def mend(self) -> None:
        """Start what is down."""
        self.broker.unpause() if self.broker.running else self.broker.start()
        if self.postgres is not None and not self.postgres.running:
            self.postgres.start()


class Mill:
    """A fresh database and two hosts; ``with`` starts them and ends them for good."""

    def __init__(self, servers: Servers) -> None:
        self.servers = servers
        self.broker = servers.broker
        self.folder = Path(tempfile.mkdtemp(prefix="textmill-faults-"))
        self.kept = False  # the folder, with its logs
        self.jobs: dict[str, str] = {}  # id by name
        self.old_messages: list[bytes] = []  # seen in the broker, to come again
        sqlite = f"sqlite:///{self.folder / 'textmill.db'}"
        self.url = servers.postgres.create_database() if servers.postgres else sqlite
        self.settings = load_settings(
            home=str(self.folder),
            database_url=self.url,
            broker_url=servers.broker.url,
            lease_seconds=LEASE_SECONDS,
            dispatch_grace_seconds=0.5,
        )
        self.database = Database.open(self.settings)
        self.publisher = Publisher(self.settings)
        environment = os.environ | WORKER_SETTINGS
        environment |= {
            "TEXTMILL_HOME": str(self.folder),
            "TEXTMILL_DATABASE_URL": self.url,
            "TEXTMILL_BROKER_URL": servers.broker.url,
        }
        self.hosts = [Host(number, environment, self.folder) for number in (1, 2)]

    def __enter__(self) -> Mill:
        self.broker.flush()
        upgrade(self.database)
        for host in self.hosts:
            host.start()
        return self

    def __exit__(self, *exc: object) -> None:
        for process in self._processes():
            send(process, signal.SIGKILL)
        for host in self.hosts:
            host.end()
        self.servers.mend()
        self.publisher.close()
        self.database.close()
        if self.servers.postgres is not None:
            self.servers.postgres.drop_database(self.url)
        if not self.kept:
            shutil.rmtree(self.folder, ignore_errors=True)

    def mend(self) -> None:
        """Servers up, hosts up, nobody stopped."""
        self.servers.mend()
        for host in self.hosts:
            for process in host.processes():
                send(process, signal.SIGCONT)
            host.start()

    def _processes(self) -> list[psutil.Process]:
        """Every process in this folder; one whose supervisor was killed is nobody's child."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.cwd() == str(self.folder):
                    found.append(process)
        return found

    def logs(self) -> str:
        """What both hosts have logged."""
        return "".join(host.log.read_text() for host in self.hosts if host.log.exists())

    def lock_sqlite(self) -> Callable[[], None]:
        """Keep every writer out; returns how to let them in again."""
        done = threading.Event()

        def hold() -> None:
            engine = create_engine(self.url)
            with engine.connect() as connection:
                driver = connection.connection.driver_connection
                assert driver is not None
                driver.isolation_level = None
                connection.execute(text("PRAGMA busy_timeout = 100"))
                while not done.is_set():
                    with contextlib.suppress(OperationalError):  # a stopped worker holds the lock
                        connection.exec_driver_sql("BEGIN IMMEDIATE")
                        done.wait()
                        connection.exec_driver_sql("ROLLBACK")
            engine.dispose()

        thread = threading.Thread(target=hold)
        thread.start()

        def release() -> None:
            done.set()
            thread.join()

        return release
