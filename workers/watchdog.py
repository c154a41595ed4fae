"""The watchdog: what is wrong with this worker that only a new process mends.

A hung kernel cannot be interrupted from Python, a lost device stays lost until its process ends,
and a consumer that has lost its broker without noticing looks alive. The supervisor starts anew.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from textmill.core.settings import Settings
from textmill.workers.engine import Engine
from textmill.workers.items import Activity, DeviceLostError

HUNG_EXIT_CODE = 70  # a batch hangs or lost the device: a crash of the chunks that are held
REPLACE_EXIT_CODE = 71  # nothing that a chunk has done
ASLEEP_SECONDS = 5.0  # between two looks that should be half a second apart


@dataclass(frozen=True, slots=True)
class Fault:
    """Why the process must end, with which exit code, and the model if its load is to blame."""

    reason: str
    exit_code: int
    unloadable: str | None = None


class WakeClock:
    """When this process last woke: it may have been stopped, or its machine suspended.

    What stood still then is not to be taken for a hung batch.
    """

    def __init__(self) -> None:
        self.woke_at = self._looked_at = time.monotonic()

    def look(self) -> float:
        """The time of the last waking, in seconds of the monotonic clock; called every moment."""
        now = time.monotonic()
        if now - self._looked_at > ASLEEP_SECONDS:
            self.woke_at = now
        self._looked_at = now
        return self.woke_at


def find_fault(engines: Iterable[Engine], settings: Settings, *, woke_at: float) -> Fault | None:
    """The first fault of any engine; time limits are those of the settings, in seconds.

    They count from ``woke_at`` on (see WakeClock).
    """
    now = time.monotonic()
    for engine in engines:
        if isinstance(engine.failure, DeviceLostError):
            in_batch = engine.was_ready  # else while it loaded, which no chunk has done
            return Fault(str(engine.failure), HUNG_EXIT_CODE if in_batch else REPLACE_EXIT_CODE)
        silent = now - max(engine.last_progress, woke_at)
        if engine.activity == Activity.FORWARD and silent > settings.batch_timeout_seconds:
            reason = f"model {engine.name} has been in a batch for {silent:.0f} s"
            return Fault(reason, HUNG_EXIT_CODE)
        in_slot = now - max(engine.slot_work.began or now, woke_at)
        if in_slot > settings.batch_timeout_seconds:
            reason = f"a chunk was prepared or joined for model {engine.name} for {in_slot:.0f} s"
            return Fault(reason, HUNG_EXIT_CODE)
        loads = engine.activity in (Activity.LOAD, Activity.WARM_UP)
        if loads and silent > settings.load_timeout_seconds:
            reason = f"model {engine.name} has been loading for {silent:.0f} s"
            return Fault(reason, REPLACE_EXIT_CODE, unloadable=engine.name)
    return None


class StarvationClock:
    """How long dispatched chunks have waited beside free slots without a single message."""

    def __init__(self, limit_seconds: float) -> None:
        self._limit_seconds = limit_seconds
        self._since: float | None = None
        self._messages = 0

    def reset(self) -> None:
        """Begin anew."""
        self._since = None

    def is_starved(self, *, waiting: bool, free_slots: int, messages: int) -> bool:
        """True once that has lasted longer than the limit; called again and again.

        ``messages`` counts all that have ever arrived.
        """
        if not waiting or free_slots <= 0 or messages != self._messages:
            self._since, self._messages = None, messages
            return False
        if self._since is None:
            self._since = time.monotonic()
        return time.monotonic() - self._since > self._limit_seconds
