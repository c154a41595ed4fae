"""``--store-text``: from the command through real workers into the rows, and who lacks the key."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from openai.types.chat import ChatCompletion

from textmill.core.stored_texts import hash_text, key_id

from ..tiny_generators import save_generator
from ..unit.test_question_answering import save_model as save_reader
from .conftest import FAKE, IMPATIENT, Refusals, Shell, assert_user_error

KEY = {"TEXTMILL_HASH_KEY": "a key of twenty-four byt"}
OTHER_KEY = {"TEXTMILL_HASH_KEY": "another one of 24 bytes."}
TEXTS = "id,text,country\na,free prize,FR\nb,error,DE\nc,free prize,IT\n"


@pytest.fixture(params=["shell", "server_shell"], ids=["sqlite", "postgresql"])
def anywhere(request: pytest.FixtureRequest) -> Shell:
    given: Shell = request.getfixturevalue(request.param)
    given.env |= IMPATIENT
    assert given.run("db", "upgrade").returncode == 0
    return given


def _options(shell: Shell, *more: str) -> list[str | Path]:
    table = shell.write("texts.csv", TEXTS)
    return [table, *FAKE, "--text-column", "text", "--id-column", "id", *more]


def _bytes(shell: Shell) -> bytes:
    """All that is in the shell's folder but the input: the SQLite file with its log, and logs."""
    files = [path for path in shell.folder.rglob("*") if path.is_file()]
    return b"".join(path.read_bytes() for path in files if path.suffix not in (".csv", ".jsonl"))


def test_hashes_with_the_key_and_no_texts(anywhere: Shell) -> None:
    shell = anywhere
    shell.env |= KEY
    done = shell.run("run", *_options(shell, "--store-text", "hash"), "--devices", "cpu")
    assert done.returncode == 3, done.stderr
    key = KEY["TEXTMILL_HASH_KEY"].encode()
    rows = sorted(shell.rows("results"), key=lambda row: str(row["record_id"]))
    assert [(row["text"], row["text_hash"]) for row in rows] == [
        (None, hash_text(text, key)) for text in ("free prize", "error", "free prize")
    ]
    assert [row["output"] for row in rows] == ["FREE PRIZE", None, "FREE PRIZE"]
    assert "is not kept (--store-text hash)" in rows[1]["error_message"]
    (job,) = shell.rows("jobs")
    assert (job["store_text"], job["hash_key_id"]) == ("hash", key_id(key))
    assert key not in _bytes(shell)

    retried = shell.run("retry", "last")  # the input of its error is kept for that
    assert retried.returncode == 0, retried.stderr
    assert "retrying 1 records" in retried.stderr
    shell.run("cancel", "last")
    searched = shell.run("results", "last", "--search", "free", "--format", "jsonl")
    assert len(searched.stdout.splitlines()) == 2  # in the outputs
    assert "only outputs are searched" in searched.stderr


def test_nothing_is_kept_of_texts(anywhere: Shell) -> None:
    shell = anywhere
    done = shell.run("run", *_options(shell, "--store-text", "none"), "--devices", "cpu")
    assert done.returncode == 3, done.stderr
    for row in shell.rows("results"):
        assert (row["text"], row["text_hash"]) == (None, None)
        assert row["extra"]["country"]
    assert shell.rows("payloads") == []
    assert "textmill retry" not in done.stdout
    assert_user_error(shell.run("retry", "last"), "--store-text none", "submit them again")
    assert_user_error(shell.run("retry", "last", "--all"), "submitted with --store-text none")
    assert len(shell.rows("results")) == 3


def test_a_key_that_is_missing_or_too_short_at_submission(anywhere: Shell) -> None:
    shell = anywhere
    words = ["submit", *_options(shell, "--store-text", "hash")]
    assert_user_error(shell.run(*words), "TEXTMILL_HASH_KEY is not set", "at least 16 bytes")
    shell.env["TEXTMILL_HASH_KEY"] = "s3cret"
    short = shell.run(*words)
    assert_user_error(short, "TEXTMILL_HASH_KEY: it has 6 bytes, expected at least 16")
    assert "s3cret" not in short.stderr
    shell.assert_nothing_written()


@pytest.mark.parametrize(
    ("workers", "reason"),
    [({}, "this worker has no TEXTMILL_HASH_KEY"), (OTHER_KEY, "is not the key that the job")],
    ids=["no key", "another key"],
)
def test_a_worker_without_the_key_writes_no_other_hash(
    anywhere: Shell, workers: dict[str, str], reason: str
) -> None:
    shell = anywhere
    plain = dict(shell.env)
    shell.env = plain | KEY
    job = shell.submit(*_options(shell, "--store-text", "hash"))
    shell.env = plain | workers
    shell.start_worker()
    watched = shell.run("watch", job)
    assert watched.returncode == 1
    assert reason in watched.stdout
    assert shell.rows("results") == []
    assert len(shell.rows("payloads")) == 1  # a retry goes on, once a worker has the key

    shell.started[-1].terminate()
    shell.started[-1].wait(60)
    shell.env = plain | KEY
    assert shell.run("retry", job).returncode == 0
    shell.start_worker()
    assert shell.run("watch", job).returncode == 3
    assert len(shell.rows("results")) == 3


@pytest.mark.parametrize("mode", ["Full", "hashes", "yes", ""])
def test_a_mode_that_is_none_is_refused(refusals: Refusals, shell: Shell, mode: str) -> None:
    refusals.check(_options(shell, "--store-text", mode), repr(mode), "full, hash, none")


def test_reuse_of_what_nothing_is_kept_of_is_refused(refusals: Refusals, shell: Shell) -> None:
    words = _options(shell, "--store-text", "none", "--reuse")
    refusals.check(words, "--reuse finds nothing with --store-text none", "leave out --reuse")


def test_from_python(shell: Shell) -> None:
    shell.env |= KEY
    script = """
from textmill import submit
for mode in ("full", "hash", "none"):
    job = submit([{"text": "a"}], task="fake", model="m", store_text=mode)
    print(job._row().store_text)
submit([{"text": "a"}], task="fake", model="m", store_text="some")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], env=shell.env, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["full", "hash", "none"]
    assert "--store-text is 'some'; expected one of: full, hash, none" in done.stderr


def test_no_question_context_or_prompt_is_in_the_rows_of_real_runners(shell: Shell) -> None:
    """What stands in details, extra columns and messages of tasks that read more than a text."""
    asked = [
        {"question": "who is zqcanary?", "context": "zqcanary is in Paris", "n": 1},
        {"question": "zqcanary who " * 200, "context": "in Paris", "n": 2},
    ]
    questions = shell.write("asked.jsonl", "\n".join(map(json.dumps, asked)))
    mails = [{"body": "dear zqcanary", "tone": "zqcanary", "n": 1}, {"body": "x " * 300, "n": 2}]
    prompts = shell.write("mails.jsonl", "\n".join(map(json.dumps, mails)))
    reader = save_reader(shell.folder / "reader")
    writer = save_generator(shell.folder / "writer")
    none = ["--store-text", "none", "--devices", "cpu"]
    answered = shell.run("run", questions, "--task", "question-answering", "--model", reader, *none)
    assert answered.returncode == 3, answered.stderr
    generation = ["--task", "generation", "--model", writer, "--max-new-tokens", "8"]
    columns = ["--template", "Answer {body}", "--system-column", "tone"]
    written = shell.run("run", prompts, *generation, *columns, *none)
    assert written.returncode == 3, written.stderr

    rows = shell.rows("results")
    assert len(rows) == 4
    for row in rows:
        kept = {name: value for name, value in row.items() if name != "output"}
        assert "zqcanary" not in str(kept)
        assert row["extra"] == {"n": row["record_index"] + 1}
    (found,) = [row for row in rows if row["detail"] and "start" in row["detail"]]
    assert found["output"]
    for job in shell.rows("jobs"):
        assert "zqcanary" not in str(job)


@pytest.mark.parametrize("mode", ["hash", "none"])
def test_no_word_of_an_openai_batch_is_in_any_file(shell: Shell, mode: str) -> None:
    shell.env |= KEY
    model = save_generator(shell.folder / "model", every_byte=True, context=512)
    chat = [{"role": "user", "content": "my secret is zqcanary"}]
    bodies: list[dict[str, object]] = [
        {"messages": chat, "stop": ["zqcanary"]},  # the first line's options are the job's
        {"messages": chat, "stop": ["zqcanary too"], "n": 2},
        {"messages": "my secret is zqcanary"},
        {"messages": chat, "temperature": "zqcanary"},
        {"messages": [chat[0] | {"name": "zqcanary"}]},
        {"messages": [{"role": "zqcanary", "content": "a"}]},
        {"messages": chat, "zqcanary": 1},
        {"messages": chat, "response_format": {"type": "zqcanary"}},
    ]
    lines = [
        {
            "custom_id": f"line-{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": "gpt-4o-mini", "temperature": 0, "max_tokens": 6, **body},
        }
        for number, body in enumerate(bodies)
    ]
    batch = shell.write("batch.jsonl", "".join(json.dumps(one) + "\n" for one in lines))
    done = shell.run("run", batch, "--model", model, "--store-text", mode, "--devices", "cpu")
    assert done.returncode == 3, done.stderr
    exported = shell.run("results", "last", "--format", "openai-batch", "--out", "out.jsonl")
    assert exported.returncode == 0, exported.stderr
    assert exported.stderr == "2 answers in out.jsonl\n6 errors in out.errors.jsonl\n"
    answers = [json.loads(text) for text in (shell.folder / "out.jsonl").read_text().splitlines()]
    assert [one["custom_id"] for one in answers] == ["line-0", "line-1"]
    for one in answers:
        ChatCompletion.model_validate(one["response"]["body"], strict=True)
    assert "zqcanary" not in (shell.folder / "out.errors.jsonl").read_text()

    assert shell.run("db", "vacuum").returncode == 0
    assert b"line-7" in _bytes(shell)
    assert b"zqcanary" not in _bytes(shell)
