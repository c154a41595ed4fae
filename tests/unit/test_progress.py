"""The rates that a person sees while a job runs."""

from __future__ import annotations

import pytest

from textmill.producer.progress import RateMeter

POLL = 0.25


def rates(counts: dict[float, int], until: float) -> list[float | None]:
    """What a meter says at each poll of a job that stands at these counts from these times on."""
    meter = RateMeter()
    polls = [n * POLL for n in range(int(until / POLL))]
    standing = [max((c for t, c in counts.items() if t <= now), default=0) for now in polls]
    return [meter.update(count, now) for count, now in zip(standing, polls, strict=True)]


def test_many_small_chunks_have_the_rate_of_the_last_seconds() -> None:
    slow_then_fast = {n * POLL: n for n in range(1, 80)}
    slow_then_fast |= {20 + n * POLL: 80 + 10 * n for n in range(80)}
    found = rates(slow_then_fast, 40)
    assert found[60] == pytest.approx(1 / POLL)
    assert found[-1] == pytest.approx(10 / POLL)


def test_rare_large_chunks_are_not_taken_for_a_burst() -> None:
    """32 records each 40 s: 0.8 a second, also in the moment in which a chunk ends."""
    found = rates({60 + 40 * n: 32 * (n + 1) for n in range(6)}, 260)
    assert found[: int(100 / POLL)] == [None] * int(100 / POLL), "one chunk says nothing"
    for rate in found[int(100 / POLL) :]:
        assert rate == pytest.approx(0.8)


def test_a_job_that_stands_still_slows_down() -> None:
    found = rates({1: 10, 2: 20, 3: 30}, 33)
    assert found[int(3.5 / POLL)] == pytest.approx(10)
    last = found[-1]
    assert last is not None
    assert last < 1


def test_a_retry_starts_anew() -> None:
    meter = RateMeter()
    meter.update(10, 0)
    assert meter.update(20, 1) == 10
    assert meter.update(0, 2) is None
    assert meter.update(5, 3) is None
