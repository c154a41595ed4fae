"""Equal items in an engine: computed once, whoever asks, also when the first who asked leaves."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import CancelledError
from dataclasses import replace

import pytest

from textmill.core.errors import RecordError
from textmill.workers.engine import Engine, Submission
from textmill.workers.items import Item
from textmill.workers.scheduler import Run

from ..servers import wait_until
from . import test_engine
from .test_engine import PARAMS, WAIT, FakeRunner, outputs, records

engine = test_engine.engine
JOB = Run("a job", kept=True)


def submit(engine: Engine, *texts: str, of: Run | None = JOB) -> Submission:
    return engine.submit(records(*texts), PARAMS, of)


def run(engine: Engine, *texts: str) -> list[str | None]:
    return outputs(submit(engine, *texts))


class Secret(str):
    """A raw output of which one can tell whether it is still in memory."""


class KeyedRunner(FakeRunner):
    """Every word has a key."""

    def _items(self, text: str) -> list[Item] | RecordError:
        items = super()._items(text)
        if isinstance(items, RecordError):
            return items
        return [replace(item, key=item.data.encode()) for item in items]


@pytest.fixture
def runner() -> KeyedRunner:
    return KeyedRunner()


def computed(runner: KeyedRunner) -> list[str]:
    return sorted(word for batch in runner.batches for word in batch)


def test_equal_items_are_computed_once(engine: Engine, runner: KeyedRunner) -> None:
    assert run(engine, "a b a", "a", "b c") == ["A B A", "A", "B C"]
    assert run(engine, "c a", "a") == ["C A", "A"]  # all of it is known: no batch at all
    assert computed(runner) == ["a", "b", "c"]


def test_an_item_that_is_on_its_way_is_not_computed_again(
    engine: Engine, runner: KeyedRunner
) -> None:
    runner.gate.clear()
    first = submit(engine, "a")
    assert runner.forwarding.wait(10)
    second = submit(engine, "a a", "b")
    runner.gate.set()
    assert outputs(first) == ["A"]
    assert outputs(second) == ["A A", "B"]
    assert computed(runner) == ["a", "b"]


def test_those_who_wait_for_a_cancelled_item_get_it_all_the_same(
    engine: Engine, runner: KeyedRunner
) -> None:
    runner.gate.clear()
    running = submit(engine, "a b")
    assert runner.forwarding.wait(10)
    waiting = submit(engine, "c d")
    heir = submit(engine, "a c e")
    other = submit(engine, "c")
    running.cancel()
    waiting.cancel()
    runner.gate.set()
    assert outputs(heir) == ["A C E"]
    assert outputs(other) == ["C"]
    assert "d" not in computed(runner)
    for gone in (running, waiting):
        with pytest.raises(CancelledError):
            gone.wait(10)


def test_an_error_counts_for_all_who_wait_and_is_tried_again_later(
    engine: Engine, runner: KeyedRunner
) -> None:
    def fail(words: list[str]) -> None:
        if "bad" in words:
            raise ValueError("no")

    runner.on_forward = fail
    assert run(engine, "bad", "good", "bad") == ["runner_error", "GOOD", "runner_error"]
    runner.on_forward = lambda words: None
    assert run(engine, "bad") == ["BAD"]


@pytest.mark.parametrize("of", [Run("another", kept=True), None])
def test_no_other_job_shares_an_item_that_is_on_its_way(
    engine: Engine, runner: KeyedRunner, of: Run | None
) -> None:
    runner.gate.clear()
    first = submit(engine, "a")
    assert runner.forwarding.wait(10)
    second = submit(engine, "a a", of=of)
    runner.gate.set()
    assert outputs(first) == ["A"]
    assert outputs(second) == ["A A"]
    assert computed(runner) == ["a", "a"]


class Remembered:
    """Which of a runner's raw outputs are still in memory."""

    def __init__(self) -> None:
        self._left: dict[str, weakref.ref[Secret]] = {}

    def forward(self, items: Sequence[Item]) -> list[Secret]:
        found = [Secret(item.data.upper()) for item in items]
        self._left |= {str(one): weakref.ref(one) for one in found}
        return found

    def wait_until_forgotten(self, *outputs: str) -> None:
        wait_until(lambda: not any(self._left[one]() for one in outputs), WAIT, what="forgotten")


def test_an_engine_without_work_forgets_what_it_computed(
    runner: KeyedRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    remembered = Remembered()
    monkeypatch.setattr(runner, "forward", remembered.forward)
    engine = Engine(lambda: runner, keep_seconds=0.2)
    try:
        assert run(engine, "a b") == ["A B"]
        remembered.wait_until_forgotten("A", "B")
    finally:
        engine.close()


def test_so_does_one_at_work_for_which_nothing_new_comes(
    runner: KeyedRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    remembered, started, last = Remembered(), threading.Event(), threading.Event()

    def forward(items: Sequence[Item]) -> list[Secret]:
        started.wait(WAIT)
        if items[0].data == "ccc":
            last.wait(6 * WAIT)
        return remembered.forward(items)

    monkeypatch.setattr(runner, "forward", forward)
    engine = Engine(lambda: runner, keep_seconds=0, max_batch_items=1)
    try:
        first, second = submit(engine, "a"), submit(engine, "bb ccc")
        started.set()
        assert outputs(first) == ["A"]
        del first
        remembered.wait_until_forgotten("A")
        last.set()
        assert outputs(second) == ["BB CCC"]
    finally:
        last.set()
        engine.close()
