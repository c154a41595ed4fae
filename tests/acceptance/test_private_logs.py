"""No log and no message has a text: jobs of every kind, failing ones too, with canaries in all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import redis

from textmill.core.tasks import TASKS

from ..tiny_generators import save_generator
from ..tiny_models import save_model
from ..tiny_translators import save_m2m100
from ..unit.test_question_answering import save_model as save_reader
from .conftest import FAKE, IMPATIENT, MESSAGES, MODEL, ROOT, Shell, assert_user_error

SHIPPED = {name for name, task in TASKS.items() if task.runner.startswith("textmill.")}
NAMES = ("contradiction", "neutral", "entailment")

# Of records: a text, its id and another column each hold one, in small letters.
CANARY = "zqcanary"
FAILING = ["error", "quote", "unreadable", "fine"]
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


def _csv(shell: Shell, name: str, texts: Sequence[str]) -> Path:
    rows = [
        json.dumps({"text": text, "id": f"{CANARY}-id{at}", "note": f"{CANARY} note"})
        for at, text in enumerate(texts)
    ]
    return shell.write(name, "\n".join(rows) + "\n")


def _kinds(shell: Shell) -> dict[str, list[str | Path]]:
    """A command's words for each task: texts that are done, and some that end in errors."""
    classifier = save_model(
        shell.folder / "classifier",
        id2label=dict(enumerate(NAMES)),
        label2id={name: index for index, name in enumerate(NAMES)},
    )
    generator = save_generator(shell.folder / "generator")
    translator = save_m2m100(shell.folder / "translator")
    long = f"{CANARY} " + "free " * 400
    texts = _csv(shell, "texts.jsonl", [f"{CANARY} is free", long, f"win {CANARY}"])
    asked = shell.write(
        "asked.jsonl",
        "\n".join(
            json.dumps({"id": f"{CANARY}-q{at}", "question": question, "context": context})
            for at, (question, context) in enumerate(
                [(f"who is {CANARY}?", f"{CANARY} won"), (f"{CANARY} who " * 200, "in Paris")]
            )
        ),
    )
    schema = shell.write("schema.json", json.dumps(SCHEMA))
    short = ["--max-new-tokens", "12"]
    languages = ["--source-lang", "en", "--target-lang", "fr"]
    return {
        "classification": [texts, "--model", classifier, "--on-long", "error"],
        "zero-shot-classification": [texts, "--model", classifier, "--labels", "spam,ham"],
        "embeddings": [
            texts,
            "--model",
            save_model(shell.folder / "encoder", "BertModel"),
            "--on-long",
            "error",
        ],
        "question-answering": [asked, "--model", save_reader(shell.folder / "reader")],
        "translation": [texts, "--model", translator, *languages, *short],
        "summarization": [texts, "--model", generator, "--on-long", "error", *short],
        "generation": [texts, "--model", generator, "--json-schema", schema, *short],
    }


def _assert_silent(shell: Shell, *said: str) -> None:
    """Nothing that was said or logged has a canary."""
    logs = [path for path in shell.folder.rglob("*.log") if path.is_file()]
    assert any(path.stat().st_size for path in logs)
    for path in logs:
        content = path.read_text(errors="replace").lower()
        assert CANARY not in content, _around(content, path.name)
    for text in said:
        assert CANARY not in text.lower(), _around(text.lower(), "stderr")


def _around(text: str, name: str) -> str:
    at = text.index(CANARY)
    return f"{name}: …{text[max(0, at - 600) : at + 200]}…"


@pytest.mark.timeout(600)  # a model for every task is loaded, some twice
def test_jobs_of_every_kind_leave_no_text_in_logs(shell: Shell) -> None:
    kinds = _kinds(shell)
    assert kinds.keys() == SHIPPED
    said: list[str] = []
    shell.start_worker()
    ids = []
    for task, words in kinds.items():
        ids.append(shell.submit(*words, "--task", task, "--id-column", "id"))
    for job_id in ids:
        done = shell.run("watch", job_id)
        assert done.returncode in (0, 3), done.stderr
        said.append(done.stderr)
    codes = {row["error_code"] for row in shell.rows("results")} - {None}
    assert {"text_too_long", "question_too_long"} <= codes
    assert {row["record_id"].startswith(CANARY) for row in shell.rows("results")} == {True}
    _assert_silent(shell, *said)


@pytest.mark.timeout(300)  # a record that kills workers is condemned after three
def test_failures_of_every_kind_leave_no_text_in_logs(server_shell: Shell) -> None:
    shell = server_shell
    shell.env |= IMPATIENT
    assert shell.run("db", "upgrade").returncode == 0
    several = _csv(shell, "several.jsonl", [f"{word} {CANARY}" for word in FAILING])
    crashing = _csv(shell, "crashing.jsonl", [f"crash {CANARY}"])
    worker = shell.start_worker()
    columns = ["--id-column", "id", "--text-column", "text"]
    said = []
    for file, words, code in (
        (several, FAKE, 3),
        (crashing, ["--task", "fake_single", "--model", "m"], 3),
        (several, ["--task", "fake", "--model", "unloadable"], 1),
    ):
        watched = shell.run("watch", shell.submit(file, *words, *columns))
        assert watched.returncode == code, watched.stderr
        said.append(watched.stderr)
    worker.terminate()
    worker.wait(60)
    rows = {row["text"].split()[0]: row for row in shell.rows("results")}
    assert {word: row["error_code"] for word, row in rows.items()} == {
        "error": "runner_error",
        "quote": "runner_error",
        "unreadable": "runner_error",
        "fine": None,
        "crash": "worker_crashed",
    }
    assert CANARY in rows["quote"]["error_message"]  # the row says it, to whom may read the row
    for event in ("records failed, now one by one", "worker died", "model not loaded"):
        assert event in shell.log()
    _assert_silent(shell, *said)


@pytest.mark.timeout(300)
def test_rows_that_the_database_refuses_are_not_quoted(server_shell: Shell) -> None:
    """What PostgreSQL says of a row that it cannot take has that row in it."""
    shell = server_shell
    assert shell.run("db", "upgrade").returncode == 0
    file = _csv(shell, "texts.jsonl", [f"nul {CANARY}"])
    shell.start_worker()
    job_id = shell.submit(file, *FAKE, "--id-column", "id", "--text-column", "text")
    watched = shell.run("watch", job_id)
    assert watched.returncode == 1, watched.stderr
    (job,) = shell.rows("jobs")
    (chunk,) = shell.rows("chunks")
    assert "failed 3 times, the last time with: DataError" in job["error"]
    assert shell.log().count("chunk given back") == 3
    for text in (job["error"], chunk["error"], watched.stdout, watched.stderr):
        assert CANARY not in text
    _assert_silent(shell)


def test_the_broker_has_numbers_and_names_and_no_text(broker_shell: Shell) -> None:
    shell = broker_shell
    file = _csv(shell, "texts.jsonl", [f"wait {shell.folder / 'go'}"] * 12)
    shell.write("more.jsonl", json.dumps({"text": CANARY, "id": CANARY, "note": CANARY}) + "\n")
    options = ["--task", "fake_single", "--model", "m", "--text-column", "text"]
    shell.submit(file, *options)
    shell.submit(shell.folder / "more.jsonl", *options, "--name", "more", "--id-column", "id")
    shell.start_worker("--slots", "1")
    with redis.Redis.from_url(shell.env["TEXTMILL_BROKER_URL"]) as client:
        keys: Any = client.keys("*")
        assert keys
        found = b" ".join(client.dump(key) or b"" for key in keys)
        bodies = [
            body
            for key in keys
            if client.type(key) == b"list"
            for body in client.lrange(key, 0, -1)
        ]
    assert bodies  # messages wait
    assert CANARY.encode() not in found + b" ".join([*keys, *bodies])
    shell.write("go", "")


def test_what_a_submission_says_of_a_wrong_row_is_for_the_one_who_submits(shell: Shell) -> None:
    """It shows the beginning of a cell, on its own stderr; a command for cron can do without."""
    file = shell.write("texts.jsonl", json.dumps({"text": [f"{CANARY} " * 20]}) + "\n")
    refused = shell.run("submit", file, *FAKE, "--text-column", "text")
    assert_user_error(refused, CANARY, "expected a string")
    assert refused.stderr.count(CANARY) <= 5
    skipped = shell.run("submit", file, *FAKE, "--text-column", "text", "--skip-bad")
    assert CANARY not in skipped.stderr


def test_a_full_example_run_says_nothing_of_its_messages(shell: Shell) -> None:
    """Real messages, by the words of the rarest of them."""
    run = ["run", MESSAGES, "--model", MODEL, "--id-column", "id", "--limit", "200"]
    done = shell.run(*run, "--devices", "cpu")
    assert done.returncode == 0, done.stderr
    log = (shell.folder / "home" / "logs" / "worker.log").read_text() + done.stderr
    texts = [row["text"] for row in shell.rows("results")]
    assert len(texts) == 200
    assert [text for text in texts if len(text) > 12 and text[:40] in log] == []
    assert str(ROOT) in log or "loaded" in log
