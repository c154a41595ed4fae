"""The shipped SMS data and the shipped classifier are what their READMEs say."""

import csv
import hashlib
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "sms_spam"
MODEL = EXAMPLE / "model"
ORIGINAL_SHA256 = "7d039a24a6083ed9ef0f806ebad56bbb976e3aeb8de05669173bfdc4996c239d"

Row = dict[str, str]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    with (EXAMPLE / "sms_spam.tsv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, dialect="excel-tab", strict=True))


@pytest.fixture(scope="module")
def reported() -> dict[str, Any]:
    report: dict[str, Any] = json.loads((MODEL / "eval.json").read_text(encoding="utf-8"))
    return report


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """So small a model gains nothing from threads, and loses much by them on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def predicted(rows: list[Row], one_thread: None) -> list[tuple[str, str]]:
    """The true and the predicted label of every message of the test split."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL, local_files_only=True)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        MODEL, local_files_only=True
    ).eval()
    held_out = sorted(
        (row for row in rows if row["split"] == "test"), key=lambda row: len(row["text"])
    )
    pairs: list[tuple[str, str]] = []
    for start in range(0, len(held_out), 64):
        batch = held_out[start : start + 64]
        inputs = tokenizer(
            [row["text"] for row in batch], truncation=True, padding=True, return_tensors="pt"
        )
        with torch.inference_mode():
            best = model(**inputs).logits.argmax(-1).tolist()
        labels = [model.config.id2label[index] for index in best]
        pairs += zip([row["label"] for row in batch], labels, strict=True)
    return pairs


def normalise(text: str) -> str:
    """Ignore case, spacing and which number it is; written apart from `prepare.py` on purpose."""
    return " ".join(re.sub(r"[0-9]+", "0", text).casefold().split())


def test_the_data_has_every_message_in_order(rows: list[Row]) -> None:
    assert [row["id"] for row in rows] == [f"sms-{number:04d}" for number in range(1, 5575)]
    assert list(rows[0]) == ["id", "split", "label", "text"]
    assert Counter(row["label"] for row in rows) == {"ham": 4827, "spam": 747}


def test_the_texts_are_those_of_the_original_file(rows: list[Row]) -> None:
    original = "".join(f"{row['label']}\t{row['text']}\n" for row in rows).encode()
    assert hashlib.sha256(original).hexdigest() == ORIGINAL_SHA256


def test_the_script_makes_the_shipped_data(rows: list[Row], tmp_path: Path) -> None:
    # Given the original file
    original = tmp_path / "SMSSpamCollection"
    original.write_bytes("".join(f"{row['label']}\t{row['text']}\n" for row in rows).encode())

    # If I run the documented script on it
    made = tmp_path / "made.tsv"
    command = [sys.executable, str(EXAMPLE / "prepare.py"), str(original), "--out", str(made)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)

    # I expect the shipped bytes
    assert made.read_bytes() == (EXAMPLE / "sms_spam.tsv").read_bytes()


def test_no_text_is_in_both_splits(rows: list[Row]) -> None:
    splits: dict[str, set[str]] = {"train": set(), "test": set()}
    for row in rows:
        splits[row["split"]].add(normalise(row["text"]))
    assert splits["train"] & splits["test"] == set()


def test_the_test_split_has_its_share_of_each_label(rows: list[Row]) -> None:
    for label in ("ham", "spam"):
        own = [row["split"] for row in rows if row["label"] == label]
        assert 0.18 <= own.count("test") / len(own) <= 0.20


def test_the_model_is_small_and_names_its_labels() -> None:
    assert (MODEL / "model.safetensors").stat().st_size <= 6_000_000
    config = json.loads((MODEL / "config.json").read_text(encoding="utf-8"))
    tokenizer = json.loads((MODEL / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert config["id2label"] == {"0": "ham", "1": "spam"}
    assert tokenizer["model_max_length"] == config["max_position_embeddings"]


def test_the_model_is_as_good_as_reported(
    predicted: list[tuple[str, str]], reported: dict[str, Any]
) -> None:
    # Given the counts of the shipped model on the held-out messages
    counts = Counter(predicted)
    right = counts["ham", "ham"] + counts["spam", "spam"]
    wrong = counts["ham", "spam"] + counts["spam", "ham"]
    accuracy = right / len(predicted)
    f1 = 2 * counts["spam", "spam"] / (2 * counts["spam", "spam"] + wrong)

    # I expect a good model, and exactly the figures it was shipped with
    assert accuracy >= 0.98
    assert f1 >= 0.93
    assert reported["messages"] == len(predicted)
    assert reported["accuracy"] == pytest.approx(accuracy, abs=5e-4)
    assert reported["spam_f1"] == pytest.approx(f1, abs=5e-4)


def test_the_model_card_states_the_reported_figures(reported: dict[str, Any]) -> None:
    card = (MODEL / "README.md").read_text(encoding="utf-8")
    for name in ("accuracy", "spam_precision", "spam_recall", "spam_f1"):
        assert f"{reported[name]:.4f}" in card, name
