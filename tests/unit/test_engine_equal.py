"""Equal items in an engine: computed once, whoever asks, also when the first who asked leaves."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from concurrent.futures import CancelledError
from dataclasses import replace
from time import monotonic

import pytest

from textmill.core.errors import RecordError
from textmill.workers import equal_items
from textmill.workers.engine import Engine
from textmill.workers.items import Item

from ..servers import wait_until
from . import test_engine
from .test_engine import PARAMS, FakeRunner, outputs, records, run

engine = test_engine.engine


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
    first = engine.submit(records("a"), PARAMS)
    assert runner.forwarding.wait(10)
    second = engine.submit(records("a a", "b"), PARAMS)
    runner.gate.set()
    assert outputs(first) == ["A"]
    assert outputs(second) == ["A A", "B"]
    assert computed(runner) == ["a", "b"]


def test_those_who_wait_for_a_cancelled_item_get_it_all_the_same(
    engine: Engine, runner: KeyedRunner
) -> None:
    runner.gate.clear()
    running = engine.submit(records("a b"), PARAMS)
    assert runner.forwarding.wait(10)
    waiting = engine.submit(records("c d"), PARAMS)
    heir = engine.submit(records("a c e"), PARAMS)
    other = engine.submit(records("c"), PARAMS)
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


def test_an_engine_without_work_forgets_what_it_computed(
    runner: KeyedRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[weakref.ref[Secret]] = []

    def forward(items: Sequence[Item]) -> list[Secret]:
        found = [Secret(item.data.upper()) for item in items]
        left.extend(weakref.ref(one) for one in found)
        return found

    monkeypatch.setattr(runner, "forward", forward)
    monkeypatch.setattr(equal_items.EqualItems.__init__, "__defaults__", (10**6, 0.2, monotonic))
    engine = Engine(lambda: runner)
    try:
        assert run(engine, "a b") == ["A B"]
        wait_until(lambda: not any(one() for one in left), 10)
    finally:
        engine.close()
