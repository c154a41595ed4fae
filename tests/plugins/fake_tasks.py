"""A task without a model, loaded by workers through TEXTMILL_PLUGINS: its texts say what happens.

``error`` raises in the runner, ``blame …`` too and says the text, ``quote`` and ``unreadable``
raise errors that quote the text, ``crash`` kills the process, ``exit`` ends it as native code may,
``lose`` loses the device, ``nul`` answers JSON that PostgreSQL cannot store, ``slow 0.5 …`` takes
half a second, ``wait PATH`` lasts until the file PATH exists; any other text is answered in upper
case.
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
from textmill.workers.items import DeviceLostError, Item, ModelRequest, Output


class FakeRunner:
    """Answers in upper case; ``unloadable`` as model fails to load, ``losing`` in its warm-up."""

    loses_device = False
    memory_bytes = 0
    max_batch_tokens = 1  # one text a batch, in the order of their arrival

    @classmethod
    def load(cls, request: ModelRequest) -> FakeRunner:
        if request.model == "unloadable":
            raise ModelLoadError("model 'unloadable' cannot be loaded: the test says so")
        runner = cls()
        runner.loses_device = request.model == "losing"
        return runner

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
        if self.loses_device:
            raise DeviceLostError("device cpu failed: no kernel image is available")

    def close(self) -> None:
        pass


class KeyedRunner(FakeRunner):
    """Equal texts have equal keys; notes which it was asked for."""

    asked: list[str]

    def __init__(self) -> None:
        self.asked = []

    def prepare(
        self, records: Sequence[Record], params: TaskParams
    ) -> list[list[Item] | RecordError]:
        texts = [record.inputs["text"] for record in records]
        return [[Item(1, text, key=text.encode())] for text in texts]

    def forward(self, items: Sequence[Item]) -> Sequence[Any]:
        self.asked += [item.data for item in items]
        return super().forward(items)


def _answer(text: str) -> str:
    word, _, rest = text.partition(" ")
    if word == "error":
        raise ValueError("the text asked for an error")
    if word == "blame":
        raise ValueError(rest)
    if word == "quote":
        raise KeyError(text)
    if word == "nul":
        return f"\0{text}"
    if word == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "exit":
        os._exit(1)
    if word == "lose":
        raise DeviceLostError("device cpu failed: device-side assert triggered")
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
