"""Summarization with tiny random models, held against ``generate`` one by one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import transformers

from textmill.core.errors import RecordError
from textmill.core.jobs import Record
from textmill.core.tasks import get_task, validate_params
from textmill.workers.engine import Engine
from textmill.workers.items import ModelRequest, Output
from textmill.workers.registry import load_runner

from ..tiny_translators import SENTENCES, save_bart, save_t5

OWN = {"prefix": "summarize: ", "num_beams": 2, "max_length": 14, "min_length": 3}
TEXTS = [" ".join(SENTENCES[n : n + 1 + 3 * (n % 3)]) for n in range(12)]


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("t5")
    return save_t5(folder, task_specific_params={"summarization": OWN})


@pytest.fixture
def engines() -> Iterator[dict[Path, Engine]]:
    opened: dict[Path, Engine] = {}
    yield opened
    for engine in opened.values():
        engine.close()


def summarize(
    engines: dict[Path, Engine], folder: Path, texts: list[str], **params: Any
) -> list[Output | RecordError]:
    if folder not in engines:
        request = ModelRequest("summarization", str(folder), device="cpu")
        engines[folder] = Engine(lambda: load_runner(request))
    records = [Record(n, str(n), {"text": text}) for n, text in enumerate(texts)]
    return (
        engines[folder].submit(records, validate_params(get_task("summarization"), params)).wait(60)
    )


def plainly(folder: Path, texts: list[str], **settings: Any) -> list[str]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    found = []
    for text in texts:
        inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=128)
        inputs.pop("token_type_ids", None)
        (ids,) = model.generate(**inputs, **settings)
        found.append(tokenizer.decode(ids, skip_special_tokens=True).strip())
    return found


def outputs(found: list[Output | RecordError]) -> list[str | None]:
    assert all(isinstance(one, Output) for one in found), found
    return [one.output for one in found if isinstance(one, Output)]


def test_summaries_are_those_of_generate(engines: dict[Path, Engine], tmp_path: Path) -> None:
    """With the limits that BART's own settings have, and longer texts than it reads."""
    folder = save_bart(tmp_path / "bart")
    found = summarize(engines, folder, TEXTS)
    assert outputs(found) == plainly(folder, TEXTS)
    cut = [
        one.detail
        for one in found
        if isinstance(one, Output) and (one.detail or {}).get("truncated")
    ]
    assert len(cut) == sum(len(text) > 126 for text in TEXTS) > 0


def test_what_t5_says_of_the_task_counts(engines: dict[Path, Engine], t5: Path) -> None:
    """Its prefix and its beams, as transformers' pipeline took them; a job's own come first."""
    short = SENTENCES[:10]
    own = {name: value for name, value in OWN.items() if name != "prefix"}
    expected = plainly(t5, [f"summarize: {text}" for text in short], **own)
    assert outputs(summarize(engines, t5, short)) == expected
    asked = {"num_beams": 1, "max_new_tokens": 6, "min_new_tokens": 0}
    greedy = plainly(t5, short, num_beams=1, max_new_tokens=6)
    assert outputs(summarize(engines, t5, short, prefix="", **asked)) == greedy


def test_bad_texts_are_error_rows(engines: dict[Path, Engine], t5: Path) -> None:
    texts = ["", " \n", "a\udfff", "team " * 60, "team"]
    codes = [getattr(one, "code", None) for one in summarize(engines, t5, texts, on_long="error")]
    assert codes == ["empty_text", "empty_text", "invalid_input", "text_too_long", None]


def test_a_text_is_cut_to_the_places_of_the_encoder(
    engines: dict[Path, Engine], tmp_path: Path
) -> None:
    """Given LED, whose config names them apart, and a job that asks for more."""
    save_bart(tmp_path)  # for its tokenizer
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    del settings["model_max_length"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    config = transformers.LEDConfig(
        vocab_size=len(transformers.AutoTokenizer.from_pretrained(tmp_path)),
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        attention_window=8,
        max_encoder_position_embeddings=64,
        max_decoder_position_embeddings=32,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
        decoder_start_token_id=2,
    )
    transformers.LEDForConditionalGeneration(config).save_pretrained(tmp_path)
    (found,) = summarize(engines, tmp_path, ["team " * 60], max_length=500, max_new_tokens=4)
    assert isinstance(found, Output)
    assert (found.detail or {})["truncated"] is True
    assert found.input_tokens == 64
