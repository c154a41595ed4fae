"""Workers on two machines, of which one has another model in the job's folder; on PostgreSQL."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from textmill.db.jobs import pause_job

from ..machine import lacks
from ..servers import wait_until
from ..tiny_models import WORDS, save_model
from .conftest import IMPATIENT, Shell

MODEL = "~/model"  # each worker's own: the job keeps the name, as no such folder is here
RECORDS = 40_000
DIGEST = re.compile("sha256:[0-9a-f]{64}")


@pytest.fixture
def shell(tmp_path: Path, broker_url: str, postgres_url: str) -> Iterator[Shell]:
    """Two machines: the homes ``one`` and ``two`` hold other models under one name."""
    servers = {"TEXTMILL_BROKER_URL": broker_url, "TEXTMILL_DATABASE_URL": postgres_url}
    given = Shell(tmp_path, **servers, **IMPATIENT)
    for name in ("one", "two"):
        model = tmp_path / name / "model"
        save_model(model, id2label={0: f"{name} ham", 1: f"{name} spam"})
    assert given.run("db", "upgrade").returncode == 0
    yield given
    given.close()


def _submit(shell: Shell) -> str:
    """Texts that all differ, so that each is computed."""
    texts = itertools.islice(itertools.permutations(WORDS, 6), RECORDS)
    file = shell.write("texts.txt", "\n".join(map(" ".join, texts)))
    shell.env["HOME"] = str(shell.folder / "nowhere")
    return shell.submit(file, "--model", MODEL)


def _start_worker(shell: Shell, name: str) -> subprocess.Popen[str]:
    """A worker on a machine of this name, with this home."""
    shell.env["HOME"] = str(shell.folder / name)
    host = 'hostname "$0" && exec "$@"'
    user = [] if os.geteuid() == 0 else ["-r"]
    shell.prefix = ["unshare", "-u", *user, "sh", "-c", host, name]
    if subprocess.run([*shell.prefix, "true"], capture_output=True, check=False).returncode != 0:
        lacks("this machine allows no namespace for a host's name")
    before = len(shell.workers())
    worker = shell.start("worker", "--devices", "cpu", "--slots", "1", log=f"{name}.log")
    wait_until(lambda: len(shell.workers()) > before, 60, what=f"with worker {name}")
    shell.prefix = []
    return worker


def _job(shell: Shell) -> dict[str, Any]:
    (job,) = shell.rows("jobs")
    return job


def _wait_for_end(shell: Shell, status: str) -> dict[str, Any]:
    wait_until(lambda: _job(shell)["finished_at"], 400, what="finished")
    job = _job(shell)
    assert job["status"] == status, job
    return job


def _models(shell: Shell) -> set[str]:
    """The names of the models that gave the labels."""
    return {row["label"].partition(" ")[0] for row in shell.rows("label_counts")}


def _assert_both_digests(message: str, version: str) -> None:
    digests = DIGEST.findall(message)
    assert len(set(digests)) == 2, message
    assert digests[1] == version
    assert f"model '{MODEL}' on this machine is {digests[0]}, and the job began with" in message


def _run_a_part(shell: Shell) -> tuple[str, subprocess.Popen[str]]:
    """A job that worker one began, held back in its middle."""
    job = _submit(shell)
    worker = _start_worker(shell, "one")
    wait_until(lambda: _job(shell)["done_records"], 60, what="with results", every=0.05)
    database = shell.database()
    database.transact(pause_job, job)  # the command would take as long as the rest of the job
    database.close()
    assert DIGEST.fullmatch(_job(shell)["model_version"])
    return job, worker


@pytest.mark.timeout(600)
def test_a_worker_with_another_model_leaves_the_job_to_the_one_that_has_it(shell: Shell) -> None:
    job, _ = _run_a_part(shell)
    _start_worker(shell, "two")
    assert shell.run("resume", job).returncode == 0
    shell.wait_for_log("model not loaded", "two.log")
    ended = _wait_for_end(shell, "completed")

    _assert_both_digests(shell.log("two.log"), ended["model_version"])
    assert _models(shell) == {"one"}
    assert (ended["done_records"], ended["error_records"]) == (RECORDS, 0)
    assert [place.partition(" ")[0] for place in ended["load_failures"]] == ["two"]
    assert "model not loaded" not in shell.log("one.log")


@pytest.mark.timeout(600)
def test_alone_such_a_worker_fails_the_job_and_retry_goes_on_with_the_model_of_before(
    shell: Shell,
) -> None:
    job, worker = _run_a_part(shell)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 0
    second = _start_worker(shell, "two")
    assert shell.run("resume", job).returncode == 0
    failed = _wait_for_end(shell, "failed")
    _assert_both_digests(failed["error"], failed["model_version"])
    assert "textmill retry JOB --all" in failed["error"]
    shown = shell.run("show", job).stdout
    assert failed["error"] in shown
    assert _models(shell) == {"one"}

    second.send_signal(signal.SIGTERM)
    assert second.wait(60) == 0
    shutil.copytree(shell.folder / "one", shell.folder / "two", dirs_exist_ok=True)
    assert shell.run("retry", job).returncode == 0
    _start_worker(shell, "two")
    ended = _wait_for_end(shell, "completed")
    assert ended["model_version"] == failed["model_version"]
    assert _models(shell) == {"one"}
    assert ended["done_records"] == RECORDS
