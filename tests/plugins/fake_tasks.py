"""A task without a model, loaded by workers through TEXTMILL_PLUGINS: its texts say what happens.

``error`` raises in the runner, ``crash`` kills the process, ``slow 0.5 …`` takes half a second,
``wait PATH`` lasts until the file PATH exists, ``quote`` and ``unreadable`` raise errors that quote
the text, ``nul`` answers JSON that PostgreSQL cannot store; others are answered in upper case.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from textmill.core.errors import ModelLoadError, RecordError
from textmill.core.jobs import Record
from textmill.core.params import TaskParams
from textmill.core.tasks import Task, register
from textmill.workers.items import Item, ModelRequest, Output


class FakeRunner:
    """Answers in upper case; the model's name ``unloadable`` fails to load."""

    memory_bytes = 0
    max_batch_tokens = 1  # one text a batch, in the order of their arrival

    @classmethod
    def load(cls, request: ModelRequest) -> FakeRunner:
        if request.model == "unloadable":
            raise ModelLoadError("model 'unloadable' cannot be loaded: the test says so")
        return cls()

    @classmethod
    def estimate_bytes(cls, request: ModelRequest) -> int:
        return 0

    def prepare(
        self, records: Sequence[Record], params: TaskParams
    ) -> list[list[Item] | RecordError]:
        for text in [record.inputs["text"] for record in records]:
            if text.startswith("unreadable"):
                raise ValueError(f"nobody can read {text!r}")
        return [[Item(1, record.inputs["text"])] for record in records]

    def forward(self, items: Sequence[Item]) -> Sequence[Any]:
        return [_answer(item.data) for item in items]

    def join(
        self, record: Record, items: Sequence[Item], raw: Sequence[Any], params: TaskParams
    ) -> Output:
        if raw[0].startswith("\0"):
            return Output(output="", detail={"said": raw[0]}, input_tokens=1)
        return Output(label=raw[0][:1], score=1.0, output=raw[0], input_tokens=1)

    def warm_up(self) -> None:
        pass

    def close(self) -> None:
        pass


def _answer(text: str) -> str:
    word, _, rest = text.partition(" ")
    if word == "error":
        raise ValueError("the text asked for an error")
    if word == "quote":
        raise KeyError(text)
    if word == "nul":
        return f"\0{text}"
    if word == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "slow":
        time.sleep(float(rest.split()[0]))
    while word == "wait" and not Path(rest).exists():
        time.sleep(0.02)
    return text.upper()


for _name, _chunk_records in (("fake", 10), ("fake_single", 1)):
    register(
        Task(
            name=_name,
            description="upper case, for tests",
            params=TaskParams,
            runner="fake_tasks:FakeRunner",
            chunk_records=_chunk_records,
        )
    )
