"""A task whose runner does nothing, loaded by workers through TEXTMILL_PLUGINS."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from textmill.core.errors import RecordError
from textmill.core.jobs import Record
from textmill.core.params import TaskParams
from textmill.core.tasks import Task, register
from textmill.workers.items import Item, ModelRequest, Output


class NullRunner:
    """Gives every record the label ``none``; batches and futures are as for a real model."""

    memory_bytes = 0
    max_batch_tokens = 4096

    @classmethod
    def load(cls, request: ModelRequest) -> NullRunner:
        return cls()

    @classmethod
    def estimate_bytes(cls, request: ModelRequest) -> int:
        return 0

    def prepare(
        self, records: Sequence[Record], params: TaskParams
    ) -> list[list[Item] | RecordError]:
        return [[Item(1, None)] for _ in records]

    def forward(self, items: Sequence[Item]) -> Sequence[Any]:
        return items

    def join(
        self, record: Record, items: Sequence[Item], raw: Sequence[Any], params: TaskParams
    ) -> Output:
        return Output(label="none", score=1.0, input_tokens=1)

    def warm_up(self) -> None:
        pass

    def close(self) -> None:
        pass


register(
    Task(
        name="null",
        description="nothing, to measure what everything else costs",
        params=TaskParams,
        runner="benchmarks.null_task:NullRunner",
        chunk_records=int(os.environ.get("BENCHMARK_CHUNK_RECORDS", "4096")),
    )
)
