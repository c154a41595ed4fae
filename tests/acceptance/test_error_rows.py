"""What only the worker can tell of a record: one error row that says it, and the rest is done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ..tiny_generators import save_generator
from ..tiny_translators import save_m2m100
from ..unit.test_question_answering import save_model as save_reader
from .conftest import Refusals, Shell

CHAT = [{"role": "user", "content": "good morning"}]


def _rows(shell: Shell) -> list[dict[str, Any]]:
    return sorted(shell.rows("results"), key=lambda row: int(row["record_index"]))


def _codes(shell: Shell) -> list[str | None]:
    return [row["error_code"] for row in _rows(shell)]


def test_a_context_over_all_windows_and_a_question_over_one(shell: Shell) -> None:
    model = save_reader(shell.folder / "model")
    asked = [
        {"question": "who?", "context": "The red team won. " * 400},
        {"question": "who won the game " * 200, "context": "in Paris"},
        {"question": "where?", "context": "in Paris"},
    ]
    file = shell.write("asked.jsonl", "\n".join(map(json.dumps, asked)))
    run = ["run", file, "--task", "question-answering", "--model", model, "--devices", "cpu"]
    done = shell.run(*run, "--max-windows", "3")

    assert done.returncode == 3, done.stderr
    assert _codes(shell) == ["context_too_long", "question_too_long", None]
    context, question, answered = _rows(shell)
    assert "windows, and max_windows is 3; allow more" in context["error_message"]
    assert "the model reads no larger window" in question["error_message"]
    assert answered["output"]
    (job,) = shell.rows("jobs")
    assert (job["status"], job["done_records"], job["error_records"]) == (
        "completed_with_errors",
        1,
        2,
    )
    done = shell.run(*run, "--max-windows", "500", "--limit", "1")
    assert done.returncode == 0, done.stderr


def test_a_prompt_over_the_context_is_an_error_row_or_loses_its_beginning(shell: Shell) -> None:
    model = save_generator(shell.folder / "model", chat=False)
    texts = shell.write("texts.txt", f"how are you\n{'the dog ' * 400}\n")
    run = ["run", texts, "--task", "generation", "--model", model, "--devices", "cpu"]
    run += ["--max-new-tokens", "9"]
    done = shell.run(*run)
    assert done.returncode == 3, done.stderr
    assert _codes(shell) == [None, "prompt_too_long"]
    message = _rows(shell)[1]["error_message"]
    assert "the prompt has 8" in message
    assert "room for 119" in message

    shell.env["TEXTMILL_HOME"] = str(shell.folder / "second")
    done = shell.run(*run, "--on-long", "truncate-left")
    assert done.returncode == 0, done.stderr
    short, long = _rows(shell)
    assert "truncated" not in short["detail"]
    assert long["detail"]["truncated"] is True
    assert long["detail"]["tokens"] > 800
    assert long["input_tokens"] == 119
    assert long["output"]


def test_a_language_that_only_the_worker_knows_to_be_unknown(shell: Shell) -> None:
    """Such a tokenizer writes its list of languages into no file."""
    model = save_m2m100(shell.folder / "model")
    texts = shell.write("texts.txt", "The red team won.\nYou and me.\n")
    run = ["run", texts, "--task", "translation", "--model", model, "--devices", "cpu"]
    done = shell.run(*run, "--source-lang", "en", "--target-lang", "Klingon")
    assert done.returncode == 3, done.stderr
    assert _codes(shell) == ["invalid_params"] * 2
    assert all("'Klingon'" in row["error_message"] for row in _rows(shell))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("no list at all", "no JSON ('no list at all')"),
        ({"role": "user", "content": "hi"}, "expected a list"),
        (["hi"], "message 1 is 'hi'"),
        ([{"role": "user"}], "message 1 has no content"),
        ([{"role": "human", "content": "hi"}], "'human'; expected one of: system, user"),
        ([*CHAT, {"role": "assistant", "content": "hi"}], "the last one, is of the assistant"),
        ([{"role": "user", "content": 7}], "the content of message 1 is 7"),
        ([], "an empty list"),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_messages_of_the_wrong_shape(
    shell: Shell, refusals: Refusals, model: Path, kind: str, given: Any, says: str
) -> None:
    """Refused with the line, or skipped: then it has its row before any worker is there."""
    file = shell.write(f"chats.{kind}", _chats(kind, [CHAT, given]))
    words = [file, "--task", "generation", "--model", model, "--messages", "--max-new-tokens", "9"]
    line = 3 if kind == "csv" else 2
    refusals.check(words, f"chats.{kind}, line {line}: ", says, "--skip-bad")

    code, _, err = refusals.submit(*words, "--skip-bad")
    assert code == 0, err
    (row,) = shell.rows("results")
    assert (row["record_index"], row["error_code"]) == (1, "invalid_messages")
    assert says in row["error_message"]
    (job,) = shell.rows("jobs")
    assert (job["status"], job["total_records"], job["error_records"]) == ("queued", 2, 1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_generator(tmp_path_factory.mktemp("models") / "model")


def _chats(kind: str, chats: list[Any]) -> str:
    if kind == "jsonl":
        return "\n".join(json.dumps({"messages": chat}) for chat in chats)
    texts = [chat if isinstance(chat, str) else json.dumps(chat) for chat in chats]
    cells = ['"' + text.replace('"', '""') + '"' for text in texts]
    return "\n".join(["messages", *cells])
