"""A task in a file of the user's own, as docs/adding-a-task.md shows it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import transformers

from ..servers import wait_until
from ..tiny_models import save_model
from .conftest import FAKE, Shell, assert_user_error

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "token_classification"
PAGE = ROOT / "docs" / "adding-a-task.md"
TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
TEXTS = [
    "good",
    "free win now call me",
    "the bad text and the good text call now and win the free text",
    "  now  😀 win\tthe bad ",
    "call " * 100,
]


def name_plugin(shell: Shell, name: str, folder: Path) -> None:
    path = f"{ROOT}{os.pathsep}{folder}"
    shell.env |= {"TEXTMILL_PLUGINS": name, "PYTHONPATH": path}


@pytest.fixture
def tagger(shell: Shell) -> str:
    name_plugin(shell, "token_classification", EXAMPLE)
    return str(
        save_model(
            shell.folder / "model",
            "BertForTokenClassification",
            id2label=dict(enumerate(TAGS)),
            label2id={tag: index for index, tag in enumerate(TAGS)},
        )
    )


def test_the_added_task_runs_as_transformers_does_it(shell: Shell, tagger: str) -> None:
    texts = shell.write("texts.txt", "".join(f"{text}\n" for text in TEXTS))
    words = ["--task", "token-classification", "--model", tagger, "--max-length", "16"]
    done = shell.run("run", texts, "--devices", "cpu", *words)

    assert done.returncode == 0, done.stderr
    rows = shell.rows("results")
    tag = transformers.pipeline(
        "token-classification", tagger, device="cpu", aggregation_strategy="simple"
    )
    assert sum(len(row["detail"]["entities"]) for row in rows) > len(TEXTS)
    for text, row in zip(TEXTS, rows, strict=True):
        found = row["detail"]["entities"]
        assert row["text"] == text
        assert all(text[one["start"] : one["end"]] == one["text"] for one in found)
        assert all(one["end"] <= other["start"] for one, other in pairwise(found))
        if "truncated" in row["detail"]:
            assert row["input_tokens"] == 16
            continue
        expected = [one for one in tag(text) if one["entity_group"] != "O"]
        assert [(e["entity"], e["start"], e["end"]) for e in found] == [
            (e["entity_group"], e["start"], e["end"]) for e in expected
        ]
        for one, other in zip(found, expected, strict=True):
            assert one["score"] == pytest.approx(other["score"], abs=1e-4)
    assert [row["label"] in ("PER", "LOC", None) for row in rows] == [True] * len(rows)


def test_its_options_are_checked_and_listed_as_those_of_any_task(shell: Shell, tagger: str) -> None:
    texts = shell.write("texts.txt", "good\n")
    words = ["submit", texts, "--task", "token-classification", "--model"]
    done = shell.run(*words, tagger, "--min-scor", "0.5")
    assert_user_error(done, "--min-scor", "did you mean '--min-score'")
    classifier = save_model(shell.folder / "other")
    assert_user_error(shell.run(*words, str(classifier)), "cannot do token-classification")
    shell.assert_nothing_written()
    assert "--min-score" in shell.run("tasks", "token-classification").stdout


def test_a_producer_without_torch_can_import_it() -> None:
    code = "import sys, token_classification; sys.exit('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(EXAMPLE)},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_the_page_shows_the_file_that_is_tested() -> None:
    shown = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), flags=re.M | re.S)
    code = (EXAMPLE / "token_classification.py").read_text("utf-8")
    assert shown
    for block in shown:
        assert block in code


@pytest.mark.parametrize(
    ("code", "parts"),
    [
        ("\nraise KeyError('a')\n", ["KeyError: 'a'", "own_task.py, line 2"]),
        ("def x(:\n", ["SyntaxError", "own_task.py, line 1"]),
        ("import nosuch\n", ["cannot be imported: No module named 'nosuch'"]),
    ],
)
def test_a_file_that_fails_is_named_with_its_line(
    shell: Shell, code: str, parts: list[str]
) -> None:
    shell.write("own_task.py", code)
    name_plugin(shell, "own_task", shell.folder)
    assert_user_error(shell.run("tasks"), "TEXTMILL_PLUGINS names 'own_task'", *parts)


def test_a_worker_without_the_task_says_what_it_needs(shell: Shell) -> None:
    """And leaves the job to others: here is none, so the job fails with what to do."""
    job = shell.submit(shell.write("texts.txt", "good\n"), *FAKE)
    submitters = dict(shell.env)
    shell.env |= {"TEXTMILL_PLUGINS": ""}
    shell.start_worker()
    shell.env = submitters
    wait_until(lambda: shell.rows("jobs")[0]["finished_at"], 60, what="finished")
    (row,) = shell.rows("jobs")
    assert (row["id"], row["status"]) == (job, "failed")
    assert "unknown task 'fake'" in row["error"]
    assert "TEXTMILL_PLUGINS" in row["error"]
    assert "failed 3 times" not in row["error"]
