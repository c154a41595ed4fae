"""Waiting for a database or a broker that is away: backs off, says so once, goes on by itself."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

import structlog

from textmill.core.patience import keep_trying

R = TypeVar("R")

log = structlog.get_logger("textmill.worker")


def patiently(action: Callable[[], R], *, what: str, stopping: threading.Event) -> R:
    """``action()``, again while its service is away; raises its error once ``stopping`` is set."""
    return keep_trying(
        action,
        pause=stopping.wait,
        away=lambda error: log.warning("waiting", to=what, reason=str(error)),
        back=lambda: log.info("going on", waited_for=what),
    )
