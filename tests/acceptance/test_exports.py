"""``textmill results`` into files: names, refusals, signals, full disks and memory."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pyarrow as pa
import pyarrow.parquet
import pytest
from sqlalchemy import Connection, insert, literal, select

from textmill.db.models import jobs, results
from textmill.db.results import ResultRow, to_json, write_results
from textmill.db.session import Database

from ..builders import make_job, put
from ..servers import PostgresServer, wait_until
from .conftest import Shell, assert_user_error
from .disks import DiskShell

ROWS = [
    ResultRow(at, f"r{at}", f"text {at}", label="spam" if at % 3 else "ham", score=at / 10)
    for at in range(9)
]
# Of this program alone: what a new process inherits of its parent's counts in getrusage.
RUN = """
import sys
from textmill.producer.cli.main import app
try:
    app(sys.argv[1:])
except SystemExit as end:
    assert not end.code, end.code
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def fill(shell: Shell, rows: list[ResultRow] = ROWS) -> str:
    """A job with these rows, made without a worker."""
    assert shell.run("db", "upgrade").returncode == 0
    database = shell.database()
    try:
        return fill_database(database, rows)
    finally:
        database.close()


def fill_database(database: Database, rows: list[ResultRow]) -> str:
    job = make_job(database)
    put(database, jobs, jobs.c.id == job, extra_columns=["country"])
    for at in range(0, len(rows), 5000):
        database.transact(write_results, job, rows[at : at + 5000])
    return job


def left_in(folder: Path) -> list[str]:
    """What was begun there and has no name of its own."""
    return [path.name for path in folder.iterdir() if path.name.endswith(".part")]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A shell with a job, for all tests that change nothing in the database."""
    shell = Shell(tmp_path_factory.mktemp("filled"))
    fill(shell)
    yield shell
    shell.close()


@pytest.mark.parametrize("out", ["a.CSV.gz", "a.tsv.zst", "a.ndjson", "a.pq", "a.arrow", "a b.csv"])
def test_the_name_of_the_file_says_the_format(filled: Shell, out: str) -> None:
    done = filled.run("results", "last", "--out", out)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert done.stderr == f"9 rows in {out}\n"
    assert (filled.folder / out).is_file()
    assert left_in(filled.folder) == []


def test_a_format_by_name_and_filters_on_the_way(filled: Shell) -> None:
    filters = ["--label", "spam", "--order", "score", "--limit", "2"]
    done = filled.run("results", "last", "--format", "csv", *filters)
    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert [(row["record_id"], row["score"]) for row in rows] == [("r8", "0.8"), ("r7", "0.7")]
    done = filled.run("results", "last", *filters, "--order", "fastest", "--out", "some.parquet")
    assert done.returncode == 0, done.stderr
    table = pa.parquet.read_table(filled.folder / "some.parquet")
    assert table.column("record_id").to_pylist() == ["r1", "r2"]
    done = filled.run("results", "last", "--format", "datasets", "--out", "folder")
    assert done.stderr == "9 rows in folder\n"
    assert {"state.json", "dataset_info.json"} <= {
        path.name for path in (filled.folder / "folder").iterdir()
    }


def test_a_page_into_a_pipe_or_a_file_says_where_the_next_begins(filled: Shell) -> None:
    words = ["results", "last", "--limit", "4"]
    seen: list[str] = []
    for after in ([], ["--after", "3"], ["--after", "7"]):
        done = filled.run(*words, "--format", "jsonl", *after)
        seen += [json.loads(line)["record_id"] for line in done.stdout.splitlines()]
        more = "" if after[-1:] == ["7"] else f"--after {len(seen) - 1} for the next"
        assert more in done.stderr
        assert bool(more) == ("there are more" in done.stderr)
    assert seen == [f"r{at}" for at in range(9)]
    done = filled.run(*words, "--out", "page.csv")
    assert "4 rows in page.csv\nthere are more; --after 3 for the next" in done.stderr


def test_every_file_format_goes_to_stdout(filled: Shell) -> None:
    for name, beginning in (("parquet", b"PAR1"), ("arrow", b"ARROW1"), ("tsv", b"record_index\t")):
        command = [str(Path(sys.executable).parent / "textmill"), "results", "last"]
        done = subprocess.run(
            [*command, "--format", name], cwd=filled.folder, env=filled.env, capture_output=True
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(beginning)
        assert done.stderr == b""


def test_what_exists_is_kept_unless_it_is_forced(filled: Shell) -> None:
    out = filled.write("all.csv", "mine")
    refused = filled.run("results", "last", "--out", out)
    assert_user_error(refused, "all.csv exists", "--force")
    assert out.read_text() == "mine"
    assert filled.run("results", "last", "--out", out, "--force").returncode == 0
    assert out.read_text().startswith("record_index,")
    for _ in range(2):
        words = ["results", "last", "--format", "datasets", "--out", "folder", "--force"]
        assert filled.run(*words).returncode == 0
    (filled.folder / "folder" / "state.json").unlink()
    assert_user_error(filled.run(*words), "holds something else than an export", "'data-00000")
    assert left_in(filled.folder) == []


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--format", "parkett"], ["'parkett' is unknown", "csv, tsv", "did you mean"]),
        (["--out", "all.doc"], ["'all.doc'", ".parquet", "--format"]),
        (["--out", "all"], ["'all'"]),
        (["--out", "all.gz"], ["'all.gz'"]),
        (["--out", "all.parquet.zst"], ["compressed", "csv, tsv, jsonl", "leave .zst out"]),
        (["--format", "arrow", "--out", "all.gz"], ["leave .gz out"]),
        (["--format", "datasets"], ["--out FOLDER"]),
        (["--format", "table", "--out", "all.csv"], ["table is for the terminal"]),
        (["--out", "all.jsonl", "--spreadsheet-safe"], ["csv and tsv", "jsonl"]),
        (
            ["--format", "openai-batch", "--out", "all.jsonl", "--spreadsheet-safe"],
            ["csv and tsv", "openai-batch"],
        ),
        (["--format", "csv", "--force"], ["--force", "--out"]),
        (["--out", "nowhere/all.csv"], ["nowhere/all.csv", "No such file"]),
        (["--out", "/dev/full", "--format", "csv", "--force"], ["/dev/full", "regular"]),
        (["--out", "a.csv", "--order", "random"], ["'random'"]),
    ],
)
def test_what_cannot_be_meant_is_said_before_any_work(
    filled: Shell, words: list[str], parts: list[str]
) -> None:
    before = set(filled.folder.iterdir())
    assert_user_error(filled.run("results", "last", *words), *parts)
    assert set(filled.folder.iterdir()) == before


def test_a_purged_job_has_nothing_to_export(shell: Shell) -> None:
    fill(shell)
    database = shell.database()
    put(database, jobs, jobs.c.purged_at.is_(None), purged_at=1774915200.0)
    database.close()
    for words in (
        ["--out", "all.csv"],
        ["--format", "jsonl"],
        ["--out", "x", "--format", "datasets"],
    ):
        done = shell.run("results", "last", *words)
        assert_user_error(done, "was purged on 2026-03-31", "texts are gone", code=1)
        assert done.stdout == ""
    assert left_in(shell.folder) == []


@pytest.mark.parametrize(
    ("words", "sign", "code"),
    [
        (["--out", "out.csv"], signal.SIGTERM, 128 + signal.SIGTERM),
        (["--out", "out.parquet"], signal.SIGINT, 130),
        (["--out", "out", "--format", "datasets"], signal.SIGHUP, 128 + signal.SIGHUP),
        (["--out", "out.jsonl.zst"], signal.SIGKILL, -signal.SIGKILL),
    ],
)
def test_an_export_that_is_ended_leaves_nothing_under_the_name(
    server_shell: Shell, words: list[str], sign: signal.Signals, code: int
) -> None:
    """While it waits for a lock, with its file begun: a database that hangs does not hold it."""
    shell = server_shell
    fill(shell)
    with psycopg.connect(shell.env["TEXTMILL_DATABASE_URL"]) as connection:
        connection.execute("LOCK TABLE results IN ACCESS EXCLUSIVE MODE")
        process = shell.start("results", "last", *words)
        wait_until(lambda: left_in(shell.folder), 30, what="begun")
        process.send_signal(sign)
        assert process.wait(30) == code
    assert not [path for path in shell.folder.iterdir() if path.name.startswith("out")]
    assert bool(left_in(shell.folder)) == (sign == signal.SIGKILL)
    assert "Traceback" not in shell.log()


def test_a_database_that_goes_away_leaves_nothing_either(
    database_shell: Shell, own_postgres: PostgresServer
) -> None:
    shell = database_shell
    fill(shell)
    connection = psycopg.connect(shell.env["TEXTMILL_DATABASE_URL"])
    connection.execute("LOCK TABLE results IN ACCESS EXCLUSIVE MODE")
    process = shell.start("results", "last", "--out", "out.csv")
    wait_until(lambda: left_in(shell.folder), 30, what="begun")
    own_postgres.kill()
    connection.close()
    assert process.wait(30) == 1
    assert "does not answer" in shell.log()
    assert "Traceback" not in shell.log()
    assert not [path for path in shell.folder.iterdir() if "out" in path.name]


@pytest.fixture(scope="module")
def full_shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DiskShell]:
    """A shell with a small disk to export to, and 40 MB of results in a database elsewhere."""
    folder = tmp_path_factory.mktemp("disk")
    shell = DiskShell(folder, TEXTMILL_DATABASE_URL=f"sqlite:///{folder}/textmill.db")
    fill(shell, [ResultRow(at, f"r{at}", os.urandom(500_000).hex()) for at in range(40)])
    yield shell
    shell.close()


@pytest.mark.parametrize(
    "out", ["all.csv", "all.csv.gz", "all.tsv.zst", "all.jsonl", "all.parquet", "all.arrow", "all"]
)
def test_a_disk_that_fills_ends_the_export(full_shell: DiskShell, out: str) -> None:
    words = ["--format", "datasets"] if out == "all" else []
    target = full_shell.disk.folder / out
    listing = ["sh", "-c", f"ls -A {full_shell.disk.folder}"]
    done = full_shell.run("results", "last", *words, "--out", target)
    assert_user_error(done, str(target), "no space left on device", "free some", code=1)
    assert done.stderr.count("\n") == 1
    found = subprocess.run([*full_shell.prefix, *listing], capture_output=True, check=True)
    assert found.stdout == b""


def test_a_disk_that_fills_keeps_what_was_to_be_replaced(full_shell: DiskShell) -> None:
    target = full_shell.disk.folder / "all.csv"
    full_shell.disk.inside(f"echo old > {target}")
    done = full_shell.run("results", "last", "--out", target, "--force")
    assert_user_error(done, "no space left on device", code=1)
    look = ["sh", "-c", f"cd {full_shell.disk.folder} && ls -A && cat all.csv"]
    found = subprocess.run([*full_shell.prefix, *look], capture_output=True, check=True)
    assert found.stdout == b"all.csv\nold\n"


def test_no_format_imports_pandas(filled: Shell) -> None:
    """Arrow does so for the asking; it would take a third of an export's memory."""
    code = (
        "import sys\n"
        "from textmill.producer.cli.main import app\n"
        "for name in ('csv', 'tsv', 'jsonl', 'parquet', 'arrow', 'datasets'):\n"
        "    words = ['results', 'last', '--format', name, '--out', f'{name}.out', '--force']\n"
        "    app(words, standalone_mode=False)\n"
        "    assert 'pandas' not in sys.modules, name\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=filled.folder,
        env=filled.env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("9 rows in") == 6


@pytest.mark.parametrize("kind", ["shell", "server_shell"])
def test_memory_does_not_grow_with_the_job(request: pytest.FixtureRequest, kind: str) -> None:
    """Ten times the rows take hardly more of it; all of them as objects would take 300 MB."""
    shell: Shell = request.getfixturevalue(kind)
    small = fill(shell, many(30_000))
    database = shell.database()
    large = fill_database(database, [])
    for copy in range(10):
        database.transact(copy_rows, small, large, copy * 30_000)
    database.close()
    for out in ("out.csv", "out.parquet"):
        peaks = [peak_kilobytes(shell, job, out) for job in (small, large)]
        assert peaks[1] < peaks[0] + (40 << 10), (out, peaks)
    assert pa.parquet.read_metadata(shell.folder / "out.parquet").num_rows == 300_000


def many(rows: int) -> list[ResultRow]:
    message = "message number {} is about as long as a text message"
    extra = to_json({"country": "DE", "author": "somebody"})
    detail = to_json({"scores": {"ham": 0.9876, "spam": 0.0124}})
    return [
        ResultRow(at, f"r-{at}", message.format(at), label="ham", detail=detail, extra=extra)
        for at in range(rows)
    ]


def copy_rows(connection: Connection, job: str, to: str, offset: int) -> None:
    """The rows of one job as rows of another, from this index on."""
    names = ("record_id", "text", "label", "detail", "extra")
    index = results.c.record_index + offset
    rows = select(literal(to), index, *(results.c[name] for name in names))
    rows = rows.where(results.c.job_id == job)
    copied = insert(results).from_select(["job_id", "record_index", *names], rows)
    connection.execute(copied)


def peak_kilobytes(shell: Shell, job: str, out: str) -> int:
    """The most memory that ``textmill results`` took."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, "results", job, "--out", out, "--force"],
        cwd=shell.folder,
        env=shell.env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)
