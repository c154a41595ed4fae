"""The engine over a stepwise runner: rows come, take steps and leave, whatever goes wrong."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from typing import Any

import pytest

from textmill.core.errors import RecordError
from textmill.core.jobs import Record
from textmill.core.params import TaskParams
from textmill.core.settings import Settings
from textmill.workers.engine import Engine, EngineState, Submission
from textmill.workers.items import DeviceLostError, DeviceOutOfMemoryError, Item, Output, Step
from textmill.workers.scheduler import GOOD_BATCHES_TO_RECOVER
from textmill.workers.watchdog import find_fault

PARAMS = TaskParams()
WAIT = 10.0  # seconds; a test that needs them has failed


class Counter:
    """Says each text's letters one a step; a text's length is its number of steps."""

    memory_bytes = 7

    def __init__(self, max_rows: int = 4, max_held_tokens: int = 1000) -> None:
        self.max_rows, self.max_held_tokens = max_rows, max_held_tokens
        self.rows: dict[int, str] = {}
        self.said: dict[int, int] = {}
        self.steps: list[list[str]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.stepping = threading.Event()
        self.on_step: Callable[[list[str]], None] = lambda texts: None

    def prepare(
        self, records: Sequence[Record], params: TaskParams
    ) -> list[list[Item] | RecordError]:
        texts = [record.inputs["text"] for record in records]
        return [[Item(len(text), text)] for text in texts]

    def admit(self, rows: Mapping[int, Item]) -> None:
        for handle, item in rows.items():
            self.rows[handle], self.said[handle] = item.data, 0

    def step(self) -> Step:
        self.stepping.set()
        if not self.gate.wait(WAIT):
            raise TimeoutError("the test never opened the gate")
        self.on_step(list(self.rows.values()))
        self.steps.append(list(self.rows.values()))
        computed = dict.fromkeys(self.rows, 1)
        for handle in self.rows:
            self.said[handle] += 1
        ended = [n for n, text in self.rows.items() if self.said[n] >= len(text)]
        return Step([(n, self.rows.pop(n).upper()) for n in ended], computed)

    def drop(self, handles: Iterable[int]) -> None:
        for handle in handles:
            del self.rows[handle]

    def join(
        self, record: Record, items: Sequence[Item], raw: Sequence[Any], params: TaskParams
    ) -> Output:
        return Output(output=raw[0])

    def warm_up(self) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.fixture
def runner() -> Counter:
    return Counter()


@pytest.fixture
def engine(runner: Counter) -> Iterator[Engine]:
    engine = Engine(lambda: runner, name="fake")
    yield engine
    runner.gate.set()
    assert engine.close(timeout=WAIT)


def submit(engine: Engine, *texts: str) -> Submission:
    return engine.submit([Record(n, str(n), {"text": t}) for n, t in enumerate(texts)], PARAMS)


def outputs(submission: Submission) -> list[str | None]:
    return [
        found.code if isinstance(found, RecordError) else found.output
        for found in submission.wait(WAIT)
    ]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_rows_that_end_make_room_at_once(engine: Engine, runner: Counter) -> None:
    texts = ["aaaaaaaa", "b", "cc", "d", "e", "ff", "g"]
    runner.gate.clear()
    submission = submit(engine, *texts)
    runner.gate.set()
    assert outputs(submission) == [text.upper() for text in texts]
    assert len(runner.steps) == 8  # those of the longest: the others ran beside it
    assert max(map(len, runner.steps)) == 4


def test_rows_of_several_submissions_share_steps(engine: Engine, runner: Counter) -> None:
    runner.gate.clear()
    first = submit(engine, "aaaa")
    assert runner.stepping.wait(WAIT)
    second = submit(engine, "bb")
    runner.gate.set()
    assert [outputs(first), outputs(second)] == [["AAAA"], ["BB"]]
    assert ["aaaa", "bb"] in runner.steps
    assert (first.output_tokens, second.output_tokens) == (4, 2)
    assert first.device_seconds + second.device_seconds == pytest.approx(engine.device_seconds)


def test_a_long_row_does_not_starve_behind_short_ones() -> None:
    """Given a long row that fits only alone, short ones that came later do not pass it."""
    runner = Counter(max_rows=4, max_held_tokens=12)
    engine = Engine(lambda: runner, name="fake")
    runner.gate.clear()
    submission = submit(engine, "aaa", "bbb", "l" * 12, *["c"] * 20)
    runner.gate.set()
    assert outputs(submission)[2] == "L" * 12
    began = next(n for n, texts in enumerate(runner.steps) if "l" * 12 in texts)
    assert not any("c" in texts for texts in runner.steps[:began])
    assert all(len(texts) * max(map(len, texts)) <= 12 for texts in runner.steps)
    assert engine.close(timeout=WAIT)


def test_a_row_over_the_budget_runs_alone() -> None:
    runner = Counter(max_held_tokens=5)
    engine = Engine(lambda: runner, name="fake")
    assert outputs(submit(engine, "l" * 9, "a")) == ["L" * 9, "A"]
    assert ["l" * 9] in runner.steps
    assert engine.close(timeout=WAIT)


def test_a_cancelled_submission_leaves_in_the_middle(engine: Engine, runner: Counter) -> None:
    runner.gate.clear()
    cancelled, other = submit(engine, "a" * 10**6, "b" * 10**6), submit(engine, "cccc")
    assert runner.stepping.wait(WAIT)
    cancelled.cancel()
    with pytest.raises(CancelledError):
        cancelled.wait(WAIT)
    runner.gate.set()
    assert outputs(other) == ["CCCC"]
    wait_until(lambda: not runner.rows)
    assert len(runner.steps) < 10


def test_the_culprit_of_a_failed_step_is_found(engine: Engine, runner: Counter) -> None:
    """Given one that fails in its third step, all others succeed and no output counts twice."""

    def fail(texts: list[str]) -> None:
        third = any(t == "poison" and runner.said[n] == 2 for n, t in runner.rows.items())
        if third:
            raise ValueError("cannot go on")

    runner.on_step = fail
    submission = submit(engine, "aaaaa", "poison", "bbb", "cccc", "dd")
    assert outputs(submission) == ["AAAAA", "runner_error", "BBB", "CCCC", "DD"]
    assert submission.output_tokens == 5 + 3 + 4 + 2
    assert engine.state == EngineState.READY


def test_out_of_memory_sends_the_newest_back_and_goes_on() -> None:
    runner = Counter(max_rows=8, max_held_tokens=64)
    engine = Engine(lambda: runner, name="fake")

    def fail(texts: list[str]) -> None:
        if len(texts) > 3:
            raise DeviceOutOfMemoryError("too much")

    runner.on_step = fail
    texts = [letter * 8 for letter in "abcdefgh"]
    submission = submit(engine, *texts)
    assert outputs(submission) == [text.upper() for text in texts]
    assert submission.output_tokens == 64
    assert engine.batch_tokens < 64
    assert runner.steps[0][0] == texts[0]
    runner.on_step = lambda texts: None
    for _ in range(3 * GOOD_BATCHES_TO_RECOVER):
        assert outputs(submit(engine, "x")) == ["X"]
    assert engine.batch_tokens == 64
    assert engine.close(timeout=WAIT)


def test_a_row_that_fits_not_even_alone_is_an_error_row(engine: Engine, runner: Counter) -> None:
    def fail(texts: list[str]) -> None:
        if "huge" in texts:
            raise DeviceOutOfMemoryError("too much")

    runner.on_step = fail
    assert outputs(submit(engine, "aa", "huge", "bb")) == ["AA", "out_of_memory", "BB"]


def test_a_lost_device_fails_the_engine(engine: Engine, runner: Counter) -> None:
    def fail(texts: list[str]) -> None:
        raise DeviceLostError("gone")

    runner.on_step = fail
    with pytest.raises(DeviceLostError):
        submit(engine, "a").wait(WAIT)
    assert engine.state == EngineState.FAILED


def test_a_step_that_does_nothing_is_the_runners_fault(engine: Engine, runner: Counter) -> None:
    runner.step = lambda: Step([], {})  # type: ignore[method-assign]
    assert outputs(submit(engine, "a", "b")) == ["runner_contract", "runner_contract"]


def test_every_step_is_progress_and_one_that_hangs_is_seen(engine: Engine, runner: Counter) -> None:
    """Given a limit for a batch, a long generation is no fault, and a step that hangs is one."""
    limits = Settings(batch_timeout_seconds=1)
    submission = submit(engine, "a" * 10**6)
    wait_until(lambda: submission.output_tokens > 2)
    began = time.monotonic()
    while time.monotonic() - began < 1.5:
        assert find_fault([engine], limits, woke_at=0) is None
        time.sleep(0.05)
    runner.gate.clear()
    wait_until(lambda: find_fault([engine], limits, woke_at=0) is not None)
    submission.cancel()


def test_the_device_is_free_for_other_engines_between_steps(runner: Counter) -> None:
    lock = threading.Lock()
    engine = Engine(lambda: runner, name="long", device_lock=lock)
    other = Engine(lambda: Counter(), name="short", device_lock=lock)
    runner.on_step = lambda texts: time.sleep(0.001)
    long = submit(engine, "a" * 10**6)
    wait_until(lambda: long.output_tokens > 0)
    assert outputs(submit(other, "bb")) == ["BB"]
    assert not long.done
    long.cancel()
    assert engine.close(timeout=WAIT)
    assert other.close(timeout=WAIT)
