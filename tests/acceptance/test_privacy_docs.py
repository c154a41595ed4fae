"""docs/privacy.md: it names all that is stored, and its commands print what it says."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from textmill.db.models import metadata, words_metadata
from textmill.producer.exports.atomic import new_file

from ..documented import JOB, console_blocks
from .conftest import ROOT, TEXTMILL, Shell

PAGE = (ROOT / "docs" / "privacy.md").read_text(encoding="utf-8")
TIME = re.compile(r"\d{4}-\d\d-\d\d(?: \d\d:\d\d UTC)?")
# Of jobs: what holds nothing of a record and nothing that a person calls it by.
OF_THE_RUN = {
    "id",
    "task",
    "revision",
    "model_version",
    "permits",
    "dtype",
    "extra_columns",
    "priority",
    "status",
    "max_error_rate",
    "load_expires_at",
    "load_failures",
    "store_text",
    "full_text",
    "index_columns",
    "reuse",
    "number",
}


def _first_column() -> str:
    rows = PAGE.partition("## What is where")[2].partition("\n## ")[0]
    return "\n".join(line.split("|")[1] for line in rows.splitlines() if line.startswith("|"))


def test_the_table_names_every_table_and_every_column_with_a_record_in_it() -> None:
    named = set(re.findall(r"`(?:\w+\.)?(\w+)`", _first_column()))
    tables = {**metadata.tables, **words_metadata.tables}
    only_columns = {"results", "jobs", "chunks"}
    assert tables.keys() - only_columns <= named
    results = {column.name for column in tables["results"].columns}
    stub = {"job_id", "record_index", "error_code", "input_tokens", "output_tokens", "reused_from"}
    assert results - stub <= named
    jobs = {column.name for column in tables["jobs"].columns}
    counts = {name for name in jobs if name.endswith(("_records", "_tokens", "_seconds", "_at"))}
    assert jobs - counts - OF_THE_RUN - {"hash_key_id"} <= named


def test_the_name_beside_an_export_has_the_form_that_it_says(tmp_path: Path) -> None:
    (named,) = re.findall(r"`(\.spam\.csv[^`]*)`", PAGE)
    with new_file(tmp_path / "spam.csv"):
        (beside,) = tmp_path.iterdir()
    assert len(named) == len(beside.name)
    form = r"\.spam\.csv\.[0-9a-f]{12}\.part"
    assert re.fullmatch(form, named)
    assert re.fullmatch(form, beside.name)


def _timeless(text: str) -> str:
    return TIME.sub("DATE", JOB.sub("JOB", text)).rstrip()


@pytest.mark.timeout(300)
def test_the_page_shows_what_is_printed(shell: Shell) -> None:
    (shell.folder / "examples").symlink_to(ROOT / "examples")
    compared = 0
    for command, printed in [step for block in console_blocks(PAGE) for step in block]:
        if command.startswith("export "):
            name, _, value = shlex.split(command)[1].partition("=")
            shell.env[name] = value
            shell.start_worker()  # keeps the model from one run to the next
            continue
        if command.startswith("textmill results"):
            command += " --format table"  # as on a terminal
        done = subprocess.run(
            ["bash", "-c", f"{command} 2>&1"],
            cwd=shell.folder,
            env=shell.env | {"PATH": f"{TEXTMILL.parent}:{shell.env['PATH']}", "COLUMNS": "100"},
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )
        if command.startswith("textmill run"):
            assert done.returncode == 0, done.stdout
            continue
        assert _timeless(done.stdout) == _timeless(printed), command
        compared += 1
    assert compared == 10
