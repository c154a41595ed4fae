"""`textmill run` from a file of texts to answers in SQL, with the embedded default."""

from __future__ import annotations

import csv
import json

import pytest

from .conftest import FAKE, MESSAGES, MODEL, Shell, assert_user_error


def test_run_classifies_real_messages_and_prints_a_summary(shell: Shell) -> None:
    done = shell.run("run", MESSAGES, "--model", MODEL, "--id-column", "id", "--limit", "300")

    assert done.returncode == 0, done.stderr
    assert "completed: 300 of 300 records" in done.stdout
    assert "ham" in done.stdout
    assert "next      textmill results" in done.stdout
    rows = shell.rows("results")
    assert [row["record_index"] for row in rows] == list(range(300))
    assert rows[0]["record_id"] == "sms-0001"
    assert rows[0]["text"].startswith("Go until jurong point")
    right = sum(row["label"] == row["extra"]["label"] for row in rows)
    assert right >= 290
    assert rows[2]["detail"]["scores"].keys() == {"ham", "spam"}
    assert shell.rows("payloads") == []
    (job,) = shell.rows("jobs")
    assert (job["status"], job["done_records"]) == ("completed", 300)
    assert job["input_tokens"] == sum(row["input_tokens"] for row in rows)
    counts = {row["label"]: row["records"] for row in shell.rows("label_counts")}
    assert counts["spam"] == sum(row["label"] == "spam" for row in rows)


def test_run_with_record_errors_exits_with_3_and_says_which(shell: Shell) -> None:
    texts = shell.write("texts.txt", "one\n\nerror\nfour\n")
    done = shell.run("run", texts, "--devices", "cpu", *FAKE)

    assert done.returncode == 3, done.stderr
    assert "completed with errors: 4 of 4 records" in done.stdout
    rows = {row["record_index"]: row for row in shell.rows("results")}
    assert [rows[at]["error_code"] for at in range(4)] == [
        None,
        "empty_text",
        "runner_error",
        None,
    ]
    assert "the text asked for an error" in rows[2]["error_message"]
    assert (rows[0]["output"], rows[3]["output"]) == ("ONE", "FOUR")


def test_retry_runs_only_error_records_that_have_an_input(shell: Shell) -> None:
    texts = shell.write("texts.txt", "one\n\nerror\n")
    assert shell.run("run", texts, "--devices", "cpu", *FAKE).returncode == 3

    done = shell.run("retry", "last")
    assert done.returncode == 0, done.stderr
    assert "retrying 1 records" in done.stderr
    assert shell.run("run", "--resume", "last", "--devices", "cpu").returncode == 3
    (job,) = shell.rows("jobs")
    assert (job["done_records"], job["error_records"]) == (1, 2)


def test_run_reads_stdin(shell: Shell) -> None:
    words = ["run", "-", "--devices", "cpu", "--format", "text", *FAKE]
    done = shell.run(*words, stdin="a\nb\n")
    assert done.returncode == 0, done.stderr
    assert [row["output"] for row in shell.rows("results")] == ["A", "B"]


def test_run_json_prints_one_object_and_keeps_progress_off_stdout(shell: Shell) -> None:
    texts = shell.write("texts.txt", "a\nb\n")
    done = shell.run("run", texts, "--devices", "cpu", *FAKE, "--json")
    summary = json.loads(done.stdout)
    assert summary["status"] == "completed"
    assert summary["labels"] == {"A": 1, "B": 1}


def test_a_model_that_cannot_be_loaded_fails_the_job_with_the_reason(shell: Shell) -> None:
    texts = shell.write("texts.txt", "a\n")
    done = shell.run("run", texts, "--devices", "cpu", *FAKE, "--model", "unloadable")
    assert done.returncode == 1
    assert "the test says so" in done.stdout
    (job,) = shell.rows("jobs")
    assert job["status"] == "failed"


def test_too_many_errors_fail_the_job_and_retry_continues_it(shell: Shell) -> None:
    lines = ["error" if at < 30 else f"text {at}" for at in range(500)]
    texts = shell.write("texts.txt", "\n".join(lines))
    words = ["run", texts, "--devices", "cpu", *FAKE, "--max-error-rate", "5%"]
    done = shell.run(*words)

    assert done.returncode == 1
    assert "over the limit of 5.0%" in done.stdout
    (job,) = shell.rows("jobs")
    assert job["status"] == "failed"
    assert job["done_records"] + job["error_records"] < 500
    assert shell.run("retry", "last").returncode == 0
    assert {chunk["status"] for chunk in shell.rows("chunks")} <= {"pending", "dispatched", "done"}


def test_results_are_filtered_and_exported_with_the_inputs_columns(shell: Shell) -> None:
    shell.run("run", MESSAGES, "--model", MODEL, "--id-column", "id", "--limit", "60")
    spam = [row for row in shell.rows("results") if row["label"] == "spam"]

    done = shell.run("results", "last", "--label", "spam", "--format", "jsonl")
    assert [json.loads(line)["record_id"] for line in done.stdout.splitlines()] == [
        row["record_id"] for row in spam
    ]
    done = shell.run("results", "last", "--order", "score", "--limit", "2", "--format", "table")
    assert len(done.stdout.splitlines()) == 3
    assert "2 rows, and there are more; --after 0.99" in done.stderr

    out = shell.folder / "all.csv"
    assert shell.run("results", "last", "--out", out).returncode == 0
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 60
    assert {"split", "input_label", "label", "score"} <= rows[0].keys()
    again = shell.run("results", "last", "--out", out)
    assert_user_error(again, "all.csv exists")
    assert_user_error(shell.run("results", "last", "--out", "all.doc"), "'all.doc'", ".csv")


@pytest.mark.parametrize("search", ["FREE", "free"])
def test_results_search_ignores_case(shell: Shell, search: str) -> None:
    texts = shell.write("texts.txt", "Free entry\nnothing\n")
    shell.run("run", texts, "--devices", "cpu", *FAKE)
    done = shell.run("results", "last", "--search", search, "--format", "jsonl")
    assert len(done.stdout.splitlines()) == 1


def test_run_resumes_a_paused_job_and_takes_no_input_with_it(shell: Shell) -> None:
    texts = shell.write("texts.txt", "a\nb\n")
    shell.submit(texts, *FAKE)
    assert shell.run("pause", "last").returncode == 0
    assert_user_error(shell.run("run", texts, "--resume", "last"), "--resume")
    assert shell.run("run", "--resume", "last", "--devices", "cpu").returncode == 0
    assert [row["output"] for row in shell.rows("results")] == ["A", "B"]
