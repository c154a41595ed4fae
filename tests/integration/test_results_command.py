"""``textmill results`` in this process: columns of any name, and options that contradict."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from textmill.db.results import ResultRow, to_json
from textmill.db.schema import upgrade

from ..builders import open_database
from ..filled import filled_job
from ..in_process import run_main

COLUMNS = ["a", "a=b", "a=b=c", "", "=", "plain"]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def job(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, str]]:
    """Its database and its id. Record n has ``n`` in column n, and ``x`` in the others."""
    postgres = request.getfixturevalue("postgres")
    server = request.param == "postgresql"
    file = tmp_path_factory.mktemp("command") / "textmill.db"
    url = postgres.create_database() if server else f"sqlite:///{file}"
    rows = [
        ResultRow(n, f"r{n}", "t", extra=to_json(dict.fromkeys(COLUMNS, "x") | {own: str(n)}))
        for n, own in enumerate(COLUMNS)
    ]
    with open_database(url) as database:
        upgrade(database)
        yield url, filled_job(database, rows, extra_columns=COLUMNS).id
    if server:
        postgres.drop_database(url)


@pytest.fixture
def results(
    job: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """The command, asked about the job."""
    monkeypatch.setenv("TEXTMILL_DATABASE_URL", job[0])
    monkeypatch.setenv("TEXTMILL_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str, str]:
        return run_main(monkeypatch, capsys, "results", job[1], *words)

    return run


def found(results: Run, where: Sequence[str]) -> list[Any]:
    words = [word for pair in where for word in ("--where", pair)]
    code, out, err = results("--format", "csv", *words)
    assert code == 0, err
    return [line.split(",")[1] for line in out.splitlines()[1:]]


@pytest.mark.parametrize(
    ("where", "records"),
    [
        (["a=0"], ["r0"]),
        (["a=b=1"], ["r1"]),
        (["a=b=c=2"], ["r2"]),
        (["=3"], ["r3"]),
        (["==4"], ["r4"]),
        (["plain=5"], ["r5"]),
        (["plain=a=b"], []),
        (["a=x", "a=b=x", "=x", "==x"], ["r2", "r5"]),
    ],
)
def test_a_column_of_any_name_can_be_asked_for(
    results: Run, where: list[str], records: list[str]
) -> None:
    assert found(results, where) == records


def test_no_column_of_a_name_is_an_error(results: Run) -> None:
    for where, said in (("b=1", "no column 'b'"), ("a", "expected COLUMN=VALUE")):
        code, out, err = results("--where", where)
        assert (code, out) == (2, "")
        assert said in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--format", "csv"], "--json and --format csv contradict each other; --json is --format"),
        (["--format", "table"], "--json and --format table contradict each other"),
        (["--format", "parkett"], "--json and --format parkett contradict each other"),
        (["--out", "a.csv.gz"], "--json and --out a.csv.gz contradict each other: the file's name"),
        (["--out", "a.csv", "--format", "csv"], "--json and --format csv contradict each other"),
    ],
)
def test_json_beside_another_format_is_an_error(
    results: Run, tmp_path: Path, words: list[str], said: str
) -> None:
    before = set(tmp_path.iterdir())
    code, out, err = results("--json", *words)
    assert (code, out) == (2, "")
    assert said in err
    assert set(tmp_path.iterdir()) == before


def test_json_beside_json_lines_is_none(results: Run, tmp_path: Path) -> None:
    for words in ([], ["--format", "jsonl"]):
        code, out, _ = results("--json", *words)
        assert code == 0
        assert [json.loads(line)["record_index"] for line in out.splitlines()] == [*range(6)]
    for words in (["--out", "a.jsonl"], ["--out", "a.txt", "--format", "jsonl"]):
        assert results("--json", *words)[0] == 0
        assert len((tmp_path / words[1]).read_text().splitlines()) == len(COLUMNS)
