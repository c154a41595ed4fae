"""``textmill retry`` as a user runs it, with and without ``--all``."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Collection
from typing import Any

import pytest

from ..builders import claim_all, complete, make_job
from .conftest import FAKE, Shell, assert_user_error

CSV = "id,text,country\na,one,FR\nb,error,DE\nc,,DE\nd,four,IT\n"


@pytest.fixture(params=["shell", "server_shell"], ids=["sqlite", "postgresql"])
def anywhere(request: pytest.FixtureRequest) -> Shell:
    """A shell with the embedded default, and again one with servers."""
    given: Shell = request.getfixturevalue(request.param)
    assert given.run("db", "upgrade").returncode == 0
    return given


def _run(shell: Shell, content: str = CSV) -> None:
    table = shell.write("texts.csv", content)
    words = ["--text-column", "text", "--id-column", "id", "--skip-bad", "--devices", "cpu"]
    assert shell.run("run", table, *words, *FAKE).returncode in (0, 3)


def _rows(shell: Shell) -> list[tuple[Any, ...]]:
    found = sorted(shell.rows("results"), key=lambda row: row["record_index"])
    return [
        tuple(row[name] for name in ("record_id", "output", "error_code", "extra")) for row in found
    ]


def test_retry_all_runs_every_record_again_with_no_worker_alive(anywhere: Shell) -> None:
    shell = anywhere
    _run(shell)
    first = _rows(shell)
    assert [row[:3] for row in first] == [
        ("a", "ONE", None),
        ("b", None, "runner_error"),
        ("c", None, "empty_text"),
        ("d", "FOUR", None),
    ]
    (before,) = shell.rows("jobs")

    done = shell.run("retry", "last", "--all")
    assert done.returncode == 0, done.stderr
    assert "retrying 3 records" in done.stderr
    assert "the job's 3 rows are gone and come again" in done.stderr  # of 4: one stays
    assert f"textmill watch {before['id']}" in done.stderr
    assert done.stdout == ""
    assert [row[:3] for row in _rows(shell)] == [("c", None, "empty_text")]
    (job,) = shell.rows("jobs")
    assert (job["status"], job["done_records"], job["error_records"]) == ("queued", 0, 1)

    assert shell.run("run", "--resume", "last", "--devices", "cpu").returncode == 3
    assert _rows(shell) == first
    (after,) = shell.rows("jobs")
    for name in ("status", "done_records", "error_records", "input_tokens"):
        assert after[name] == before[name], name
    assert after["started_at"] > before["finished_at"]
    counts = {row["label"]: row["records"] for row in shell.rows("label_counts")}
    assert counts == {"O": 1, "F": 1}


def _ended_job(shell: Shell, errors: Collection[int] = ()) -> str:
    """A job of three records that has ended, without the time that a worker takes."""
    assert shell.run("db", "upgrade").returncode == 0
    database = shell.database()
    job_id = make_job(database, (3,))
    for claimed in claim_all(database, job_id):
        complete(database, claimed, errors)
    database.close()
    return job_id


def test_retry_answers_in_json_how_many_records_run(shell: Shell) -> None:
    errors, everything = _ended_job(shell, {0}), _ended_job(shell, {0})
    assert shell.json("retry", errors) == {"id": errors, "records": 1}
    assert shell.json("retry", everything, "--all") == {"id": everything, "records": 3}
    assert [row["job_id"] for row in shell.rows("results")] == [errors] * 2

    again = shell.run("retry", everything, "--all", "--json")
    assert_user_error(again, "is queued", "has ended")
    gone = shell.run("cancel", everything)
    assert gone.returncode == 0
    assert "0 of 3 records have rows" in gone.stderr
    assert "3 records had rows before `textmill retry`; those are gone" in gone.stderr
    assert "1 records had rows before" in shell.run("cancel", errors).stderr
    cancelled = shell.run("retry", everything, "--all")
    assert_user_error(cancelled, "is cancelled", "submit its input again")


def test_a_completed_job_runs_again_only_with_all_and_from_python_too(shell: Shell) -> None:
    job_id = _ended_job(shell)
    assert_user_error(shell.run("retry", job_id), "is completed", "retry --all")
    script = f"from textmill import Job; job = Job({job_id!r}); print(job.retry(all=True), "
    done = subprocess.run(
        [sys.executable, "-c", script + "job.status, job.counts())"],
        env=shell.env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "3 queued {'total': 3, 'done': 0, 'errors': 0}\n"
