"""Models of many families: what a batch gives a text is what the model gives it alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from textmill.core.jobs import Record
from textmill.core.tasks import get_task, validate_params
from textmill.workers.engine import Engine
from textmill.workers.items import ModelRequest, Output
from textmill.workers.registry import load_runner
from textmill.workers.runners.classification import ClassificationRunner

from ..tiny_generators import make_tokenizer
from ..tiny_models import SPECIAL, WORDS, save_tokenizer
from ..tiny_translators import SENTENCES, save_t5

TEXTS = [" ".join(WORDS[n % 7 : n % 7 + 1 + n % 9]) for n in range(24)]

SMALL: dict[str, Any] = {
    "vocab_size": len(SPECIAL + WORDS),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "initializer_range": 0.6,
    "pad_token_id": 0,
}
BART: dict[str, Any] = {
    "vocab_size": SMALL["vocab_size"],
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": 64,
    "init_std": 0.6,
    "pad_token_id": 0,
    "eos_token_id": 3,
}
XLNET = {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64, "initializer_range": 0.6}
SMALLER = {"embedding_size": 32, "intra_bottleneck_size": 32, "true_hidden_size": 32}
CONFIGS: list[Any] = [
    transformers.BertConfig(**SMALL),
    # whose configs name no end token
    transformers.MobileBertConfig(**SMALL, **SMALLER),
    # who look for an end token in each text
    transformers.BartConfig(**BART),
    # whom padding changes
    transformers.FNetConfig(**SMALL),
    transformers.ConvBertConfig(**SMALL, embedding_size=32),
    # who subtract the mask from 1, read the last place, padding or not, and know no limit
    transformers.XLNetConfig(vocab_size=SMALL["vocab_size"], pad_token_id=0, **XLNET),
]


def name(config: Any) -> str:
    return str(config.model_type)


@pytest.fixture
def engines() -> Iterator[dict[Path, Engine]]:
    opened: dict[Path, Engine] = {}
    yield opened
    for engine in opened.values():
        engine.close()


def outputs(
    engines: dict[Path, Engine], folder: Path, texts: list[str], task: str = "classification"
) -> list[Output]:
    if folder not in engines:
        request = ModelRequest(task, str(folder), device="cpu")
        engines[folder] = Engine(lambda: load_runner(request))
    records = [Record(n, str(n), {"text": text}) for n, text in enumerate(texts)]
    found = engines[folder].submit(records, validate_params(get_task(task), {})).wait(60)
    return [one for one in found if isinstance(one, Output)]


def save_classifier(folder: Path, config: Any) -> Path:
    torch.manual_seed(7)
    transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("config", CONFIGS, ids=name)
def test_a_text_has_the_scores_that_it_has_alone(
    engines: dict[Path, Engine], tmp_path: Path, config: Any
) -> None:
    folder = save_classifier(tmp_path, config)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    words = {word: number for number, word in enumerate(SPECIAL + WORDS)}
    found = outputs(engines, folder, TEXTS)
    assert len(found) == len(TEXTS)
    for text, output in zip(TEXTS, found, strict=True):
        ids = [words["[CLS]"], *(words[word] for word in text.split()), words["[SEP]"]]
        with torch.inference_mode():
            scores = model(input_ids=torch.tensor([ids])).logits[0].softmax(0)
        assert output.score == pytest.approx(float(scores.max()), abs=1e-4)
    assert len({output.score for output in found}) > 5


def test_only_a_model_whom_padding_changes_gets_batches_of_one_length(tmp_path: Path) -> None:
    found = {}
    for config in (CONFIGS[0], CONFIGS[3]):
        folder = save_classifier(tmp_path / name(config), config)
        runner = load_runner(ModelRequest("classification", str(folder), device="cpu"))
        assert isinstance(runner, ClassificationRunner)
        found[name(config)] = runner.takes_padding
    assert found == {"bert": True, "fnet": False}


# What the config and the tokenizer call padding; 2 and 1 are end tokens.
PADDINGS = {
    "both": (0, "<pad>", 2),
    "the model alone": (0, None, 2),
    "the tokenizer another": (0, "<|im_end|>", 2),
    "none": (None, None, 2),
    "none, and several ends": (None, None, [2, 1]),
    "none, said as -1": (-1, None, 2),
}


@pytest.mark.parametrize("padding", PADDINGS)
def test_a_decoder_reads_the_last_token_of_each_text(
    engines: dict[Path, Engine], tmp_path: Path, padding: str
) -> None:
    """It takes that for the last one that is not padding, by its config."""
    of_model, of_tokenizer, end = PADDINGS[padding]
    torch.manual_seed(7)
    tokenizer = make_tokenizer()
    config = transformers.LlamaConfig(**(SMALL | {"vocab_size": len(tokenizer)}), eos_token_id=end)
    model = transformers.LlamaForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    edit_json(tmp_path / "config.json", pad_token_id=of_model)
    edit_json(tmp_path / "tokenizer_config.json", pad_token=of_tokenizer)
    found = outputs(engines, tmp_path, TEXTS)
    assert len(found) == len(TEXTS)
    for text, output in zip(TEXTS, found, strict=True):
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([tokenizer(text).input_ids])).logits[0]
        assert output.score == pytest.approx(float(logits.softmax(0).max()), abs=1e-4)


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_writer_that_subtracts_the_mask_from_1(
    engines: dict[Path, Engine], tmp_path: Path
) -> None:
    save_t5(tmp_path)  # for its tokenizer
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    torch.manual_seed(5)
    config = transformers.ProphetNetConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_encoder_layers=2,
        num_decoder_layers=2,
        num_encoder_attention_heads=2,
        num_decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=128,
        init_std=0.6,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
        decoder_start_token_id=2,
    )
    model = transformers.ProphetNetForConditionalGeneration(config).eval()
    model.generation_config.update(no_repeat_ngram_size=1, max_length=16)
    model.save_pretrained(tmp_path)
    found = outputs(engines, tmp_path, SENTENCES[:6], "summarization")
    for text, output in zip(SENTENCES[:6], found, strict=True):
        ids = torch.tensor([tokenizer(text).input_ids])
        expected = tokenizer.decode(model.generate(ids)[0], skip_special_tokens=True)
        assert output.output == expected.strip()
