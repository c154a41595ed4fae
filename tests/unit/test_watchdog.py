"""What the watchdog takes for a fault: hung batches, hung loads, lost devices, starvation."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from textmill.core.settings import Settings
from textmill.workers import watchdog
from textmill.workers.items import Activity, DeviceLostError
from textmill.workers.watchdog import (
    HUNG_EXIT_CODE,
    REPLACE_EXIT_CODE,
    StarvationClock,
    WakeClock,
    find_fault,
)

LIMITS = Settings(batch_timeout_seconds=10, load_timeout_seconds=100)


LOST = DeviceLostError("gone")


def slots(seconds: float) -> Any:
    return SimpleNamespace(began=time.monotonic() - seconds if seconds else None)


def engine(activity: Activity, silent: float, **fields: Any) -> Any:
    began = time.monotonic() - silent
    known = {"name": "m", "failure": None, "was_ready": True, "slot_work": slots(0), **fields}
    return cast(Any, SimpleNamespace(activity=activity, last_progress=began, **known))


@pytest.mark.parametrize(
    ("found", "exit_code", "unloadable"),
    [
        (engine(Activity.FORWARD, 11), HUNG_EXIT_CODE, None),
        (engine(Activity.IDLE, 0, slot_work=slots(11)), HUNG_EXIT_CODE, None),
        (engine(Activity.LOAD, 101), REPLACE_EXIT_CODE, "m"),
        (engine(Activity.WARM_UP, 101), REPLACE_EXIT_CODE, "m"),
        (engine(Activity.IDLE, 0, failure=LOST), HUNG_EXIT_CODE, None),
        (engine(Activity.IDLE, 0, failure=LOST, was_ready=False), REPLACE_EXIT_CODE, None),
    ],
)
def test_a_fault_is_found_with_what_it_counts_as(
    found: Any, exit_code: int, unloadable: str | None
) -> None:
    fault = find_fault([engine(Activity.IDLE, 1000), found], LIMITS, woke_at=0)
    assert fault is not None
    assert (fault.exit_code, fault.unloadable) == (exit_code, unloadable)


def test_work_within_its_time_is_no_fault() -> None:
    engines = [engine(Activity.FORWARD, 9), engine(Activity.LOAD, 99)]
    engines.append(engine(Activity.IDLE, 1000, slot_work=slots(9)))
    assert find_fault(engines, LIMITS, woke_at=0) is None


def test_the_time_for_which_the_process_was_stopped_counts_for_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moment = time.monotonic()
    monkeypatch.setattr(watchdog, "time", SimpleNamespace(monotonic=lambda: moment))
    clock = WakeClock()
    busy = engine(Activity.FORWARD, 0)
    moment += 0.5
    assert find_fault([busy], LIMITS, woke_at=clock.look()) is None
    moment += 600  # stopped
    assert find_fault([busy], LIMITS, woke_at=clock.look()) is None
    for _ in range(25):  # awake, and the batch still hangs
        moment += 0.5
        fault = find_fault([busy], LIMITS, woke_at=clock.look())
    assert fault is not None


def test_a_worker_is_starved_only_after_a_while_without_any_message(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = StarvationClock(60)
    moment = 1000.0
    monkeypatch.setattr(watchdog, "time", SimpleNamespace(monotonic=lambda: moment))
    assert not clock.is_starved(waiting=True, free_slots=2, messages=1)
    moment += 50
    assert not clock.is_starved(waiting=True, free_slots=2, messages=1)
    moment += 50
    assert not clock.is_starved(waiting=True, free_slots=2, messages=2), "one has arrived meanwhile"
    moment += 1
    assert not clock.is_starved(waiting=True, free_slots=2, messages=2)
    moment += 61
    assert not clock.is_starved(waiting=False, free_slots=2, messages=2)
    assert not clock.is_starved(waiting=True, free_slots=2, messages=2)
    moment += 61
    assert clock.is_starved(waiting=True, free_slots=2, messages=2)
