"""What passes between a chunk, an engine and a runner: items, outputs, states, the contract.

Knows neither SQL, Celery nor torch, so an engine runs alone on a machine that has only a model.
"""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from typing import Any, Protocol, TypeGuard, runtime_checkable

from textmill.core.checkpoints import NOTHING, Permits
from textmill.core.errors import RecordError, RetryableError
from textmill.core.jobs import Record
from textmill.core.params import TaskParams


class DeviceOutOfMemoryError(RetryableError):
    """One forward pass did not fit into the device's memory; smaller batches may."""


class DeviceLostError(RetryableError):
    """The device answers nothing any more (a CUDA error stays until the process ends).

    The engine fails, and its worker process has to be replaced. What was in the batch may be to
    blame: an index out of bounds fails an assertion on a GPU, and with it the device.
    """


class EngineState(StrEnum):
    """Where an engine stands."""

    LOADING = "loading"  # its thread loads and warms up the model; submit waits
    READY = "ready"  # takes work
    FAILED = "failed"  # the model could not be loaded or the device was lost: see ``failure``
    CLOSED = "closed"  # was closed, or its thread ended; takes no work


class Activity(StrEnum):
    """What the engine's thread is doing; a watchdog has a time limit for each but idle."""

    IDLE = "idle"
    LOAD = "load"
    WARM_UP = "warm_up"
    FORWARD = "forward"


class NoRoomError(RetryableError):
    """A model does not fit beside those that are busy; the chunk is tried again later."""


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """Which model to load as what; equal requests share one engine.

    ``model`` is a folder, a GGUF file or a name on the Hugging Face hub; ``dtype`` is auto, fp32,
    bf16, fp16 or int8; ``device`` is auto or a torch device such as ``cuda:0``. ``digest`` is what
    a local model's files must be (see ``core.identities``); of a hub model ``revision`` is one
    commit.
    """

    task: str
    model: str
    revision: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    digest: str | None = None
    permits: Permits = NOTHING


@dataclass(slots=True)
class Item:
    """One unit of a batch: a whole text, or a window or sentence of one.

    ``length`` counts tokens as the model sees them (special tokens included); ``data`` is what the
    runner's ``forward`` reads; only items of equal ``group`` may share a batch. Items of equal
    ``key`` get the same raw output, so one of them is computed; see ``equal_key``.
    """

    length: int
    data: Any
    group: Hashable = None
    key: bytes | None = None


def equal_key(ids: Sequence[int], *rest: Hashable) -> bytes:
    """A key of all that an item's raw output depends on: token ids, and options with a repr."""
    digest = blake2b(array("q", ids), digest_size=16)
    digest.update(repr(rest).encode())
    return digest.digest()


@dataclass(slots=True)
class Output:
    """What a runner found for one record; the fields are the columns of ``results``."""

    label: str | None = None
    score: float | None = None
    output: str | None = None
    vector: bytes | None = None  # float32, little endian
    detail: dict[str, Any] | None = None
    labels: Sequence[str] = ()  # every label to count; empty means ``label`` alone
    input_tokens: int = 0
    output_tokens: int = 0
    reused_from: str | None = None  # the job that computed it, if that was not this one


class BaseRunner(Protocol):
    """The wrapper of one loaded model: what every runner has.

    ``prepare`` and ``join`` are called from many threads at once and must not change the runner;
    ``join`` still works after ``close``. The engine's thread calls the rest.
    """

    memory_bytes: int  # what the loaded weights take on the device

    def prepare(
        self, records: Sequence[Record], params: TaskParams
    ) -> list[list[Item] | RecordError]:
        """The items of each record, or why it has none. Same length and order as ``records``."""

    def join(
        self, record: Record, items: Sequence[Item], raw: Sequence[Any], params: TaskParams
    ) -> Output:
        """One record's output from its items' raw outputs; raises RecordError for this record."""

    def warm_up(self) -> None:
        """Run the model once on made-up input, so that the first real batch pays nothing extra."""

    def close(self) -> None:
        """Free the device memory."""


class Runner(BaseRunner, Protocol):
    """A runner whose items are done in one forward pass.

    ``forward`` raises DeviceOutOfMemoryError if the batch does not fit, DeviceLostError if nothing
    will run any more; any other error is taken for some item's fault, and the batch is halved down
    to it.
    """

    max_batch_tokens: int  # a good size of a batch on its device; read if the operator names none

    def forward(self, items: Sequence[Item]) -> Sequence[Any]:
        """One raw output per item, in order. The items are one batch, all of one group."""


@runtime_checkable
class GroupLoader(Protocol):
    """A Runner that needs more than its model for some groups of items."""

    def load_for(self, group: Hashable) -> None:
        """Load what a batch of this group needs, if that is not done; called before each batch.

        It has the time limit of a load, not that of a batch. Raises RecordError for all of the
        batch, or DeviceLostError.
        """


@runtime_checkable
class PaddingReporter(Protocol):
    """A Runner that knows whether its model's outputs are the same beside longer items."""

    takes_padding: bool  # False: the items of a batch must have one length


def takes_padding(runner: object) -> bool:
    """True unless the runner says that its model does not."""
    return runner.takes_padding if isinstance(runner, PaddingReporter) else True


@dataclass(frozen=True, slots=True)
class Step:
    """What one step of a StepRunner has done.

    ``finished`` pairs handles with raw outputs (for ``join``) or RecordErrors; those rows have
    left. ``computed`` says how many tokens of each row went through the model; each of these rows
    has one more token of output.
    """

    finished: Sequence[tuple[int, Any]]
    computed: Mapping[int, int]


class StepRunner(BaseRunner, Protocol):
    """A runner whose items take many forward passes, each as long as it needs: generation.

    An item becomes a row when it is admitted, under a handle that the engine chose, and leaves when
    it has finished. ``Item.length`` counts all tokens it may ever hold, prompt and longest output;
    ``Item.group`` is not read. ``admit`` computes nothing; ``step`` is one forward pass, short
    enough for the watchdog's limit for a batch. Errors of ``step`` mean what those of
    ``Runner.forward`` mean: after DeviceOutOfMemoryError rows stand as before, and the engine drops
    the newest; after any other error it drops all, and starts them anew to find the culprit.
    """

    max_rows: int  # more rows at once make nothing faster
    max_held_tokens: int  # rows times the longest one's length, at most; a row alone may have more

    def admit(self, rows: Mapping[int, Item]) -> None:
        """Take rows in: items by handle."""

    def step(self) -> Step:
        """One forward pass over some or all rows; raises as ``Runner.forward`` does."""

    def drop(self, handles: Iterable[int]) -> None:
        """Forget rows and free what they hold."""


AnyRunner = Runner | StepRunner


def is_stepwise(runner: AnyRunner) -> TypeGuard[StepRunner]:
    """True if the runner's items are rows that take many steps."""
    return hasattr(runner, "step")
