"""Each task on texts from a file, as a person runs it, with a tiny model made in the test."""

from __future__ import annotations

import struct

import pytest

from ..tiny_generators import save_generator
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


def test_run_zero_shot_classification_by_a_chat_model(shell: Shell) -> None:
    model = save_generator(shell.folder / "model")
    texts = shell.write("texts.txt", TEXTS)
    run = ["--devices", "cpu", "--task", "zero-shot-classification", "--model", model]
    template = ["--template", "{text} is {labels}?", "--system", "a good text"]
    done = shell.run("run", texts, *run, "--labels", "good,good morning", *template)

    assert done.returncode == 0, done.stderr
    rows = shell.rows("results")
    assert [row["text"] for row in rows] == TEXTS.splitlines()
    for row in rows:
        scores = row["detail"]["scores"]
        assert scores.keys() == {"good", "good morning"}
        assert sum(scores.values()) == pytest.approx(1, abs=1e-5)
        assert (row["label"], row["score"]) == max(scores.items(), key=lambda item: item[1])
    assert shell.run("retry", "last", "--all").returncode == 0
    assert shell.run("run", "--resume", "last", "--devices", "cpu").returncode == 0
    assert [row["detail"] for row in shell.rows("results")] == [row["detail"] for row in rows]


def test_a_template_of_columns_is_the_prompt(shell: Shell) -> None:
    model = save_generator(shell.folder / "model", chat=False)
    rows = ["subject,body", "hello,how are you", "again,on and on", f"long,{'x' * 200}"]
    table = shell.write("mails.csv", "\n".join(rows))
    run = ["--devices", "cpu", "--task", "zero-shot-classification", "--model", model]
    labels = ["--labels", "good,bad", "--template"]
    done = shell.run("run", table, *run, *labels, "{subject}: {body} ({labels})")
    assert done.returncode == 3, done.stderr
    first, second, long = shell.rows("results")
    assert first["text"] == "hello: how are you (good, bad)"
    assert first["extra"] == {"subject": "hello", "body": "how are you"}
    assert second["label"] in ("good", "bad")
    assert long["error_code"] == "text_too_long"


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ([], ["'labels'", "such as a,b,c"]),
        (["--labels", "good"], ["it chooses between labels, and 'good' is the only one"]),
        (["--labels", "a,b", "--template", "of {labels}?"], ["expected {text}"]),
        (["--labels", "a,b", "--template", "{txet}"], ["no column 'txet'", "did you mean 'text'"]),
        (["--labels", "a,b", "--system", "s"], ["has no chat template", "--system needs"]),
        (["--labels", "a,b", "--multi-label"], ["--multi-label is for models of natural"]),
    ],
)
def test_wrong_options_for_a_chat_model(shell: Shell, words: list[str], parts: list[str]) -> None:
    model = save_generator(shell.folder / "model", chat=False)
    texts = shell.write("texts.csv", "text,id\ngood,1\n")
    run = ["run", texts, "--task", "zero-shot-classification", "--model", model]
    assert_user_error(shell.run(*run, *words), *parts)
    shell.assert_nothing_written()


def test_labels_in_a_column(shell: Shell) -> None:
    model = save_generator(shell.folder / "model", chat=False)
    table = shell.write("mails.csv", 'text,choices\ngood,"good,bad"\nhow are you,"dog,fox,x"\n')
    run = ["--devices", "cpu", "--task", "zero-shot-classification", "--model", model]
    done = shell.run("run", table, *run, "--labels-column", "choices", "--template", "{text}:")
    assert done.returncode == 0, done.stderr
    first, second = shell.rows("results")
    assert first["detail"]["scores"].keys() == {"good", "bad"}
    assert second["detail"]["scores"].keys() == {"dog", "fox", "x"}
    assert second["extra"] == {"choices": "dog,fox,x"}


def test_run_translation_by_a_chat_model(shell: Shell) -> None:
    model = save_generator(shell.folder / "model")
    texts = shell.write("texts.txt", TEXTS)
    words = ["--devices", "cpu", "--task", "translation", "--model", model]
    languages = ["--source-lang", "en", "--target-lang", "fr"]
    prompt = ["--template", "{text} {source_lang} {target_lang}", "--system", "a good text"]
    done = shell.run("run", texts, *words, *languages, *prompt, "--max-new-tokens", "3")

    assert done.returncode == 0, done.stderr
    rows = shell.rows("results")
    assert [row["text"] for row in rows] == TEXTS.splitlines()
    for row in rows:
        assert row["output"]
        assert row["detail"] == {"finish_reason": "length"}
        assert row["output_tokens"] == 3
    (job,) = shell.rows("jobs")
    assert job["params"]["target_lang"] == "fr"
    assert job["output_tokens"] == 9
    assert shell.run("retry", "last", "--all").returncode == 0
    assert shell.run("run", "--resume", "last", "--devices", "cpu").returncode == 0
    assert [row["output"] for row in shell.rows("results")] == [row["output"] for row in rows]


def test_run_summarization_by_a_chat_model(shell: Shell) -> None:
    model = save_generator(shell.folder / "model")
    texts = shell.write("texts.txt", f"a good text\n{'x' * 300}\n")
    words = ["--devices", "cpu", "--task", "summarization", "--model", model]
    words += ["--template", "{text}: short?"]
    done = shell.run("run", texts, *words, "--max-new-tokens", "5")

    assert done.returncode == 0, done.stderr
    short, long = shell.rows("results")
    assert short["output"]
    assert "truncated" not in (short["detail"] or {})
    assert long["detail"]["truncated"] is True
    assert long["detail"]["tokens"] > 300
    assert long["input_tokens"] == 123  # of 128, 5 of which are the summary's

    done = shell.run("run", texts, *words, "--on-long", "error", "--max-new-tokens", "5")
    assert done.returncode == 3, done.stderr
    assert shell.rows("results")[-1]["error_code"] == "text_too_long"


@pytest.mark.parametrize(
    ("task", "words", "parts"),
    [
        ("translation", [], ["needs target_lang", "fr, fra or French"]),
        ("translation", ["--target-lang", "Frensh"], ["'Frensh'", "no language of ISO 639"]),
        (
            "translation",
            ["--target-lang", "fr", "--num-beams", "4"],
            ["--num-beams is for a model with an encoder and a decoder"],
        ),
        ("summarization", ["--template", "{txt}"], ["it names {txt}", "expected {text}"]),
        ("summarization", ["--system", "s"], ["has no chat template", "--system needs"]),
        ("summarization", ["--sistem", "s"], ["did you mean '--system'"]),
    ],
)
def test_wrong_options_for_texts_by_a_chat_model(
    shell: Shell, task: str, words: list[str], parts: list[str]
) -> None:
    model = save_generator(shell.folder / "model", chat=False)
    texts = shell.write("texts.txt", TEXTS)
    assert_user_error(shell.run("submit", texts, "--task", task, "--model", model, *words), *parts)
    shell.assert_nothing_written()


def test_options_for_a_chat_model_are_not_for_one_of_inference(shell: Shell) -> None:
    names = ("contradiction", "neutral", "entailment")
    ids = {name: index for index, name in enumerate(names)}
    model = save_model(shell.folder / "model", id2label=dict(enumerate(names)), label2id=ids)
    texts = shell.write("texts.txt", TEXTS)
    run = ["run", texts, "--task", "zero-shot-classification", "--model", model, "--labels", "a,b"]
    done = shell.run(*run, "--template", "{text}")
    assert_user_error(done, "--template is for models that write", "--hypothesis-template")
    shell.assert_nothing_written()
