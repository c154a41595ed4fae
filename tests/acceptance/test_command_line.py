"""The shape of the command line: help with examples everywhere, and quick, light imports."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.main import get_command

from textmill.producer.cli.main import app

from .conftest import FAKE, Shell, assert_user_error


def _commands() -> list[list[str]]:
    found = []
    root = get_command(app)
    for name, command in root.commands.items():  # type: ignore[attr-defined]
        children = getattr(command, "commands", None)
        found += [[name, child] for child in children] if children else [[name]]
    return found


def test_the_commands_are_those_of_the_design() -> None:
    names = {words[0] for words in _commands()}
    jobs = {"run", "submit", "jobs", "show", "watch", "results", "cancel", "pause", "resume"}
    others = {"retry", "worker", "up", "sweep", "db", "doctor", "tasks", "sql"}
    assert names == jobs | others | {"purge", "redact", "audits"}


@pytest.mark.parametrize("words", _commands(), ids=" ".join)
def test_every_command_has_help_with_an_example(shell: Shell, words: list[str]) -> None:
    done = shell.run(*words, "--help")
    assert done.returncode == 0
    assert "Example" in done.stdout
    assert f"textmill {words[0]}" in done.stdout.split("Example")[1]


def test_help_and_producers_import_neither_torch_nor_what_is_slow() -> None:
    code = (
        "import sys, textmill, textmill.producer.cli.main;"
        "slow = {'torch', 'transformers', 'celery', 'sqlalchemy', 'pyarrow', 'pydantic'};"
        "assert not slow & sys.modules.keys(), slow & sys.modules.keys();"
        "import textmill.producer.api, textmill.producer.checks, textmill.producer.exports;"
        "assert not {'torch', 'transformers', 'iso639'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_usage_errors_exit_with_2_and_no_traceback(shell: Shell) -> None:
    for words in (["frobnicate"], ["run"], ["jobs", "--limit", "many"], ["show"]):
        done = shell.run(*words)
        assert done.returncode == 2, words
        assert "Traceback" not in done.stderr


def test_commands_about_an_unknown_job_offer_the_latest(shell: Shell) -> None:
    job = shell.submit(shell.write("texts.txt", "a\n"), "--task", "fake", "--model", "m")
    for command in ("show", "watch", "results", "cancel", "pause", "resume", "retry"):
        done = shell.run(command, "nosuchjob")
        assert done.returncode == 2
        assert job in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        *(["show"], ["watch"], ["results"], ["cancel"], ["pause"], ["resume"], ["retry"]),
        *(["redact"], ["purge", "--job"], ["purge", "--record-id"], ["run", "--resume"]),
        *(["worker", "--queues"], ["up", "--queues"]),
    ],
    ids=" ".join,
)
def test_bytes_that_are_not_utf8_are_named(shell: Shell, words: list[str]) -> None:
    shell.submit(shell.write("texts.txt", "a\n"), *FAKE)  # in which a record is looked for
    done = shell.run(*words, "a\udcffb")
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert r"'a\udcffb'" in done.stderr


def test_pause_and_resume_need_no_worker(shell: Shell) -> None:
    shell.submit(shell.write("texts.txt", "a\n"), "--task", "fake", "--model", "m")
    assert shell.run("pause", "last").returncode == 0
    assert shell.rows("jobs")[0]["status"] == "paused"
    assert {chunk["status"] for chunk in shell.rows("chunks")} == {"pending"}
    assert_user_error(shell.run("pause", "last"), "is already paused", "textmill resume")
    assert shell.run("resume", "last").returncode == 0
    assert shell.rows("jobs")[0]["status"] == "queued"
    assert_user_error(shell.run("resume", "last"), "is already queued", "textmill pause")
    assert shell.run("cancel", "last").returncode == 0
    assert_user_error(shell.run("cancel", "last"), "is already cancelled", "submit its input again")
    refused = shell.run("pause", "last")
    assert_user_error(refused, "has ended (cancelled) and cannot be paused")


def test_sweep_and_jobs_answer_in_json(shell: Shell) -> None:
    assert shell.json("jobs") == []
    shell.submit(shell.write("texts.txt", "a\n"), "--task", "fake", "--model", "m")
    (job,) = shell.json("jobs")
    assert job["status"] == "queued"
    assert shell.json("show", job["id"])["total_records"] == 1
    assert shell.json("sweep").keys() >= {"stalled", "republished", "dead_loads"}
