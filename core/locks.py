"""Locks between processes on one host: ``flock`` on files that are never deleted.

A lock belongs to an open file and is freed when the last process that has it open ends, however it
ends. What the holder tells about itself is written into the file.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def open_lock(path: Path) -> int:
    """The lock file, made if missing; programs this process starts do not inherit it."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def try_lock(file: int, kind: int) -> bool:
    """Take ``fcntl.LOCK_SH`` or ``LOCK_EX`` without waiting; False if another has it."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_free(path: Path) -> bool:
    """True if nobody holds the lock exclusively at this moment."""
    file = open_lock(path)
    try:
        return try_lock(file, fcntl.LOCK_SH)
    finally:
        os.close(file)


def wait_for(condition: Callable[[], object], seconds: float) -> bool:
    """Poll until the condition is true; False if it was not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def read_holder(path: Path) -> dict[str, Any]:
    """What the holder of a lock wrote about itself; empty if there is nothing to read."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_holder(file: int, **facts: object) -> None:
    """Replace what the lock file tells about its holder."""
    content = json.dumps(facts).encode()
    os.ftruncate(file, 0)
    os.pwrite(file, content, 0)
