"""``textmill up``: the embedded services and one worker, kept for other terminals."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from textmill.producer.cli import options as o
from textmill.producer.cli.context import open_context
from textmill.producer.cli.worker import (
    Slots,
    describe_end,
    require_worker_packages,
    start_worker,
    stop_worker,
    worker_command,
)
from textmill.producer.terminal import say

if TYPE_CHECKING:
    from textmill.core.settings import Settings


def up(
    devices: o.Devices = "auto",
    queues: o.Queues = "default",
    slots: Slots = None,
) -> None:
    """Keep the embedded services and a worker running for other terminals, until Ctrl-C.

    One at a time in a data folder; `textmill worker` adds more workers.

    \b
    Example:
      textmill up
    """
    from textmill.core.embedded import EmbeddedServices
    from textmill.core.settings import load_settings
    from textmill.producer.summary import database_place

    settings = load_settings()
    require_worker_packages()
    command = worker_command(devices, queues, slots)
    with _only_one(settings):
        with open_context():  # makes the tables, or says what is wrong with the database
            pass
        with EmbeddedServices(settings):
            process = start_worker(command)
            say(f"database  {database_place(settings)}")
            say(
                "next      textmill submit FILE --model MODEL    (in another terminal; Ctrl-C ends)"
            )
            code = _wait_for_worker(process)
    raise typer.Exit(code)


@contextmanager
def _only_one(settings: Settings) -> Iterator[None]:
    """Hold the data folder's place for one ``textmill up``; raises AlreadyRunningError."""
    import fcntl

    from textmill.core.errors import AlreadyRunningError
    from textmill.core.folders import folder_errors
    from textmill.core.locks import open_lock, read_holder, try_lock, write_holder

    path = settings.home / "up.lock"
    with folder_errors(settings.home):
        settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = open_lock(path)
    try:
        if not try_lock(lock, fcntl.LOCK_EX):
            holder = read_holder(path)
            raise AlreadyRunningError(
                f"`textmill up` runs already in the data folder {settings.home}, as process "
                f"{holder.get('pid', '(unknown)')} on host {holder.get('host', '(unknown)')}: "
                "submit to it, or add workers with `textmill worker`"
            )
        write_holder(lock, pid=os.getpid(), host=platform.node())
        yield
    finally:
        os.close(lock)


def _wait_for_worker(process: subprocess.Popen[bytes]) -> int:
    """Until it ends or is told to; returns our exit code, and says why if it ended by itself."""
    told = False

    def stop(*_: object) -> None:
        nonlocal told
        told = True
        process.terminate()

    signal.signal(signal.SIGTERM, stop)
    try:
        code = process.wait()
    except KeyboardInterrupt:
        say("stopping; Ctrl-C again stops at once")
        stop_worker(process)
        return 0
    if told:
        return 1 if code else 0
    say(f"error: the worker's supervisor {describe_end(code)}; nothing that was accepted is lost")
    say("go on     textmill up")
    return 2 if code == 2 else 1
