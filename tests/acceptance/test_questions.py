"""``textmill results`` with every filter, page by page, and what a person is told about it."""

from __future__ import annotations

import csv
import json
import re
from subprocess import CompletedProcess

import pytest

from .conftest import FAKE, Shell, assert_user_error

COUNTRIES = ["DE", "FR", "IT", ""]
ROWS = 48


@pytest.fixture(params=["shell", "server_shell"], ids=["sqlite", "postgresql"])
def anywhere(request: pytest.FixtureRequest) -> Shell:
    """A shell with the embedded default, and again one with servers."""
    given: Shell = request.getfixturevalue(request.param)
    assert given.run("db", "upgrade").returncode == 0
    return given


def run_job(shell: Shell, *options: str) -> None:
    """48 rows: every tenth an error; each fourth says free, each third urgent reply."""
    with (shell.folder / "in.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text", "country", "n"])
        for n in range(ROWS):
            text = "error" if n % 10 == 9 else f"text {n}"
            text += " Free" * (n % 4 == 0) + " urgent reply" * (n % 3 == 0)
            writer.writerow([f"r{n}", text, COUNTRIES[n % 4], n])
    words = ["--text-column", "text", "--id-column", "id", "--devices", "cpu", *options]
    assert shell.run("run", "in.csv", *words, *FAKE).returncode == 3


def ask(shell: Shell, *words: str) -> CompletedProcess[str]:
    done = shell.run("results", "last", *words)
    assert done.returncode == 0, done.stderr
    return done


def found(shell: Shell, *words: str) -> list[int]:
    lines = ask(shell, *words, "--json").stdout.splitlines()
    return [json.loads(line)["record_index"] for line in lines]


def test_each_filter_of_the_command_finds_its_rows(anywhere: Shell) -> None:
    shell = anywhere
    run_job(shell, "--index-column", "country", "--index-column", "n")
    every = range(ROWS)
    errors = [n for n in every if n % 10 == 9]
    assert found(shell, "--where", "country=FR") == [n for n in every if n % 4 == 1]
    assert found(shell, "--where", "country=") == [n for n in every if n % 4 == 3]
    assert found(shell, "--where", "country=DE", "--where", "n=8") == [8]
    assert found(shell, "--where", "n=1=2") == []
    assert found(shell, "--errors") == found(shell, "--error-code", "runner_error") == errors
    assert found(shell, "--error-code", "too_long") == []
    assert found(shell, "--search", "FRÉE") == [n for n in every if n % 4 == 0]
    assert found(shell, "--search", '"urgent reply" -free') == [
        n for n in every if n % 3 == 0 and n % 4
    ]
    assert found(shell, "--search", "7 OR (urg* 15)") == [7, 15]
    assert found(shell, "--search", "reply", "--where", "country=IT", "--errors") == []
    assert found(shell, "--record-id", "r7") == [7]
    assert found(shell, "--label", "T", "--min-score", "1", "--limit", "2") == [0, 1]
    assert found(shell, "--order", "fastest") == found(shell) == list(every)
    assert found(shell, "--after", "40") == list(range(41, ROWS))
    assert found(shell, "--after", "1.0:40", "--order", "score") == [
        n for n in range(41, ROWS) if n not in errors
    ]


def test_a_page_says_how_to_see_the_next_one(anywhere: Shell) -> None:
    shell = anywhere
    run_job(shell)

    def table(*words: str) -> tuple[int, str]:
        done = ask(shell, *words, "--format", "table")
        return len(done.stdout.splitlines()) - 1, done.stderr

    first = "20 of 48 rows; --after 19 for the next, --limit 0 for all, --out FILE to keep them\n"
    assert table() == (20, first)
    assert table("--after", "19") == (20, first.replace("19", "39"))
    assert table("--after", "39") == (8, "")
    assert table("--limit", "0") == (ROWS, "")
    assert table("--search", "text", "--limit", "0") == (44, "")
    rows, said = table("--search", "text", "--order", "score", "--limit", "5")
    assert rows == 5
    assert said.startswith("5 rows, and there are more; --after 1.0:4 for the next")


def test_no_row_is_said_on_stderr_wherever_rows_go(shell: Shell) -> None:
    run_job(shell)
    for words in (["--search", "zebra"], ["--label", "nosuch"], ["--error-code", "nope"]):
        for form in (["--format", "table"], ["--format", "csv"], ["--json"], []):
            done = ask(shell, *words, *form)
            assert done.stderr == "no rows match\n"
            assert len(done.stdout.splitlines()) == ("csv" in form)  # its header


def test_a_condition_without_an_index_is_looked_for_in_every_row_and_that_is_said(
    anywhere: Shell,
) -> None:
    shell = anywhere
    run_job(shell, "--index-column", "n", "--no-full-text")
    note = "note: column 'country' has no index (submit --index-column country); "
    done = ask(shell, "--where", "country=FR", "--json")
    assert len(done.stdout.splitlines()) == ROWS / 4
    assert done.stderr == note + "looking at every row\n"
    # Where the other column leads to one row, only that is looked at.
    assert ask(shell, "--where", "country=FR", "--where", "n=5", "--json").stderr == ""
    done = ask(shell, "--search", "free", "--json")
    assert len(done.stdout.splitlines()) == ROWS / 4
    words = "the words of this job have no index (submit without --no-full-text)"
    assert done.stderr == f"note: {words}; looking at every row\n"


def test_what_a_filter_cannot_mean_is_one_clear_message(shell: Shell) -> None:
    run_job(shell)
    for words, parts in (
        (["--where", "contry=DE"], ["no column 'contry'", "did you mean 'country'?"]),
        (["--where", "country"], ["--where 'country'", "expected COLUMN=VALUE"]),
        (["--where", "=DE"], ["--where '=DE'", "expected COLUMN=VALUE"]),
        (["--where", "n=1", "--where", "n=2"], ["--where names 'n' twice, '1' and '2'"]),
        (["--search", '"free'], ["cannot search for '\"free'", 'a " has no second one']),
        (["--search", "-free"], ["it says only what is not wanted"]),
        (["--search", "free AND call"], ["AND is not needed"]),
        (["--search", ""], ["it has no word to look for"]),
        (["--order", "scores"], ["order is 'scores'", "input, score, fastest"]),
        (["--after", "5", "--order", "score"], ["after is '5'", "of the same order"]),
        (["--after", "x"], ["after is 'x'"]),
        (["--errors", "--label", "T"], ["errors is True and label is 'T', which no row fulfils"]),
        (["--min-score", "nan"], ["min_score is nan"]),
        (["--label", "\udcff"], ["label is '\\udcff'", "UTF-8"]),
    ):
        done = shell.run("results", "last", *words)
        assert_user_error(done, *parts)
        assert done.stdout == ""


def test_a_submission_says_which_columns_it_can_index(shell: Shell) -> None:
    table = shell.write("in.csv", "id,text,country\n1,a,DE\n")
    words = ["submit", table, "--text-column", "text", "--id-column", "id", *FAKE]
    for more in ([], ["--dry-run"]):
        done = shell.run(*words, "--index-column", "contry", *more)
        assert_user_error(done, "no column 'contry' to index", "did you mean 'country'?")
        done = shell.run(*words, "--index-column", "text", *more)
        assert_user_error(done, "no column 'text' to index", "country")
    shell.assert_nothing_written()

    done = shell.run(*words, "--index-column", "country", "--dry-run")
    assert re.search(r"^  indexed  words, country$", done.stderr, flags=re.MULTILINE)
    done = shell.run(*words, "--no-full-text", "--dry-run")
    assert "  indexed  nothing for --search and --where" in done.stderr
    dry = shell.json(*words, "--index-column", "country", "--index-column", "country", "--dry-run")
    assert (dry["full_text"], dry["index_columns"]) == (True, ["country"])
    shell.assert_nothing_written()

    shell.submit(*words[1:], "--index-column", "country", "--no-full-text")
    (job,) = shell.rows("jobs")
    assert (job["full_text"], job["index_columns"]) == (False, ["country"])
