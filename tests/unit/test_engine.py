"""The engine: what happens to records that go through one model, whatever that model does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import Any

import pytest

from textmill.core.errors import EngineClosedError, ModelLoadError, RecordError
from textmill.core.jobs import Record
from textmill.core.params import TaskParams
from textmill.workers.engine import Activity, Engine, EngineState, Submission
from textmill.workers.items import DeviceLostError, DeviceOutOfMemoryError, Item, Output
from textmill.workers.scheduler import GOOD_BATCHES_TO_RECOVER

PARAMS = TaskParams()
WAIT = 10.0  # seconds; a test that needs them has failed


class FakeRunner:
    """Upper-cases texts, one item per word; ``gate`` holds forward back until it is set."""

    memory_bytes = 7
    max_batch_tokens = 64

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.forwarding = threading.Event()
        self.batches: list[list[str]] = []
        self.prepare_threads: set[str] = set()
        self.forward_threads: set[str] = set()
        self.warm = self.closed = False
        self.on_forward: Callable[[list[str]], None] = lambda words: None

    def prepare(
        self, records: Sequence[Record], params: TaskParams
    ) -> list[list[Item] | RecordError]:
        self.prepare_threads.add(threading.current_thread().name)
        return [self._items(record.inputs["text"]) for record in records]

    def forward(self, items: Sequence[Item]) -> Sequence[Any]:
        words = [item.data for item in items]
        self.forward_threads.add(threading.current_thread().name)
        self.forwarding.set()
        if not self.gate.wait(WAIT):
            raise TimeoutError("the test never opened the gate")
        self.on_forward(words)
        self.batches.append(words)
        return [word.upper() for word in words]

    def join(
        self, record: Record, items: Sequence[Item], raw: Sequence[Any], params: TaskParams
    ) -> Output:
        if "UNJOINABLE" in raw:
            raise RecordError("not_finite", "no")
        if "BROKENJOIN" in raw:
            raise KeyError("no")
        return Output(output=" ".join(raw))

    def warm_up(self) -> None:
        self.warm = True

    def close(self) -> None:
        self.closed = True

    def _items(self, text: str) -> list[Item] | RecordError:
        if text == "":
            return RecordError("empty_text", "nothing to do")
        if text == "unpreparable":
            raise ValueError("cannot read this")
        return [Item(len(word), word) for word in text.split()]


@pytest.fixture
def runner() -> FakeRunner:
    return FakeRunner()


@pytest.fixture
def engine(runner: FakeRunner) -> Iterator[Engine]:
    engine = Engine(lambda: runner, name="fake")
    yield engine
    runner.gate.set()
    assert engine.close(timeout=WAIT)


def records(*texts: str) -> list[Record]:
    return [Record(index, str(index), {"text": text}) for index, text in enumerate(texts)]


def outputs(submission: Submission) -> list[str | None]:
    """Each record's output, or its error's code."""
    return [
        found.code if isinstance(found, RecordError) else found.output
        for found in submission.wait(WAIT)
    ]


def run(engine: Engine, *texts: str) -> list[str | None]:
    return outputs(engine.submit(records(*texts), PARAMS))


def test_outputs_come_back_in_order_one_per_record(engine: Engine) -> None:
    assert run(engine, "a bbb", "", "cc", "a") == ["A BBB", "empty_text", "CC", "A"]


def test_a_submission_without_items_is_done_at_once(engine: Engine) -> None:
    assert run(engine) == []
    assert run(engine, "", "") == ["empty_text", "empty_text"]


def test_items_of_several_submissions_share_a_batch(engine: Engine, runner: FakeRunner) -> None:
    runner.gate.clear()
    first = engine.submit(records("zz"), PARAMS)
    assert runner.forwarding.wait(WAIT)
    others = [engine.submit(records(text), PARAMS) for text in ("aa", "bb", "cc")]
    runner.gate.set()
    assert [outputs(s) for s in [first, *others]] == [["ZZ"], ["AA"], ["BB"], ["CC"]]
    assert sorted(runner.batches[1]) == ["aa", "bb", "cc"]


def test_the_callers_threads_prepare_and_the_engines_thread_forwards(
    engine: Engine, runner: FakeRunner
) -> None:
    run(engine, "a")
    assert runner.prepare_threads == {threading.current_thread().name}
    assert runner.forward_threads == {"engine fake"}


def test_what_the_callers_threads_do_is_seen_while_it_lasts(
    engine: Engine, runner: FakeRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tokenizer may hang as a batch may."""
    seen: list[tuple[str, bool]] = []
    prepare, join = runner.prepare, runner.join

    def look(name: str) -> None:
        seen.append((name, engine.slot_work.began is not None))

    def prepare_seen(*given: Any) -> Any:
        look("prepare")
        return prepare(*given)

    def join_seen(*given: Any) -> Any:
        look("join")
        return join(*given)

    monkeypatch.setattr(runner, "prepare", prepare_seen)
    monkeypatch.setattr(runner, "join", join_seen)
    submission = engine.submit(records("a"), PARAMS)
    assert engine.slot_work.began is None
    assert outputs(submission) == ["A"]
    assert engine.slot_work.began is None
    assert seen == [("prepare", True), ("join", True)]


def test_many_threads_get_their_own_outputs(engine: Engine) -> None:
    def work(n: int) -> bool:
        texts = [f"w{n}x{i}" + "y" * (i % 7) for i in range(50)]
        return run(engine, *texts) == [text.upper() for text in texts]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(40)))


def test_one_poisoned_item_costs_its_record_and_no_other(
    engine: Engine, runner: FakeRunner
) -> None:
    """Given two submissions in one batch, only the record that breaks the model has an error."""

    def fail(words: list[str]) -> None:
        if "poison" in words:
            raise ValueError("cannot swallow this")

    runner.on_forward = fail
    runner.gate.clear()
    blocked = engine.submit(records("first"), PARAMS)
    assert runner.forwarding.wait(WAIT)
    poisoned = engine.submit(records("aaaaaa", "poison bbbbbb", "cccccc"), PARAMS)
    other = engine.submit(records("dddddd", "eeeeee"), PARAMS)
    runner.gate.set()
    assert outputs(poisoned) == ["AAAAAA", "runner_error", "CCCCCC"]
    assert outputs(other) == ["DDDDDD", "EEEEEE"]
    assert outputs(blocked) == ["FIRST"]
    error = poisoned.wait()[1]
    assert isinstance(error, RecordError)
    assert error.message == "ValueError: cannot swallow this"


def test_a_record_that_breaks_prepare_costs_its_record_and_no_other(engine: Engine) -> None:
    assert run(engine, "a", "unpreparable", "b") == ["A", "runner_error", "B"]


def test_a_record_that_breaks_join_costs_its_record_and_no_other(engine: Engine) -> None:
    assert run(engine, "unjoinable", "a", "brokenjoin") == ["not_finite", "A", "runner_error"]


def test_out_of_memory_shrinks_the_batches_and_they_grow_again(
    engine: Engine, runner: FakeRunner
) -> None:
    """Given a device for 20 tokens, every record comes out, and the budget recovers later."""

    def fit(words: list[str]) -> None:
        if max(map(len, words)) * len(words) > 20:
            raise DeviceOutOfMemoryError("out of memory")

    runner.on_forward = fit
    assert run(engine, *["abcd"] * 30) == ["ABCD"] * 30
    assert engine.batch_tokens <= 20

    runner.on_forward = lambda words: None
    for _ in range(3 * GOOD_BATCHES_TO_RECOVER):
        run(engine, "a")
    assert engine.batch_tokens == runner.max_batch_tokens


def test_an_item_that_does_not_fit_alone_is_an_error_row(
    engine: Engine, runner: FakeRunner
) -> None:
    def fit(words: list[str]) -> None:
        if any(len(word) > 5 for word in words):
            raise DeviceOutOfMemoryError("out of memory")

    runner.on_forward = fit
    assert run(engine, "aaaaa", "aaaaaa") == ["AAAAA", "out_of_memory"]


def test_a_wrong_number_of_rows_is_an_error_that_names_the_runner(engine: Engine) -> None:
    class Short(FakeRunner):
        def forward(self, items: Sequence[Item]) -> Sequence[Any]:
            return super().forward(items)[:-1]

    short = Engine(Short, name="short")
    found = short.submit(records("aa", "bb"), PARAMS).wait(WAIT)
    assert short.close(timeout=WAIT)
    errors = [e for e in found if isinstance(e, RecordError)]
    assert [e.code for e in errors] == ["runner_contract"] * 2
    assert errors[0].message == "Short.forward returned 1 rows, expected 2"


def test_a_wrong_number_of_prepared_records_is_an_error_row() -> None:
    class Short(FakeRunner):
        def prepare(
            self, records: Sequence[Record], params: TaskParams
        ) -> list[list[Item] | RecordError]:
            return []

    engine = Engine(Short)
    (error,) = engine.submit(records("a"), PARAMS).wait(WAIT)
    assert engine.close(timeout=WAIT)
    assert isinstance(error, RecordError)
    assert "Short.prepare returned 0 rows, expected 1" in error.message


def test_cancel_drops_what_waits_and_leaves_the_others(engine: Engine, runner: FakeRunner) -> None:
    runner.gate.clear()
    running = engine.submit(records("zz"), PARAMS)
    assert runner.forwarding.wait(WAIT)
    doomed = engine.submit(records("aa", "bb"), PARAMS)
    kept = engine.submit(records("cc"), PARAMS)
    doomed.cancel()
    running.cancel()
    for cancelled in (doomed, running):
        with pytest.raises(CancelledError):
            cancelled.wait(WAIT)
    assert engine.waiting == 1
    runner.gate.set()
    assert outputs(kept) == ["CC"]
    assert runner.batches == [["zz"], ["cc"]]


def test_cancel_after_the_end_changes_nothing(engine: Engine) -> None:
    submission = engine.submit(records("a"), PARAMS)
    assert outputs(submission) == ["A"]
    submission.cancel()
    assert outputs(submission) == ["A"]


def test_close_settles_what_runs_waits_and_is_being_submitted(runner: FakeRunner) -> None:
    engine = Engine(lambda: runner, max_waiting_items=2, name="fake")
    runner.gate.clear()
    running = engine.submit(records("zz"), PARAMS)
    assert runner.forwarding.wait(WAIT)
    waiting = engine.submit(records("a", "b"), PARAMS)
    with ThreadPoolExecutor(1) as pool:
        blocked = pool.submit(engine.submit, records("c"), PARAMS)
        wait_until(lambda: engine._submitting == 1)
        assert not engine.close(timeout=0), "its thread is still in the runner"
        with pytest.raises(EngineClosedError, match="'fake' was closed"):
            blocked.result(WAIT)
    for submission in (running, waiting):
        with pytest.raises(EngineClosedError):
            submission.wait(WAIT)
    runner.gate.set()
    assert engine.close(timeout=WAIT)
    assert runner.closed
    assert engine.state == EngineState.CLOSED
    with pytest.raises(EngineClosedError):
        engine.submit(records("a"), PARAMS)


def test_a_thread_that_dies_settles_everything(engine: Engine, runner: FakeRunner) -> None:
    """If something no runner should raise ends the thread, nobody waits for ever."""

    def die(words: list[str]) -> None:
        raise SystemExit("bye")

    runner.on_forward = die
    submission = engine.submit(records("a", "bbbbbbbbbb"), PARAMS)
    with pytest.raises(EngineClosedError, match=r"died: SystemExit in test_engine\.py, line"):
        submission.wait(WAIT)
    assert engine.state == EngineState.FAILED
    assert engine.close(timeout=WAIT)
    assert runner.closed


def test_a_lost_device_blames_no_record(engine: Engine, runner: FakeRunner) -> None:
    def lose(words: list[str]) -> None:
        raise DeviceLostError("CUDA error: gone")

    runner.on_forward = lose
    submission = engine.submit(records("a", "bbbbbbbbbb"), PARAMS)
    with pytest.raises(DeviceLostError, match="gone"):
        submission.wait(WAIT)
    with pytest.raises(DeviceLostError, match="gone"):
        engine.submit(records("c"), PARAMS)
    assert isinstance(engine.failure, DeviceLostError)


def test_submit_waits_while_too_much_waits(runner: FakeRunner) -> None:
    engine = Engine(lambda: runner, max_waiting_items=3)
    runner.gate.clear()
    submissions = [engine.submit(records("zz"), PARAMS)]
    assert runner.forwarding.wait(WAIT)
    submissions.append(engine.submit(records("a", "b", "c"), PARAMS))
    with ThreadPoolExecutor(1) as pool:
        blocked = pool.submit(engine.submit, records("d"), PARAMS)
        wait_until(lambda: engine._submitting == 1)
        assert engine.waiting == 3
        assert not blocked.done()
        runner.gate.set()
        submissions.append(blocked.result(WAIT))
    assert [outputs(s) for s in submissions] == [["ZZ"], ["A", "B", "C"], ["D"]]
    assert engine.close(timeout=WAIT)


def test_more_than_may_wait_is_let_in_when_nothing_else_waits(runner: FakeRunner) -> None:
    engine = Engine(lambda: runner, max_waiting_items=1)
    assert run(engine, "a", "b", "c") == ["A", "B", "C"]
    assert engine.close(timeout=WAIT)


def test_submit_waits_for_the_load_and_warm_up(runner: FakeRunner) -> None:
    loading, loaded = threading.Event(), threading.Event()

    def load() -> FakeRunner:
        loading.set()
        assert loaded.wait(WAIT)
        return runner

    engine = Engine(load)
    assert loading.wait(WAIT)
    assert (engine.state, engine.activity, engine.busy) == ("loading", Activity.LOAD, True)
    with ThreadPoolExecutor(1) as pool:
        blocked = pool.submit(run, engine, "a")
        wait_until(lambda: engine._submitting == 1)
        loaded.set()
        assert blocked.result(WAIT) == ["A"]
    assert runner.warm
    assert engine.load_seconds > 0
    assert engine.memory_bytes == 7
    assert engine.close(timeout=WAIT)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ModelLoadError("no config.json"), "^no config.json$"),
        (OSError("disk"), "^model 'm' cannot be loaded: OSError: disk$"),
    ],
)
def test_a_failed_load_fails_every_submit_with_the_reason(error: Exception, message: str) -> None:
    def load() -> FakeRunner:
        raise error

    engine = Engine(load, name="m")
    for _ in range(2):
        with pytest.raises(ModelLoadError, match=message):
            engine.submit(records("a"), PARAMS)
    assert engine.state == EngineState.FAILED
    assert engine.close(timeout=WAIT)


def test_a_failed_warm_up_fails_the_load_and_frees_the_model() -> None:
    class Cold(FakeRunner):
        def warm_up(self) -> None:
            raise ValueError("too cold")

    runner = Cold()
    engine = Engine(lambda: runner, name="m")
    with pytest.raises(ModelLoadError, match="too cold"):
        engine.submit(records("a"), PARAMS)
    assert engine.close(timeout=WAIT)
    assert runner.closed


def test_wait_times_out_and_can_be_repeated(engine: Engine, runner: FakeRunner) -> None:
    runner.gate.clear()
    submission = engine.submit(records("a"), PARAMS)
    with pytest.raises(TimeoutError):
        submission.wait(0)
    runner.gate.set()
    assert outputs(submission) == ["A"]
    assert outputs(submission) == ["A"]


def test_idle_since_is_none_exactly_while_there_is_work(engine: Engine, runner: FakeRunner) -> None:
    runner.gate.clear()
    submission = engine.submit(records("a"), PARAMS)
    assert runner.forwarding.wait(WAIT)
    assert engine.busy
    idle_since = engine.idle_since
    assert idle_since is None
    before = time.monotonic()
    runner.gate.set()
    submission.wait(WAIT)
    wait_until(lambda: (engine.idle_since or 0) >= before)
    assert engine.last_progress >= before


def test_device_seconds_are_shared_by_tokens(engine: Engine, runner: FakeRunner) -> None:
    runner.gate.clear()
    engine.submit(records("z" * 60), PARAMS)
    assert runner.forwarding.wait(WAIT)
    small = engine.submit(records("aaa"), PARAMS)
    big = engine.submit(records("bbb bbb bbb"), PARAMS)
    runner.gate.set()
    small.wait(WAIT)
    big.wait(WAIT)
    assert runner.batches[1] == ["aaa", "bbb", "bbb", "bbb"]
    assert big.device_seconds == pytest.approx(3 * small.device_seconds)
    assert engine.device_seconds > small.device_seconds + big.device_seconds


def test_the_device_lock_is_held_during_forward(runner: FakeRunner) -> None:
    lock = threading.Lock()
    held = []
    runner.on_forward = lambda words: held.append(lock.locked())
    engine = Engine(lambda: runner, device_lock=lock)
    run(engine, "a")
    assert engine.close(timeout=WAIT)
    assert held == [True]
    assert not lock.locked()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)
