"""``textmill worker`` and ``textmill up``: starting what does the work."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from textmill.producer.cli import options as o

if TYPE_CHECKING:
    from textmill.core.settings import Settings

Slots = Annotated[
    int | None,
    typer.Option(help="Chunks held at once by each device.", min=1, show_default="4"),
]
DrainSeconds = Annotated[
    float | None,
    typer.Option(help="Time to finish what runs after SIGTERM.", min=0, show_default="30"),
]


def worker(
    devices: o.Devices = "auto",
    queues: o.Queues = "default",
    slots: Slots = None,
    drain_seconds: DrainSeconds = None,
) -> None:
    """Work on jobs until stopped: one process per device under a supervisor.

    \b
    Examples:
      textmill worker
      textmill worker --devices cuda:0,cuda:1 --queues translations
    """
    from textmill.core.settings import load_settings

    load_settings()  # its errors are told here, before this process is replaced
    require_worker_packages()
    arguments = worker_command(devices, queues, slots, drain_seconds)
    # Replaced, not a child: signals reach the supervisor, also as process 1 of a container.
    os.execv(arguments[0], arguments)


def worker_command(
    devices: str, queues: str, slots: int | None = None, drain_seconds: float | None = None
) -> list[str]:
    """The command line of the supervisor; ``-P``, so that the current folder shadows nothing.

    Raises InvalidJobError for a queue that no job can be meant for.
    """
    from textmill.core.messages import require_queue

    for name in filter(None, map(str.strip, queues.split(","))):
        require_queue(name)
    command = [sys.executable, "-P", "-m", "textmill.workers"]
    command += ["--devices", devices, "--queues", queues]
    if slots is not None:
        command += ["--slots", str(slots)]
    if drain_seconds is not None:
        command += ["--drain-seconds", str(drain_seconds)]
    return command


def require_worker_packages() -> None:
    """Raise ConfigurationError if this machine has no torch or transformers."""
    from textmill.core.errors import ConfigurationError

    missing = [name for name in ("torch", "transformers") if not importlib.util.find_spec(name)]
    if missing:
        raise ConfigurationError(
            f"a worker needs {' and '.join(missing)}, not installed here: "
            "pip install 'textmill[worker]'"
        )


def start_worker(
    command: Sequence[str], log: IO[bytes] | None = None, settings: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """A supervisor as a child that ends with this process, in a session of its own.

    Of its own, so that Ctrl-C in the terminal reaches only this process, which then decides.
    ``settings`` are variables that it gets beside those of this process.
    """
    return subprocess.Popen(
        [*command, "--end-with-parent"],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        start_new_session=True,
        env={**os.environ, **(settings or {})},
    )


def stop_worker(process: subprocess.Popen[bytes]) -> None:
    """Let it drain; a second Ctrl-C meanwhile stops it at once."""
    process.terminate()
    try:
        process.wait()
    except KeyboardInterrupt:
        process.terminate()
        process.wait()


def worker_log(settings: Settings) -> Path:
    """Where the worker of ``run`` and ``up`` writes."""
    return settings.home / "logs" / "worker.log"


def describe_end(code: int) -> str:
    """``was killed by SIGKILL`` or ``ended with exit code 1``."""
    if code >= 0:
        return f"ended with exit code {code}"
    known = {one.value: one.name for one in signal.Signals}
    return f"was killed by {known.get(-code, f'signal {-code}')}"
