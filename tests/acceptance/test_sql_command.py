"""``textmill sql`` as a person runs it: what it prints, what it writes, and how it ends."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from ..in_process import run_main
from ..servers import wait_until
from .conftest import FAKE, TEXTMILL, Shell, assert_user_error
from .disks import DiskShell

HOSTILE = "SELECT 'a,\"b\"' || chr(13) || chr(10) || 'é' AS \"a b\", NULL AS n, '' AS e, 0.5 AS f"
FOREVER = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT {} FROM n"


@pytest.fixture(params=["shell", "server_shell"])
def filled(request: pytest.FixtureRequest) -> Iterator[Shell]:
    """One job of two records that no worker has seen; on SQLite and again on PostgreSQL."""
    given: Shell = request.getfixturevalue(request.param)
    if request.param == "server_shell":
        assert given.run("db", "upgrade").returncode == 0
    given.submit(given.write("texts.txt", "a\nb\n"), *FAKE, "--name", "\x1b[31m\u202ered\n")
    yield given


Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def sql(filled: Shell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """``textmill sql …`` in this process: a process for each would take minutes."""
    for name in filled.env.keys() - os.environ.keys():
        monkeypatch.setenv(name, filled.env[name])
    monkeypatch.chdir(filled.folder)

    def run(*words: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        return subprocess.CompletedProcess(words, *run_main(monkeypatch, capsys, "sql", *words))

    return run


def hostile(shell: Shell) -> str:
    if "TEXTMILL_DATABASE_URL" in shell.env:
        return HOSTILE
    return HOSTILE.replace("chr(", "char(")


def test_a_query_is_answered_and_starts_nothing(filled: Shell) -> None:
    done = filled.run("sql", "SELECT status, total_records AS n FROM jobs")
    assert (done.returncode, done.stdout, done.stderr) == (0, '{"status":"queued","n":2}\n', "")
    if "TEXTMILL_BROKER_URL" not in filled.env:
        assert not [
            one for one in Path(filled.env["TEXTMILL_HOME"]).iterdir() if "valkey" in one.name
        ]


def test_the_statement_comes_from_a_file_or_stdin(filled: Shell, sql: Run) -> None:
    query = "SELECT total_records + :more AS n\nFROM jobs -- one line\nWHERE id > :id"
    file = filled.write("query.sql", "\ufeff" + query)
    values = ["--param", "more=5", "-p", "id=0", "--json"]
    for done in (
        sql("--file", file, *values),
        sql(*values, stdin=query),
        sql("-f", "-", *values, stdin=query),
    ):
        assert (done.stdout, done.stderr) == ('{"n":7}\n', "")
    assert_user_error(sql("SELECT 1", "--file", file), "one of the two")
    assert_user_error(sql("-f", "nosuch.sql"), "nosuch.sql: No such file")
    assert_user_error(sql("-f", filled.write("x", b"\xff")), "not UTF-8 at byte 0")
    assert_user_error(sql(stdin=""), "statement is empty")


def test_every_format_keeps_every_value(filled: Shell, sql: Run) -> None:
    query = hostile(filled)
    row = {"a b": 'a,"b"\r\né', "n": None, "e": "", "f": 0.5}
    assert json.loads(sql(query, "--format", "json").stdout) == [row]
    assert json.loads(sql(query, "--format", "jsonl").stdout) == row
    for words in (
        ["--format", "csv"],
        ["--out", "a.csv"],
        ["--out", "a.json"],
        ["--out", "b.jsonl"],
    ):
        assert sql(query, *words).returncode == 0
    printed = subprocess.run(
        [TEXTMILL, "sql", query, "--format", "csv"], env=filled.env, capture_output=True, check=True
    ).stdout
    assert printed == (filled.folder / "a.csv").read_bytes()
    assert list(csv.reader(io.StringIO(printed.decode(), newline=""))) == [
        ["a b", "n", "e", "f"],
        ['a,"b"\r\né', "", "", "0.5"],
    ]
    assert json.loads((filled.folder / "a.json").read_text()) == [row]
    assert json.loads((filled.folder / "b.jsonl").read_text()) == row
    none = "SELECT id FROM jobs WHERE id = ''"
    assert sql(none, "--format", "json").stdout == "[]\n"
    assert sql(none, "--format", "csv").stdout == "id\n"


def test_a_file_that_exists_or_has_no_place_is_left(filled: Shell, sql: Run) -> None:
    there = filled.write("there.csv", "mine")
    assert_user_error(sql("SELECT 1", "--out", there), "there.csv exists")
    assert there.read_text() == "mine"
    assert_user_error(sql("SELECT 1", "--out", "no/a.csv"), "cannot write no/a.csv", "No such")
    assert_user_error(sql("SELECT 1", "--out", "a.txt"), "no known format", "--format")
    assert_user_error(sql("SELECT 1", "--format", "jsnl"), "did you mean 'jsonl'")
    assert_user_error(sql("SELECT 1", "--format", "table", "--out", "a"), "--out a")
    for words in (["--format", "csv"], ["--format", "table"], ["--out", "b.csv"]):
        refused = sql("SELECT 1", "--json", *words)
        assert_user_error(refused, f"--json and {' '.join(words)} contradict each other")
        assert refused.stdout == ""
    assert sql("SELECT 1 AS n", "--json", "--format", "json").stdout == '[\n{"n":1}\n]\n'


def test_a_query_that_fails_leaves_no_file(filled: Shell, sql: Run) -> None:
    before = sorted(filled.folder.iterdir())
    bad = "SELECT 1 / (5 - i) FROM generate_series(1, 9) AS i"
    if "TEXTMILL_DATABASE_URL" not in filled.env:
        bad = FOREVER.format("CASE WHEN i > 3 THEN abs(-9223372036854775808) ELSE i END")
    done = sql(bad, "--out", "a.csv")
    assert_user_error(done, "the database cannot run the statement")
    assert sorted(filled.folder.iterdir()) == before


def test_a_table_fits_the_terminal_and_says_what_is_left_out(
    sql: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    many = "WITH n(i) AS (VALUES (1), (2), (3), (4))"
    cells = "i, 'x' AS short, 1.5 AS f, NULL AS n, name, params, model, dtype"
    query = f"{many} SELECT {cells} FROM n, jobs ORDER BY i"
    done = sql(query, "--format", "table", "--limit", "3")
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["i", "short", "f", "n", "name", "params", "model", "dtype"]
    assert [line.split()[:4] for line in lines[1:]] == [[n, "x", "1.5", "NULL"] for n in "123"]
    assert max(map(len, lines)) <= 60
    assert done.stderr == "the first 3 rows; --limit 0 for all, --out FILE to keep them\n"
    long = sql(f"SELECT name, '{'y' * 90}' AS y FROM jobs", "--format", "table").stdout
    assert "\x1b" not in long
    assert "\u202e" not in long
    assert long.splitlines()[1].endswith("yyy…")
    assert len(long.splitlines()[1]) <= 60
    none = sql("SELECT * FROM jobs WHERE id = ''", "--format", "table")
    assert (none.stdout, none.stderr) == ("", "no rows\n")


def test_what_is_wrong_takes_one_line(filled: Shell, sql: Run) -> None:
    for statement, *parts in (
        ["DELETE FROM jobs", "connection is read-only"],
        ["SELECT 1; DELETE FROM jobs", "one statement at a time"],
        ["SELEC 1", "syntax error"],
        ["SELECT statu FROM jobs", "statu", "did you mean 'status'"],
        ["SELECT * FROM job", "did you mean 'jobs'"],
        ["SELECT :a", "no value for it"],
    ):
        done = sql(statement)
        assert_user_error(done, *parts)
        assert done.stderr.count("\n") == 1, done.stderr
        assert done.stdout == ""
    for value in ("a", "a b=1", "=1"):
        assert_user_error(sql("SELECT :a", "-p", value), value, "NAME=VALUE")
    assert_user_error(sql("SELECT :a", "-p", "a=1", "-p", "a=2"), "--param a is given twice")
    assert len(filled.rows("jobs")) == 1


def test_a_large_answer_takes_little_memory(filled: Shell) -> None:
    wide = "SELECT i, printf('%01000d', i) AS t FROM n"
    if "TEXTMILL_DATABASE_URL" in filled.env:
        wide = "SELECT i, repeat('x', 1000) AS t FROM n"
    rows = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :end) {wide}"

    def peak(end: int) -> int:
        """KB of memory, of a process that writes so many rows of 1 KB."""
        words = [TEXTMILL, "sql", rows, "-p", f"end={end}", "--format", "csv"]
        with subprocess.Popen(words, env=filled.env, stdout=subprocess.DEVNULL) as process:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        return usage.ru_maxrss

    assert peak(100_000) - peak(1) < 40_000  # of 100 MB


def _server_works(shell: Shell) -> Callable[[], bool]:
    def works() -> bool:
        with psycopg.connect(shell.env["TEXTMILL_DATABASE_URL"]) as connection:
            found = connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'textmill'"
                " AND state = 'active' AND clock_timestamp() - query_start > interval '0.5 s'"
            ).fetchone()
            return found is not None and found[0] > 0

    return works


def _process_works(process: psutil.Process) -> Callable[[], bool]:
    def works() -> bool:
        opened = any(file.path.endswith("textmill.db") for file in process.open_files())
        return opened and process.cpu_times().user > start + 0.5

    start = process.cpu_times().user
    return works


def test_ctrl_c_ends_a_long_query_here_and_on_the_server(filled: Shell) -> None:
    process = filled.start("sql", FOREVER.format("count(*)"), "--timeout", "0", log="sql.log")
    if "TEXTMILL_DATABASE_URL" in filled.env:
        working = _server_works(filled)
        wait_until(working, 60, what="working")
    else:
        working = psutil.Process(process.pid).is_running
        wait_until(_process_works(psutil.Process(process.pid)), 60, what="working")
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert filled.log("sql.log") == ""
    wait_until(lambda: not working(), 10, what="at rest")


def test_a_reader_that_has_seen_enough_is_no_error(filled: Shell) -> None:
    command = f'{TEXTMILL} sql "{FOREVER.format("i")}" | head -n 2'
    done = subprocess.run(
        ["sh", "-c", command],
        env=filled.env,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert (done.stdout, done.stderr) == ('{"i":1}\n{"i":2}\n', "")


def test_from_python(filled: Shell) -> None:
    code = (
        "import textmill\n"
        "query = 'SELECT status, total_records AS n FROM jobs WHERE id > :id'\n"
        "rows = textmill.sql(query, id='0')\n"
        "print(rows.columns, list(rows))\n"
        "try: textmill.sql('DELETE FROM jobs')\n"
        "except textmill.InvalidJobError as error: print(str(error)[:27])\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=filled.env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == (
        "('status', 'n') [{'status': 'queued', 'n': 2}]\nthe connection is read-only\n"
    ), done.stderr


QUERY = "SELECT total_records AS n FROM jobs"


def test_a_folder_that_may_not_be_written_is_read(shell: Shell) -> None:
    home = Path(shell.env["TEXTMILL_HOME"])
    shell.submit(shell.write("texts.txt", "a\nb\n"), *FAKE)
    file = home / "textmill.db"
    if os.geteuid() == 0:  # root may do all, unless it is taken from it
        shell.prefix = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    home.chmod(0o500)
    try:
        done = shell.run("sql", QUERY)
        assert (done.stdout, done.stderr) == ('{"n":2}\n', "")
        assert_user_error(shell.run("sql", "DELETE FROM jobs"), "read-only")
        # A log with changes and no index of it, as after a copy of the two files.
        home.chmod(0o700)
        file.with_name("textmill.db-wal").write_bytes(b"x" * 4096)
        file.with_name("textmill.db-shm").unlink(missing_ok=True)
        home.chmod(0o500)
        assert_user_error(shell.run("sql", QUERY), "cannot be read", "may not write in", code=1)
    finally:
        home.chmod(0o700)


def test_a_database_on_a_read_only_disk_is_read(tmp_path: Path) -> None:
    shell = DiskShell(tmp_path)
    try:
        assert shell.run("db", "upgrade").returncode == 0
        shell.submit(shell.write("texts.txt", "a\nb\n"), *FAKE)
        shell.disk.turn("ro")
        done = shell.run("sql", QUERY)
        assert (done.stdout, done.stderr) == ('{"n":2}\n', "")
    finally:
        shell.close()


def test_without_a_database_the_next_step_is_named(shell: Shell) -> None:
    done = shell.run("sql", "SELECT 1")
    assert_user_error(done, "no database yet", "textmill submit", code=1)
    assert not Path(shell.env["TEXTMILL_HOME"]).exists()
