"""What passes between a chunk, an engine and a runner: items, outputs and the runner's contract.

Knows neither SQL, Celery nor torch, so an engine runs alone on a machine that has only a model.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from textmill.core.errors import RecordError
from textmill.core.jobs import Record
from textmill.core.tasks import TaskParams


@dataclass(slots=True)
class Item:
    """One unit of a batch: a whole text, or a window or sentence of one.

    ``length`` counts tokens as the model sees them (special tokens included); ``data`` is what the
    runner's ``forward`` reads; only items of equal ``group`` may share a batch.
    """

    length: int
    data: Any
    group: Hashable = None


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


class Runner(Protocol):
    """The wrapper of one loaded model. Only ``forward`` runs in the engine's thread.

    ``prepare`` and ``join`` are called from many threads at once and must not change the runner.
    """

    memory_bytes: int  # what the loaded weights take on the device

    def prepare(
        self, records: Sequence[Record], params: TaskParams
    ) -> list[list[Item] | RecordError]:
        """The items of each record, or why it has none. Same length and order as ``records``."""

    def forward(self, items: Sequence[Item]) -> Sequence[Any]:
        """One raw output per item, in order. The items are one batch, all of one group."""

    def join(
        self, record: Record, items: Sequence[Item], raw: Sequence[Any], params: TaskParams
    ) -> Output:
        """One record's output from its items' raw outputs; raises RecordError for this record."""

    def warm_up(self) -> None:
        """Run the model once on made-up input, so that the first real batch pays nothing extra."""

    def close(self) -> None:
        """Free the device memory."""
