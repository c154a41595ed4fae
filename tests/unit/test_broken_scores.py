"""Encoder-decoder models with scores that are no numbers: an error row, and no other suffers."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from textmill.core.errors import RecordError
from textmill.core.jobs import Record
from textmill.core.tasks import get_task, validate_params
from textmill.workers.engine import Engine
from textmill.workers.items import ModelRequest, Output
from textmill.workers.registry import load_runner

from ..tiny_translators import SENTENCES, save_bart

Write = Callable[..., list[str]]
NOT_FINITE = "<not_finite>"
# With the last one transformers' own greedy loop runs: the rows' places matter.
WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "every row to the end": {"encoder_no_repeat_ngram_size": 9},
}


def save_broken(folder: Path, token: str, **settings: Any) -> Path:
    """A BART to which one token, wherever it is read, is not a number; it may write that token."""
    save_bart(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder)
    model.config.tie_word_embeddings = False
    weights = model.lm_head.weight.detach()
    model.lm_head.weight = torch.nn.Parameter(weights.clone())
    weights[tokenizer.convert_tokens_to_ids(token)] = torch.nan
    for part in (model.model.encoder, model.model.decoder):
        part.embed_tokens.weight = torch.nn.Parameter(weights.clone())
    for name, value in settings.items():
        setattr(model.generation_config, name, value)
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def write(home: Path) -> Iterator[Write]:
    """Outputs, or error codes in angle brackets; each text ``alone`` in an engine of its own."""
    engines: dict[Any, Engine] = {}

    def run(
        folder: Path,
        texts: list[str],
        task: str = "translation",
        *,
        alone: bool = False,
        **params: Any,
    ) -> list[str]:
        # An engine keeps what equal texts came to: nothing would be compared.
        if (task, alone) not in engines:
            request = ModelRequest(task, str(folder), device="cpu")
            tokens = 1 if alone else None
            engines[task, alone] = Engine(lambda: load_runner(request), max_batch_tokens=tokens)
        records = [Record(n, str(n), {"text": text}) for n, text in enumerate(texts)]
        checked = validate_params(get_task(task), params)
        found: list[Output | RecordError] = engines[task, alone].submit(records, checked).wait(60)
        return [
            f"<{one.code}>" if isinstance(one, RecordError) else str(one.output) for one in found
        ]

    yield run
    for engine in engines.values():
        engine.close()


@pytest.mark.parametrize("task", ["translation", "summarization"])
@pytest.mark.parametrize("way", WAYS)
def test_a_text_with_a_broken_token_is_an_error_row(
    tmp_path: Path, write: Write, way: str, task: str
) -> None:
    folder = save_broken(tmp_path / "model", "é", bad_words_ids=[[token_id(tmp_path)]], **WAYS[way])
    texts = ["the red team", "the réd team", "good game"]
    found = write(folder, texts, task)
    assert found[1] == NOT_FINITE
    assert NOT_FINITE not in (found[0], found[2])
    assert found == write(folder, texts, task, alone=True)


def token_id(folder: Path, token: str = "é") -> int:
    save_bart(folder / "plain")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "plain")
    return int(tokenizer.convert_tokens_to_ids(token))


@pytest.mark.parametrize("way", WAYS)
def test_no_output_goes_through_a_broken_token(tmp_path: Path, write: Write, way: str) -> None:
    """Given a token that some outputs would go on from, each row is what it is alone.

    Greedy search ends there; beams may take another way.
    """
    folder = save_broken(tmp_path / "model", "w", **WAYS[way])
    texts = [text for text in SENTENCES if "w" not in text.lower()]
    found = write(folder, texts)
    assert found == write(folder, texts, alone=True)
    good = [text for text in found if text != NOT_FINITE]
    assert good
    assert not any("w" in text[:-1] for text in good)
    assert (NOT_FINITE in found) == (way != "beams")


@pytest.mark.parametrize("way", WAYS)
def test_what_is_computed_after_an_outputs_end_does_not_count(
    tmp_path: Path, write: Write, way: str
) -> None:
    """Given broken padding, which rows that have ended are fed while others go on."""
    folder = save_broken(tmp_path / "model", "<pad>", **WAYS[way])
    texts = [f"the {word} team" for word in ("red", "bad", "who", "and", "you", "the")]
    found = write(folder, texts)
    assert len(set(map(len, found))) > 1
    assert NOT_FINITE not in found
    assert found == write(folder, texts, alone=True)


@pytest.mark.skipif(
    importlib.util.find_spec("ctranslate2") is None and not os.environ.get("CI"),
    reason="ctranslate2 is not installed",
)
@pytest.mark.parametrize("beams", [1, 3])
def test_ctranslate2_says_it_too(tmp_path: Path, write: Write, beams: int) -> None:
    folder = save_broken(tmp_path / "model", "é", bad_words_ids=[[token_id(tmp_path)]])
    texts = ["the red team", "the réd team", "good game"]
    found = write(folder, texts, backend="ctranslate2", num_beams=beams, no_repeat_ngram_size=2)
    assert [one == NOT_FINITE for one in found] == [False, True, False]
