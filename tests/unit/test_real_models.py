"""The engine against the plain way, one record at a time, with models that people use."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from textmill.core.jobs import Record
from textmill.core.params import EmbeddingsParams, GenerationParams, TaskParams, ZeroShotParams
from textmill.workers.engine import Engine
from textmill.workers.items import ModelRequest, Output
from textmill.workers.registry import load_runner

from ..real_models import MINILM, SMOLLM2

MESSAGES = Path(__file__).parents[2] / "examples" / "sms_spam" / "sms_spam.tsv"
QUESTIONS = [
    "What is the capital of France?",
    "Name three colours.",
    "Why is the sky blue? Answer in one sentence.",
    "Write a line about a river.",
    "2 + 2 =",
    "Translate 'good morning' into Spanish.",
]
LABELS = ["advertisement", "private message"]


def _messages(count: int) -> list[str]:
    with MESSAGES.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t")
        return [row["text"] for row, _ in zip(rows, range(count), strict=False)]


def _run(task: str, model: Path, texts: list[str], *params: TaskParams) -> list[list[Output]]:
    """The rows of all texts in one engine, for each of the parameters."""
    request = ModelRequest(task, str(model), device="cpu", dtype="fp32")
    engine = Engine(lambda: load_runner(request))
    try:
        records = [Record(n, str(n), {"text": text}) for n, text in enumerate(texts)]
        found = [engine.submit(records, one).wait(200) for one in params]
    finally:
        engine.close()
    return [[output for output in rows if isinstance(output, Output)] for rows in found]


SmolLM2 = tuple[transformers.PreTrainedTokenizerBase, transformers.PreTrainedModel]


@pytest.fixture(scope="module")
def smollm2() -> SmolLM2:
    place = {"pretrained_model_name_or_path": SMOLLM2.parent, "gguf_file": SMOLLM2.name}
    tokenizer = transformers.AutoTokenizer.from_pretrained(**place)
    return tokenizer, transformers.AutoModelForCausalLM.from_pretrained(**place).eval()


@pytest.mark.timeout(400)  # two models are made of a quantized file
def test_answers_of_a_chat_model_are_those_of_transformers(smollm2: SmolLM2) -> None:
    tokenizer, model = smollm2
    (answers,) = _run("generation", SMOLLM2, QUESTIONS, GenerationParams(max_new_tokens=24))
    for question, answer in zip(QUESTIONS, answers, strict=True):
        ids = _prompt(tokenizer, question)
        written = model.generate(
            torch.tensor([ids]), do_sample=False, temperature=None, top_p=None, max_new_tokens=24
        )[0, len(ids) :]
        assert answer.output == tokenizer.decode(written, skip_special_tokens=True)


@pytest.mark.timeout(400)
def test_label_scores_of_a_chat_model_are_those_of_plain_passes(smollm2: SmolLM2) -> None:
    tokenizer, model = smollm2
    template = "SMS: {text}\n\nIs this SMS an advertisement or a private message?"
    texts = _messages(6)
    params = ZeroShotParams(labels=LABELS, template=template)
    (labelled,) = _run("zero-shot-classification", SMOLLM2, texts, params)
    for text, row in zip(texts, labelled, strict=True):
        expected = _label_scores(tokenizer, model, template.replace("{text}", text))
        assert row.detail is not None
        assert row.detail["scores"].keys() == expected.keys()
        for label, score in row.detail["scores"].items():
            assert abs(score - expected[label]) < 1e-4, (text, label)


def _prompt(tokenizer: transformers.PreTrainedTokenizerBase, text: str) -> list[int]:
    chat = [{"role": "user", "content": text}]
    ids: list[int] = tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_dict=False
    )
    return ids


def _label_scores(
    tokenizer: transformers.PreTrainedTokenizerBase,
    model: transformers.PreTrainedModel,
    prompt: str,
) -> dict[str, float]:
    """Softmax over the labels of the log-probability of each and of its end, one pass a label."""
    ids, sums = _prompt(tokenizer, prompt), []
    eos = model.generation_config.eos_token_id
    endings = [tokenizer(ending)["input_ids"] for ending in ("\n", "\n\n")]
    ends = {*([eos] if isinstance(eos, int) else eos)}
    ends |= {tokens[0] for tokens in endings if len(tokens) == 1}
    for label in LABELS:
        tokens = tokenizer(label, add_special_tokens=False)["input_ids"]
        with torch.inference_mode():
            logits = model(torch.tensor([ids + tokens])).logits[0, len(ids) - 1 :].float()
        chances = logits.log_softmax(dim=-1)
        end = chances[-1, sorted(ends)].logsumexp(dim=-1)
        sums.append(chances[range(len(tokens)), tokens].sum() + end)
    return dict(zip(LABELS, torch.stack(sums).softmax(dim=0).tolist(), strict=True))


def test_vectors_of_real_messages_are_those_of_the_plain_way() -> None:
    texts = _messages(60)
    (found,) = _run("embeddings", MINILM, texts, EmbeddingsParams())
    tokenizer = transformers.AutoTokenizer.from_pretrained(MINILM)
    model = transformers.AutoModel.from_pretrained(MINILM).eval()
    for text, row in zip(texts, found, strict=True):
        given = tokenizer(text, truncation=True, max_length=256, return_tensors="pt")
        with torch.inference_mode():
            mean = model(**given).last_hidden_state[0].mean(dim=0).numpy()
        vector = np.frombuffer(row.vector or b"", "<f4")
        assert np.abs(vector - mean / np.linalg.norm(mean)).max() < 1e-5, text
