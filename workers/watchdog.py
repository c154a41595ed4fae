"""The watchdog: a worker whose engine hangs ends itself, and the supervisor starts a new one.

A hung kernel cannot be interrupted from Python, and a thread cannot be killed, so the process is.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from textmill.core.settings import Settings
from textmill.workers.engine import Engine
from textmill.workers.items import Activity

HUNG_EXIT_CODE = 70


def find_hung_engine(engines: Iterable[Engine], settings: Settings) -> str | None:
    """What hangs and for how long, or None. Limits are those of the settings, in seconds."""
    limits = {
        Activity.LOAD: settings.load_timeout_seconds,
        Activity.WARM_UP: settings.load_timeout_seconds,
        Activity.FORWARD: settings.batch_timeout_seconds,
    }
    for engine in engines:
        activity = engine.activity
        silent = time.monotonic() - engine.last_progress
        if activity in limits and silent > limits[activity]:
            return f"model {engine.name} has been in {activity} for {silent:.0f} s"
    return None
