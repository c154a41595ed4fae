"""Each task on texts from a file, as a person runs it, with a tiny model made in the test."""

from __future__ import annotations

import struct

import pytest

from ..tiny_models import save_model
from .conftest import Shell, assert_user_error

TEXTS = "good\nfree win now call me\nthe bad text\n"


def test_run_embeddings_and_export_them(shell: Shell) -> None:
    model = save_model(shell.folder / "model", "BertModel")
    texts = shell.write("texts.txt", TEXTS)
    words = ["--task", "embeddings", "--model", model, "--dimensions", "8"]
    done = shell.run("run", texts, "--devices", "cpu", *words)

    assert done.returncode == 0, done.stderr
    rows = shell.rows("results")
    assert [row["text"] for row in rows] == TEXTS.splitlines()
    for row in rows:
        numbers = struct.unpack("<8f", row["vector"])
        assert sum(number * number for number in numbers) == pytest.approx(1, abs=1e-5)
        assert (row["label"], row["score"], row["output"], row["detail"]) == (None,) * 4
    assert len({row["vector"] for row in rows}) == 3
    exported = shell.run("results", "last", "--format", "csv").stdout.splitlines()
    assert exported[1].count(",") > 8


def test_run_zero_shot_classification(shell: Shell) -> None:
    names = ("contradiction", "neutral", "entailment")
    model = save_model(
        shell.folder / "model",
        id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
    )
    texts = shell.write("texts.txt", TEXTS)
    words = ["--task", "zero-shot-classification", "--model", model]
    assert_user_error(shell.run("run", texts, *words), "'labels'", "such as a,b,c")
    shell.assert_nothing_written()

    done = shell.run("run", texts, "--devices", "cpu", *words, "--labels", "spam,ham,good text")
    assert done.returncode == 0, done.stderr
    rows = shell.rows("results")
    for row in rows:
        scores = row["detail"]["scores"]
        assert scores.keys() == {"spam", "ham", "good text"}
        assert (row["label"], row["score"]) == max(scores.items(), key=lambda item: item[1])
    counted = {row["label"]: row["records"] for row in shell.rows("label_counts")}
    assert sum(counted.values()) == 3
