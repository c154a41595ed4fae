"""The rates that a person sees while a job runs."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from textmill.producer.rates import Pace, PaceMeter, RateMeter
from textmill.producer.summary import Summary

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


def test_who_comes_later_measures_from_the_first_chunk_that_they_see() -> None:
    """Chunks of 32 end each 40 s; the first ends 3 s after the first look, at 3,200."""
    found = rates({0: 3200} | {3 + 40 * n: 3200 + 32 * (n + 1) for n in range(4)}, 130)
    assert found[: int(43 / POLL)] == [None] * int(43 / POLL), "3 s are not the time of a chunk"
    for rate in found[int(43 / POLL) :]:
        assert rate == pytest.approx(0.8)


def test_a_job_that_goes_on_after_a_standstill_is_measured_anew() -> None:
    before = {n / 2: 5 * n for n in range(1, 20)}
    found = rates(before | {600 + n / 2: 100 + 5 * n for n in range(20)}, 605)
    assert found[int(590 / POLL)] == pytest.approx(0, abs=0.2)
    assert found[int(600.25 / POLL)] is None
    assert found[int(600.5 / POLL)] == pytest.approx(10)


def test_a_retry_starts_anew() -> None:
    meter = RateMeter()
    meter.update(0, 0)
    meter.update(10, 1)
    assert meter.update(20, 2) == 10
    assert meter.update(15, 3) is None
    assert meter.update(20, 4) is None
    assert meter.update(25, 5) == 5


def summary(done: int, **job: Any) -> Summary:
    """A job of 1,000 records, each of three tokens in and two out, at a live worker."""
    workers = job.pop("workers", [SimpleNamespace(models=["m"])])
    values = {
        "status": "running",
        "total_records": 1000,
        "done_records": done,
        "error_records": 0,
        "input_tokens": 3 * done,
        "output_tokens": 2 * done,
        "device_seconds": 1.0,
    }
    return Summary(SimpleNamespace(**values | job), [], [], workers, 0.0)


@pytest.fixture
def moving() -> Iterator[PaceMeter]:
    """A job that did ten records in each of the last ten seconds; the last at 10 s."""
    meter = PaceMeter()
    for second in range(11):
        meter.update(summary(10 * second), second)
    yield meter


def test_the_pace_of_a_job_that_moves(moving: PaceMeter) -> None:
    assert moving.update(summary(110), 11) == Pace(
        records_per_second=pytest.approx(10),
        input_tokens_per_second=pytest.approx(30),
        output_tokens_per_second=pytest.approx(20),
        seconds_left=pytest.approx(89),
    )


def test_the_time_left_does_not_jump_with_the_rate() -> None:
    meter = PaceMeter()
    for second in range(42):  # after 30 s it does four times as much
        meter.update(summary(10 * second + 30 * max(0, second - 30)), second)
    pace = meter.update(summary(420 + 30 * 12), 42)
    assert pace.records_per_second == pytest.approx(40)
    assert pace.seconds_left == pytest.approx((1000 - 780) / (770 / 41))


def test_there_is_no_time_left_of_a_job_that_stands_still(moving: PaceMeter) -> None:
    assert moving.update(summary(100), 19).seconds_left is not None
    pace = moving.update(summary(100), 25)
    assert (pace.still_seconds, pace.seconds_left) == (15, None)
    assert moving.update(summary(110), 26).still_seconds is None


def test_a_slow_chunk_is_no_standstill() -> None:
    meter = PaceMeter()
    for chunk in range(4):
        meter.update(summary(32 * chunk), 40 * chunk)
    pace = meter.update(summary(96), 155)
    assert pace.still_seconds is None
    assert pace.seconds_left == pytest.approx((1000 - 96) / 0.8)


@pytest.mark.parametrize("held", [{"status": "paused"}, {"workers": []}], ids=["paused", "alone"])
def test_a_pause_is_no_part_of_the_rate(moving: PaceMeter, held: dict[str, Any]) -> None:
    assert moving.update(summary(100, **held), 11) == Pace()
    assert moving.update(summary(100, **held), 19) == Pace()
    moving.update(summary(110), 20)
    assert moving.update(summary(120), 21).records_per_second == pytest.approx(10)


def test_rows_that_could_not_be_read_are_no_progress() -> None:
    meter = PaceMeter()
    for second in range(3):
        unread = summary(0, error_records=300 + second, device_seconds=0.0)
        assert meter.update(unread, second) == Pace()
