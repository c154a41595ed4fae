"""People and scripts that watch a job, and what they see when its database goes away."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable

from ..servers import PostgresServer, die_with_parent, wait_until
from .conftest import FAKE, Shell, assert_user_error
from .load import Load


def _watch(shell: Shell, load: Load, *options: str) -> subprocess.Popen[str]:
    process = shell.start("watch", load.job, *options, log="watch.log")
    wait_until(lambda: shell.log("watch.log"), 30, what="watching")
    return process


def test_watch_waits_for_the_database_and_goes_on(
    database_shell: Shell, own_postgres: PostgresServer
) -> None:
    gate = database_shell.folder / "gate"  # the job is not over before the outage is
    database_shell.start_worker()
    load = Load(database_shell, last=f"wait {gate}")
    load.wait_for_results()
    watching = _watch(database_shell, load)
    own_postgres.stop()
    database_shell.wait_for_log("waiting: the database", "watch.log")
    own_postgres.start()
    gate.touch()
    assert watching.wait(60) == 0
    log = database_shell.log("watch.log")
    assert log.count("waiting:") == log.count("going on:") == 1
    assert "completed: 201 of 201 records" in log
    load.assert_complete()


def test_ctrl_c_ends_watch_while_the_database_is_away(
    database_shell: Shell, own_postgres: PostgresServer
) -> None:
    load = Load(database_shell, 10)
    watching = _watch(database_shell, load)
    own_postgres.stop()
    database_shell.wait_for_log("waiting: the database", "watch.log")
    watching.send_signal(signal.SIGINT)
    assert watching.wait(60) == 0
    log = database_shell.log("watch.log")
    assert "no longer watching" in log
    assert "Traceback" not in log
    own_postgres.start()


def test_run_waits_for_the_database_and_goes_on(
    database_shell: Shell, own_postgres: PostgresServer
) -> None:
    shell = database_shell
    lines = [f"slow 0.020{at:05d}" for at in range(150)]
    texts = shell.write("texts.txt", "\n".join(lines))
    running = shell.start("run", texts, *FAKE, "--devices", "cpu", log="run.log")
    wait_until(lambda: len(shell.rows("results")) >= 20, 60, what="with first results")
    own_postgres.crash()
    shell.wait_for_log("waiting: the database", "run.log")
    own_postgres.start()
    assert running.wait(60) == 0, shell.log("run.log")
    assert "completed: 150 of 150 records" in shell.log("run.log")
    rows = sorted(shell.rows("results"), key=lambda row: row["record_index"])
    assert [row["output"] for row in rows] == [line.upper() for line in lines]


def _python(shell: Shell, code: str) -> Callable[[], tuple[str, str]]:
    """A script under way; call what is returned for its stdout and stderr at the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=shell.folder,
        env=dict(os.environ, **shell.env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=die_with_parent,
    )
    shell.started.append(process)
    return lambda: process.communicate(timeout=60)


def test_job_wait_outlasts_the_database_silently(
    database_shell: Shell, own_postgres: PostgresServer
) -> None:
    shell = database_shell
    load = Load(shell, 10)
    script = (
        "from pathlib import Path\n"
        "from textmill import Job\n"
        f"job = Job({load.job!r})\n"
        "Path('started').touch()\n"
        "try:\n"
        "    job.wait(timeout=0.5)\n"
        "except TimeoutError as error:\n"
        "    Path('timed-out').write_text(str(error))\n"
        "print(job.wait())\n"
    )
    own_postgres.stop()
    ended = _python(shell, script)  # Job() itself needs the database, and fails at once
    assert "ServiceUnavailableError" in ended()[1]

    own_postgres.start()
    ended = _python(shell, script)
    wait_until(lambda: (shell.folder / "started").exists(), 30, what="started")
    own_postgres.stop()
    wait_until(lambda: (shell.folder / "timed-out").exists(), 30, what="timed out")
    own_postgres.start()
    shell.start_worker()
    assert ended() == ("completed\n", "")
    assert load.job in (shell.folder / "timed-out").read_text()


def test_one_shot_commands_fail_at_once_with_a_clear_message(
    database_shell: Shell, own_postgres: PostgresServer
) -> None:
    load = Load(database_shell, 10)
    own_postgres.stop()
    texts = database_shell.write("texts.txt", "a\n")
    for words in (["show", load.job], ["results", load.job], ["submit", texts, *FAKE]):
        done = database_shell.run(*words)
        assert_user_error(done, "does not answer", "TEXTMILL_DATABASE_URL", code=1)
        assert done.stdout == ""
    own_postgres.start()
    (row,) = json.loads(database_shell.run("jobs", "--json").stdout)
    assert row["status"] == "queued"
