"""``--reuse``: records are answered from earlier results, and only where all of it is equal."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import MODEL, Shell

TEXTS = "id,text\na,Free prize! Call now\nb,see you at six\nc,see you at six\n"


def run(shell: Shell, *options: str, text: str = TEXTS) -> dict[str, Any]:
    """The summary of a run over the texts."""
    source = shell.write("texts.csv", text)
    summary: dict[str, Any] = shell.json(
        "run", source, "--id-column", "id", "--model", MODEL, *options
    )
    return summary


def rows(shell: Shell, job: str) -> list[dict[str, Any]]:
    found = [row for row in shell.rows("results") if row["job_id"] == job]
    return sorted(found, key=lambda row: row["record_index"])


def answers(found: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [(row["label"], row["score"], row["detail"], row["input_tokens"]) for row in found]


def test_equal_records_are_answered_and_say_so(shell: Shell) -> None:
    first = run(shell)
    assert first["reused_records"] == 0

    again = run(shell, "--reuse", text=TEXTS + "d,something new\n")

    assert (again["done_records"], again["reused_records"]) == (4, 3)
    made = rows(shell, again["id"])
    assert [row["reused_from"] for row in made] == [first["id"]] * 3 + [None]
    assert answers(made)[:3] == answers(rows(shell, first["id"]))
    assert [row["record_id"] for row in made] == ["a", "b", "c", "d"]
    assert again["labels"] == {"ham": 3, "spam": 1}
    assert again["input_tokens"] == made[3]["input_tokens"]  # what was computed for this job
    shown = shell.run("show", again["id"]).stdout
    assert "3 reused" in shown.splitlines()[0]


def test_what_was_reused_names_the_job_that_computed_it(shell: Shell) -> None:
    first = run(shell, "--reuse")
    run(shell, "--reuse")
    third = run(shell, "--reuse")
    assert {row["reused_from"] for row in rows(shell, third["id"])} == {first["id"]}


@pytest.mark.parametrize("command", ["purge --job", "redact"])
def test_what_was_reused_answers_once_the_original_is_changed(shell: Shell, command: str) -> None:
    text = TEXTS.replace("six", "six; write to jane@example.com")
    first = run(shell, text=text)
    second = run(shell, "--reuse", text=text)
    assert second["reused_records"] == 3
    assert shell.run(*command.split(), first["id"]).returncode == 0
    third = run(shell, "--reuse", text=text)
    assert third["reused_records"] == 3
    assert answers(rows(shell, third["id"])) == answers(rows(shell, second["id"]))
    assert shell.run("purge", "--job", third["id"]).returncode == 0
    assert run(shell, "--reuse", text=text)["reused_records"] == 3, "from the second again"


def test_other_options_other_models_and_errors_are_computed(shell: Shell) -> None:
    run(shell)
    assert run(shell, "--reuse", "--top-k", "1")["reused_records"] == 0
    assert run(shell, "--reuse", "--dtype", "bf16")["reused_records"] == 0
    long = "id,text\nx," + "word " * 3000 + "\n"
    assert run(shell, "--on-long", "error", text=long)["error_records"] == 1
    failed = run(shell, "--reuse", "--on-long", "error", text=long)
    assert (failed["reused_records"], failed["error_records"]) == (0, 1)


def test_without_the_option_nothing_is_reused(shell: Shell) -> None:
    run(shell, "--reuse")
    assert run(shell)["reused_records"] == 0
