"""`textmill run --task question-answering`: from a file to spans in SQL, with a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ..unit.test_question_answering import save_model
from .conftest import Shell, assert_user_error

TASK = ["--task", "question-answering", "--devices", "cpu"]
ROWS = [
    {"id": "a", "question": "who won?", "context": "The red team\r\n won 😀 the game.", "page": 7},
    {"id": "b", "question": "where?", "context": "  שלום in Paris " * 30, "page": 8},
    {"id": "c", "question": "", "context": "blue", "page": 9},
]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_model(tmp_path / "model")


def test_run_answers_questions_from_columns(shell: Shell, model: Path) -> None:
    """Given questions in a column of another name, long contexts and one empty question."""
    lines = [json.dumps({"q": row.pop("question"), **row}) for row in map(dict, ROWS)]
    asked = shell.write("asked.jsonl", "\n".join(lines))
    words = [asked, *TASK, "--model", model, "--id-column", "id", "--question-column", "q"]
    done = shell.run("run", *words, "--window", "40", "--top-k", "2")

    assert done.returncode == 3, done.stderr
    rows = shell.rows("results")
    assert [row["record_id"] for row in rows] == ["a", "b", "c"]
    for row, given in zip(rows[:2], ROWS, strict=False):
        detail = row["detail"]
        assert row["text"] == given["context"]
        assert row["text"][detail["start"] : detail["end"]] == row["output"]
        assert detail["question"] == given["question"]
        assert len(detail["answers"]) == 2
        assert 0 < row["score"] <= 1
        assert row["extra"] == {"page": given["page"]}
    assert rows[1]["detail"]["windows"] > 1
    assert rows[2]["error_code"] == "empty_text"
    assert shell.rows("label_counts") == []


def test_run_asks_many_questions_of_one_file_again_and_again(shell: Shell, model: Path) -> None:
    """The rows keep the questions, so that the whole job can run again."""
    shell.write("page.txt", "The red team won the game in Paris.\r\n")
    asked = shell.write("asked.txt", "who won?\nwhere?\n")
    words = [asked, *TASK, "--model", model, "--context", "@page.txt"]
    assert shell.run("run", *words).returncode == 0

    (job,) = shell.rows("jobs")
    context = job["params"]["context"]
    assert context == "The red team won the game in Paris.\r\n"
    first = shell.rows("results")
    assert [row["text"] for row in first] == ["who won?", "where?"]
    for row in first:
        assert context[row["detail"]["start"] : row["detail"]["end"]] == row["output"] != ""
    assert shell.run("retry", "last", "--all").returncode == 0
    assert shell.run("run", "--resume", "last", "--devices", "cpu").returncode == 0
    assert [row["output"] for row in shell.rows("results")] == [row["output"] for row in first]


def test_what_is_missing_is_said_at_submit(shell: Shell, model: Path) -> None:
    texts = shell.write("texts.csv", "id,context\n1,the game\n")
    words = ["submit", texts, "--task", "question-answering", "--model", model]
    assert_user_error(shell.run(*words), "named 'question'", "--question-column", "id, context")
    done = shell.run(*words, "--question", "who", "--question-column", "id")
    assert_user_error(done, "'question'", "the task reads: context")
    assert_user_error(shell.run(*words, "--context", "@no.txt"), "@no.txt", "No such file")
    both = ["--context", "a", "--question", "b"]
    assert_user_error(shell.run(*words, *both), "both fixed")
    shell.assert_nothing_written()
