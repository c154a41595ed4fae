"""The pool of models: what is loaded, what makes room, and when a failed load is tried again."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from textmill.core.errors import EngineClosedError, ModelLoadError, RecordError, RetryableError
from textmill.core.jobs import Record
from textmill.core.params import TaskParams
from textmill.core.settings import load_settings
from textmill.workers import models
from textmill.workers.engine import Engine, EngineState
from textmill.workers.items import (
    DeviceLostError,
    DeviceOutOfMemoryError,
    Item,
    ModelRequest,
    Output,
)
from textmill.workers.models import ModelPool

WAIT = 10.0


class FakeRunner:
    """Weighs 40 bytes; ``gate`` holds forward back."""

    memory_bytes = 40
    max_batch_tokens = 64

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()

    def prepare(
        self, records: Sequence[Record], params: TaskParams
    ) -> list[list[Item] | RecordError]:
        return [[Item(1, None)] for _ in records]

    def forward(self, items: Sequence[Item]) -> Sequence[Any]:
        self.gate.wait(WAIT)
        return [None] * len(items)

    def join(
        self, record: Record, items: Sequence[Item], raw: Sequence[Any], params: TaskParams
    ) -> Output:
        return Output()

    def warm_up(self) -> None:
        """Nothing to warm."""

    def close(self) -> None:
        """Nothing to free."""


class Loader:
    """Counts loads; ``errors`` are raised first, one a load."""

    def __init__(self) -> None:
        self.loads: list[str] = []
        self.errors: list[Exception] = []
        self.runners: dict[str, FakeRunner] = {}
        self.running = self.most_running = 0

    def __call__(self, request: ModelRequest) -> FakeRunner:
        self.loads.append(request.model)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            time.sleep(0.001)  # gives another load the chance to overlap
            if self.errors:
                raise self.errors.pop(0)
            return self.runners.setdefault(request.model, FakeRunner())
        finally:
            self.running -= 1


@pytest.fixture
def loader() -> Loader:
    return Loader()


@pytest.fixture
def pool(loader: Loader) -> Iterator[ModelPool]:
    """A pool with room for two models."""
    pool = ModelPool(
        "cpu", limit_bytes=100, max_wait_seconds=0.2, load=loader, estimate=lambda request: 40
    )
    yield pool
    for runner in loader.runners.values():
        runner.gate.set()
    pool.close()


def request(model: str, **fields: str) -> ModelRequest:
    return ModelRequest("classification", model, **fields)


def load_all(pool: ModelPool, *names: str) -> list[Engine]:
    """Load each, and let it count as old enough to make room."""
    engines = [pool.engine(request(name)) for name in names]
    for engine in engines:
        engine.load_seconds = 0
    return engines


def test_equal_requests_share_one_engine(pool: ModelPool, loader: Loader) -> None:
    first = pool.engine(request("a"))
    assert pool.engine(request("a", device="auto")) is first
    assert pool.engine(request("a", dtype="bf16")) is not first
    assert loader.loads == ["a", "a"]
    assert pool.models() == ["a"]


def test_many_threads_load_a_model_once_and_one_model_at_a_time(loader: Loader) -> None:
    pool = ModelPool("cpu", limit_bytes=10**9, load=loader, estimate=lambda request: 40)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: pool.engine(request(f"m{n % 4}")), range(32)))
    assert sorted(loader.loads) == ["m0", "m1", "m2", "m3"]
    assert loader.most_running == 1
    pool.close()


def test_the_least_recently_used_idle_model_makes_room(pool: ModelPool) -> None:
    first, second = load_all(pool, "a", "b")
    pool.engine(request("a"))
    pool.engine(request("c"))
    assert pool.models() == ["a", "c"]
    assert second.state == EngineState.CLOSED
    assert first.state == EngineState.READY


def test_a_busy_model_is_not_closed(pool: ModelPool, loader: Loader) -> None:
    first, second = load_all(pool, "a", "b")
    loader.runners["a"].gate.clear()
    work = first.submit([Record(0, "0", {})], TaskParams())
    pool.engine(request("b"))
    pool.engine(request("c"))
    assert first.state == EngineState.READY
    assert second.state == EngineState.CLOSED
    loader.runners["a"].gate.set()
    assert len(work.wait(WAIT)) == 1


def test_a_newcomer_waits_until_a_busy_model_is_done(loader: Loader) -> None:
    pool = ModelPool("cpu", limit_bytes=50, load=loader, estimate=lambda request: 40)
    (busy,) = load_all(pool, "a")
    loader.runners["a"].gate.clear()
    busy.submit([Record(0, "0", {})], TaskParams())
    with ThreadPoolExecutor(1) as threads:
        newcomer = threads.submit(pool.engine, request("b"))
        with pytest.raises(TimeoutError):
            newcomer.result(0.05)
        loader.runners["a"].gate.set()
        assert newcomer.result(WAIT).name == "b"
    assert pool.models() == ["b"]
    pool.close()


def test_a_young_model_is_not_closed_and_the_newcomer_is_told_to_try_again(
    pool: ModelPool,
) -> None:
    for engine in load_all(pool, "a", "b"):
        engine.load_seconds = 1000
    with pytest.raises(RetryableError, match="no room for a model"):
        pool.engine(request("c"))
    assert pool.models() == ["a", "b"]


def test_an_only_model_is_loaded_even_if_it_is_over_the_limit(loader: Loader) -> None:
    pool = ModelPool("cpu", limit_bytes=1, load=loader, estimate=lambda request: 40)
    assert pool.engine(request("a")).state == EngineState.READY
    pool.close()


def test_a_model_bigger_than_estimated_closes_others_after_its_load(loader: Loader) -> None:
    pool = ModelPool("cpu", limit_bytes=50, load=loader, estimate=lambda request: 0)
    load_all(pool, "a")
    pool.engine(request("b"))
    assert pool.models() == ["b"]
    pool.close()


def test_a_failed_load_is_not_repeated_before_its_back_off(
    pool: ModelPool, loader: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader.errors = [ModelLoadError("no config.json"), ModelLoadError("still none")]
    for _ in range(3):
        with pytest.raises(ModelLoadError, match=r"no config\.json"):
            pool.engine(request("a"))
    assert loader.loads == ["a"]

    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + models.FIRST_BACK_OFF_SECONDS)
    for _ in range(2):
        with pytest.raises(ModelLoadError, match="still none"):
            pool.engine(request("a"))
    assert loader.loads == ["a", "a"]

    monkeypatch.setattr(time, "monotonic", lambda: now + 2 * models.FIRST_BACK_OFF_SECONDS)
    with pytest.raises(ModelLoadError, match="still none"):
        pool.engine(request("a"))  # the second pause is twice as long

    monkeypatch.setattr(time, "monotonic", lambda: now + 3 * models.FIRST_BACK_OFF_SECONDS)
    assert pool.engine(request("a")).state == EngineState.READY


def test_a_load_short_of_memory_is_repeated_after_the_idle_models_left(
    pool: ModelPool, loader: Loader
) -> None:
    for engine in load_all(pool, "a"):
        engine.load_seconds = 1000
    loader.errors = [DeviceOutOfMemoryError("out of memory")]
    assert pool.engine(request("b")).state == EngineState.READY
    assert pool.models() == ["b"]


def test_a_load_that_loses_the_device_is_the_models_fault_and_nothing_loads_after_it(
    pool: ModelPool, loader: Loader
) -> None:
    loader.errors = [DeviceLostError("no kernel image")]
    with pytest.raises(ModelLoadError, match="no kernel image"):
        pool.engine(request("a"))
    with pytest.raises(DeviceLostError, match="no kernel image"):
        pool.engine(request("b"))
    assert loader.loads == ["a"]
    (lost,) = pool.engines()  # for the watchdog to see
    assert isinstance(lost.failure, DeviceLostError)


def test_a_load_beside_another_models_batch_is_not_blamed_for_the_device(
    pool: ModelPool, loader: Loader
) -> None:
    """What a batch does to a device may come to light in a load."""
    busy = pool.engine(request("a"))
    loader.runners["a"].gate.clear()
    submission = busy.submit([Record(0, "0", {})], TaskParams())
    loader.errors = [DeviceLostError("an assertion failed")]
    with pytest.raises(DeviceLostError, match="an assertion failed"):
        pool.engine(request("b"))
    loader.runners["a"].gate.set()
    submission.wait(WAIT)


def test_an_engine_that_died_is_loaded_anew(pool: ModelPool, loader: Loader) -> None:
    first = pool.engine(request("a"))
    first.close()
    assert pool.engine(request("a")).state == EngineState.READY
    assert loader.loads == ["a", "a"]


def test_close_ends_a_wait_for_room(loader: Loader) -> None:
    pool = ModelPool("cpu", limit_bytes=50, load=loader, estimate=lambda request: 40)
    for engine in load_all(pool, "a"):
        engine.load_seconds = 1000
    with ThreadPoolExecutor(1) as threads:
        newcomer = threads.submit(pool.engine, request("b"))
        with pytest.raises(TimeoutError):
            newcomer.result(0.05)
        pool.close()
        with pytest.raises(EngineClosedError):
            newcomer.result(WAIT)
    with pytest.raises(EngineClosedError):
        pool.engine(request("a"))


def test_the_settings_bound_memory_and_batches() -> None:
    settings = load_settings(max_model_memory_gb=1.5, max_batch_tokens=77)
    pool = ModelPool.for_device("cpu", settings)
    assert (pool._limit(), pool._max_batch_tokens) == (1_500_000_000, 77)
    assert ModelPool("cpu")._limit() > 0


def test_an_unknown_task_is_a_load_error() -> None:
    pool = ModelPool("cpu")
    with pytest.raises(ModelLoadError, match="unknown task 'divination'"):
        pool.engine(ModelRequest("divination", "a"))
