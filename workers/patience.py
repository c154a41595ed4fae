"""Waiting for a database or a broker that is away: backs off, says so once, goes on by itself."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

import structlog

from textmill.core.errors import ServiceUnavailableError

R = TypeVar("R")

FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 5.0

log = structlog.get_logger("textmill.worker")


def patiently(action: Callable[[], R], *, what: str, stopping: threading.Event) -> R:
    """``action()``, again while its service is away; raises its error once ``stopping`` is set."""
    pause = FIRST_PAUSE_SECONDS
    while True:
        try:
            result = action()
        except ServiceUnavailableError as error:
            if pause == FIRST_PAUSE_SECONDS:
                log.warning("waiting", to=what, reason=str(error))
            if stopping.wait(pause):
                raise
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        else:
            if pause > FIRST_PAUSE_SECONDS:
                log.info("going on", with_=what)
            return result
