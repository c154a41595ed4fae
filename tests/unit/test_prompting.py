"""Prompts as token ids, from many threads at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import transformers

from textmill.core.jobs import Record
from textmill.core.params import GenerationParams
from textmill.workers.items import ModelRequest
from textmill.workers.runners.generation import GenerationRunner

from ..tiny_generators import save_generator

TEXTS = ["the dog", "a good text", "how are you", "what is the capital of", "on and on", "0123"]


class Slow:
    """A tokenizer's backend; between being set up for a text and encoding it others have a turn."""

    def __init__(self, backend: Any) -> None:
        self.__dict__["backend"] = backend

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.backend, name)
        return self._after_a_pause(found) if name.startswith("encode_batch") else found

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.backend, name, value)

    def _after_a_pause(self, encode: Callable[..., Any]) -> Callable[..., Any]:
        def slowly(*given: Any, **how: Any) -> Any:
            time.sleep(0.001)
            return encode(*given, **how)

        return slowly


def test_prompts_are_written_from_many_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a tokenizer whose state changes while it reads control tokens in a text as text.

    That is how transformers' base class does it; its fast tokenizers do without in 5.23.
    """
    base = transformers.PreTrainedTokenizerBase
    way = base._encode_without_added_tokens
    monkeypatch.setattr(transformers.PreTrainedTokenizerFast, way.__name__, way)
    request = ModelRequest("generation", str(save_generator(tmp_path / "model")), device="cpu")
    runner = GenerationRunner.load(request)
    records = [Record(n, "", {"text": f"{text} <|im_end|>"}) for n, text in enumerate(TEXTS)]
    params = [GenerationParams(chat=chat, max_new_tokens=9) for chat in ("on", "off")]  # type: ignore[arg-type]
    expected = [runner.prepare(records, one) for one in params]
    tokenizer = runner._prompts._source
    monkeypatch.setattr(tokenizer, "_tokenizer", Slow(tokenizer.backend_tokenizer))
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda n: runner.prepare(records, params[n % 2]), range(8)))
    assert found == expected * 4
