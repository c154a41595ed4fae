"""`textmill run --task translation`: from a file to translations in SQL, with a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ..tiny_translators import SENTENCES, save_bart, save_marian
from .conftest import Shell, assert_user_error

TASK = ["--task", "translation", "--devices", "cpu"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_marian(tmp_path / "model", ">>deu<<", ">>fra<<")


def test_run_translates_a_file(shell: Shell, model: Path) -> None:
    """Given texts of several sentences and lines, and an empty one."""
    texts = [SENTENCES[0], f"{SENTENCES[0]}\n\n{SENTENCES[4]}", "  "]
    lines = [json.dumps({"id": n, "body": text, "page": 7}) for n, text in enumerate(texts)]
    given = shell.write("texts.jsonl", "\n".join(lines))
    words = [given, *TASK, "--model", model, "--text-column", "body", "--id-column", "id"]
    done = shell.run("run", *words, "--target-lang", "French", "--max-new-tokens", "9")

    assert done.returncode == 3, done.stderr
    one, two, empty = shell.rows("results")
    assert two["output"].startswith(f"{one['output']}\n\n")
    assert two["text"] == texts[1]
    assert two["detail"]["pieces"] == 2
    assert one["extra"] == {"page": 7}
    assert empty["error_code"] == "empty_text"
    (job,) = shell.rows("jobs")
    assert job["params"] == {"target_lang": "French", "max_new_tokens": 9}
    assert job["output_tokens"] == one["output_tokens"] + two["output_tokens"] > 0
    assert job["input_tokens"] > 0


def test_run_summarizes(shell: Shell, tmp_path: Path) -> None:
    texts = shell.write("texts.txt", "\n".join(SENTENCES[:5]))
    model = save_bart(tmp_path / "bart")
    done = shell.run("run", texts, "--task", "summarization", "--devices", "cpu", "--model", model)
    assert done.returncode == 0, done.stderr
    assert all(row["output"] for row in shell.rows("results"))


def test_what_is_wrong_is_said_at_submit(shell: Shell, model: Path, tmp_path: Path) -> None:
    texts = shell.write("texts.txt", "Hello.\n")
    words = ["submit", texts, "--task", "translation", "--model", model]
    assert_user_error(shell.run(*words), "needs target_lang", ">>deu<<, >>fra<<")
    wrong = shell.run(*words, "--target-lang", "Frensh")
    assert_user_error(wrong, "'Frensh'", "did you mean '>>fra<<'?")
    many = shell.run(*words, "--target-lang", "fr", "--max-new-tokens", "500")
    assert_user_error(many, "max_new_tokens is 500", "at most 63")
    option = shell.run(*words, "--target-language", "fr")
    assert_user_error(option, "did you mean '--target-lang'")
    shell.assert_nothing_written()
