"""The submission script and the page about Python, run as a person runs them."""

from __future__ import annotations

import inspect
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

import pytest

from textmill import Job, submit
from textmill.core import errors
from textmill.core.embedded import stop
from textmill.core.settings import load_settings
from textmill.db.filters import ResultFilter
from textmill.db.result_rows import Result
from textmill.producer.results_api import Results, Wanted

from ..servers import wait_until

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "examples" / "submit_comments.py"
SMS = ROOT / "examples" / "sms_spam"
PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
TEXTMILL = Path(sys.executable).parent / "textmill"
ROWS = 100

Completed = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data folder of the embedded default with `textmill up` on it, stopped by SIGTERM."""
    home = tmp_path_factory.mktemp("home")
    log = home / "up.log"
    with log.open("wb") as file:
        up = subprocess.Popen(
            [str(TEXTMILL), "up", "--devices", "cpu"],
            env=_environment(home) | {"OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )
    try:
        wait_until(lambda: up.poll() is not None or b"next " in log.read_bytes(), 60)
        assert up.poll() is None, log.read_text()
        yield home
        up.send_signal(signal.SIGTERM)
        assert up.wait(60) == 0, log.read_text()
    finally:
        up.kill()
        up.wait()
        stop(load_settings(home=home))


@pytest.fixture(scope="module")
def messages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first rows of the SMS collection."""
    lines = (SMS / "sms_spam.tsv").read_text(encoding="utf-8").splitlines(keepends=True)
    path = tmp_path_factory.mktemp("input") / "messages.tsv"
    path.write_text("".join(lines[: ROWS + 1]), encoding="utf-8")
    return path


def _environment(home: Path) -> dict[str, str]:
    return {**os.environ, "TEXTMILL_HOME": str(home)}


def run_script(home: Path, *arguments: str | Path, script: Path = SCRIPT) -> Completed:
    command = [sys.executable, str(script), *map(str, arguments), "--model", str(SMS / "model")]
    return _run(command, home, cwd=script.parent)


def _run(command: list[str], home: Path, cwd: Path) -> Completed:
    return subprocess.run(
        command,
        env=_environment(home),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def jobs_in(home: Path) -> list[str]:
    connection = sqlite3.connect(home / "textmill.db")
    try:
        return [row[0] for row in connection.execute("SELECT id FROM jobs ORDER BY id")]
    finally:
        connection.close()


def test_run_twice_the_script_submits_once_and_reports_twice(
    data_folder: Path, messages: Path
) -> None:
    before = jobs_in(data_folder)
    first, second = (
        run_script(data_folder, messages, "--id-column", "id", "--key", "one day") for _ in range(2)
    )

    assert (first.returncode, first.stderr) == (0, "")
    (job_id,) = set(jobs_in(data_folder)) - set(before)
    summary, *top = first.stdout.splitlines()
    assert summary == f"job {job_id} completed: {ROWS} of {ROWS} records done, 0 errors"
    assert len(top) == 5
    assert all(re.match(r"  (0\.9\d\d|1\.000)  sms-\d{4}  \S", line) for line in top)
    assert (second.returncode, second.stdout) == (0, first.stdout)


def test_beside_files_named_like_its_folders_the_script_works(
    data_folder: Path, messages: Path, tmp_path: Path
) -> None:
    # Given a script in a folder with a db.py, core.py, … of the person's own
    for name in ("analysis", "core", "db", "producer", "workers"):
        (tmp_path / f"{name}.py").write_text(f"raise RuntimeError('{name}.py was imported')\n")
    copy = Path(shutil.copy(SCRIPT, tmp_path))

    # If I run it there, I expect what it does elsewhere
    done = run_script(data_folder, messages, "--key", "beside", script=copy)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{ROWS} of {ROWS} records done" in done.stdout


def test_a_mistake_is_told_in_one_line_with_exit_code_2(data_folder: Path, messages: Path) -> None:
    before = jobs_in(data_folder)
    done = run_script(data_folder, messages, "--text-column", "texd")
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"error: .*no column 'texd' \(did you mean 'text'\?\).*\n", done.stderr)
    assert jobs_in(data_folder) == before


def test_records_without_text_give_exit_code_3_or_fail_the_job_above_the_limit(
    data_folder: Path, tmp_path: Path
) -> None:
    few, many = tmp_path / "few.csv", tmp_path / "many.csv"
    rows = [f"{number},see you at {number}\n" for number in range(100)]
    few.write_text("id,text\n" + "".join([*rows, "100,\n"]))
    many.write_text("id,text\n" + "".join([*rows, *(f"{n},\n" for n in range(100, 130))]))

    done = run_script(data_folder, few)
    assert (done.returncode, done.stderr) == (3, "")
    assert "completed_with_errors: 100 of 101 records done, 1 errors" in done.stdout
    failed = run_script(data_folder, many)
    assert (failed.returncode, failed.stderr) == (1, "")
    assert re.search(r"failed: .* over the limit of 5.0%", failed.stdout)


def test_without_a_worker_the_script_gives_up_after_its_time_out(
    home: Path, messages: Path
) -> None:
    done = run_script(home, messages, "--timeout", "0.1")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"error: job \w+ is queued after 0.1 s\n", done.stderr)


def test_the_examples_on_the_python_page_run(data_folder: Path) -> None:
    submits, asks = re.findall(r"```python\n(from textmill .*?)```", PAGE, flags=re.DOTALL)
    done = _run([sys.executable, "-c", submits], data_folder, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    summary, *top = done.stdout.splitlines()
    assert summary.endswith("completed {'total': 12, 'done': 12, 'errors': 0}")
    assert len(top) == 3
    assert all(re.match(r"c-\d\d spam 0\.9\d+ \w+", line) for line in top)

    # Of the job that the first one made
    done = _run([sys.executable, "-c", asks], data_folder, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    row, count, page, means = done.stdout.splitlines()
    assert re.match(r"c-02 0\.9\d+ CONGRATULATIONS! You have won", row)
    assert count == "1 of 12 rows; None"
    assert page == "the last page has 2"
    assert re.fullmatch(r"\{'ham': (0\.9|1\.0), 'spam': (0\.9|1\.0)\}", means)


MISTAKES = """
from textmill import Job, submit
from textmill.core.errors import InvalidJobError
model = "examples/sms_spam/model"
for mistake in (
    lambda: submit([{"text": "hello"}], model=model, priority="hihg"),
    lambda: submit({"text": "hello"}, model=model),
    lambda: Job("last").results(order="scores"),
):
    try:
        mistake()
    except InvalidJobError as error:
        print(error)
"""


def test_what_cannot_be_meant_is_an_error_that_says_what_was_expected(
    data_folder: Path, messages: Path
) -> None:
    run_script(data_folder, messages)
    before = jobs_in(data_folder)
    done = _run([sys.executable, "-c", MISTAKES], data_folder, cwd=ROOT)
    assert done.stderr == ""
    priority, mapping, order = done.stdout.splitlines()
    assert "did you mean 'high'?" in priority
    assert "the input is a dict; expected files or an iterable of mappings" in mapping
    assert order == "order is 'scores'; expected one of input, score, fastest"
    assert jobs_in(data_folder) == before


def test_the_python_page_names_every_argument_attribute_and_error() -> None:
    def named(part: str) -> set[str]:
        section = PAGE.partition(f"\n## {part}\n")[2].partition("\n## ")[0]
        cells = re.findall(r"^\| (`.+?) \|", section, flags=re.MULTILINE)
        return {name for cell in cells for name in re.findall(r"`(?:job\.|\*\*)?(\.?\w+)", cell)}

    assert named("submit") == set(inspect.signature(submit).parameters) - {"inputs"}
    assert named("Job") == {name for name in vars(Job) if not name.startswith("_")} | {"id"}
    filters = {field.name for field in fields(ResultFilter)}
    methods = {f".{name}" for name in vars(Results) if not name.startswith("_")}
    assert named("results") - {"for"} == filters | methods
    assert set(get_type_hints(Wanted)) == filters
    assert named("Errors") <= set(vars(errors))
    for field in fields(Result):
        assert f"`{field.name}`" in PAGE
