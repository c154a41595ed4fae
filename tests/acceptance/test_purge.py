"""``textmill purge``, ``redact``, ``audits`` and ``db vacuum`` as a person runs them."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from textmill.core.jobs import JobStatus
from textmill.db.jobs import fail_job
from textmill.db.models import jobs
from textmill.db.session import Database

from ..builders import make_job, put, put_job
from ..canaries import canary, files_of, found_in, private_job
from ..servers import PostgresServer, wait_until
from .conftest import FAKE, IMPATIENT, TEXTMILL, Shell, assert_user_error

MAIL = "jane.doe@example.com"


@pytest.fixture(params=["shell", "server_shell"], ids=["sqlite", "postgresql"])
def anywhere(request: pytest.FixtureRequest) -> Shell:
    given: Shell = request.getfixturevalue(request.param)
    given.env |= IMPATIENT
    assert given.run("db", "upgrade").returncode == 0
    return given


@pytest.fixture
def folder(anywhere: Shell, request: pytest.FixtureRequest) -> Path | None:
    """Where PostgreSQL's files are."""
    if "TEXTMILL_DATABASE_URL" not in anywhere.env:
        return None
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.folder


def _make(shell: Shell, *jobs: dict[str, Any]) -> list[str]:
    """Jobs of canaries that have ended, without the time that a worker takes."""
    database = shell.database()
    try:
        return [private_job(database, **about) for about in jobs]
    finally:
        database.close()


def _found(shell: Shell, folder: Path | None, *wanted: str) -> list[str]:
    database = shell.database()
    try:
        return found_in(files_of(database, folder), *wanted)
    finally:
        database.close()


def _texts(shell: Shell, job_id: str) -> list[str | None]:
    rows = [row for row in shell.rows("results") if row["job_id"] == job_id]
    return [row["text"] for row in sorted(rows, key=lambda row: int(row["record_index"]))]


def test_a_job_goes_for_good_while_a_worker_works_on_another(
    anywhere: Shell, folder: Path | None
) -> None:
    shell = anywhere
    lines = "\n".join(f"dear zqcanary{at}x" for at in range(40))
    texts = shell.write("texts.txt", f"{lines}\nerror zqcanaryerrorx\n")
    shell.start_worker("--slots", "1")  # or the one that waits below may come first
    job = shell.submit(texts, *FAKE)
    assert shell.run("watch", job).returncode == 3
    wanted = ["zqcanary7x", "ZQCANARY7X", "zqcanaryerrorx"]
    running = shell.submit(
        shell.write("more.txt", f"one\nwait {shell.folder / 'go'}\n"),
        "--task",
        "fake_single",
        "--model",
        "m",
    )
    wait_until(lambda: len([r for r in shell.rows("results") if r["job_id"] == running]) == 1, 60)

    done = shell.run("purge", "--job", job)
    assert done.returncode == 0, done.stderr
    assert "purging 41 records of 1 job" in done.stderr
    assert "texts.txt" in done.stderr
    assert "rewriting the database's files" in done.stderr
    assert "purged 41 records of 1 job" in done.stderr
    assert done.stdout == ""
    assert _found(shell, folder, *wanted) == []
    assert _texts(shell, job) == [None] * 41

    shell.write("go", "")
    assert shell.run("watch", running).returncode == 0
    assert _texts(shell, running)[0] == "one"

    shown = shell.run("show", job)
    assert shown.returncode == 0
    assert "41 of 41 records" in shown.stdout
    assert "texts, outputs and ids are gone" in shown.stdout
    assert "textmill results" not in shown.stdout
    assert "runner_error" in shown.stdout
    assert shell.json("show", job)["done_records"] == 40
    out = shell.folder / "out.csv"
    for words in (["results", job], ["results", job, "--out", out], ["retry", job]):
        assert_user_error(
            shell.run(*words), f"job {job} was purged on 20", "texts are gone", code=1
        )
    assert not out.exists()
    again = shell.run("purge", "--job", job)
    assert again.returncode == 0
    assert "already" in again.stderr
    assert "nothing to purge" in again.stderr


def test_a_purged_jobs_key_still_names_it(shell: Shell) -> None:
    texts = shell.write("texts.txt", "one\n")
    first = shell.run("run", texts, *FAKE, "--key", "nightly", "--devices", "cpu")
    assert first.returncode == 0
    assert shell.run("purge", "--job", "nightly").returncode == 0
    again = shell.run("submit", texts, *FAKE, "--key", "nightly")
    assert again.returncode == 0
    assert ", purged on 20" in again.stderr
    assert "nothing was submitted" in again.stderr


def test_jobs_that_ended_long_ago_go_and_the_others_stay(anywhere: Shell) -> None:
    shell = anywhere
    old, young, running = _make(shell, {}, {}, {})
    database = shell.database()
    _age(database, old, running)
    put_job(database, running, JobStatus.PAUSED)
    database.close()

    dry = shell.run("purge", "--older-than", "30d", "--dry-run")
    assert dry.returncode == 0
    assert "would purge 6 records of 1 job" in dry.stderr
    assert old in dry.stderr
    assert "not ended, though submitted over 30d ago, and passed over: 1 job" in dry.stderr
    assert "`textmill cancel JOB`, then `textmill purge --job JOB`" in dry.stderr
    assert f"{running}        paused  canaries.csv" in dry.stderr
    assert young not in dry.stderr
    assert None not in _texts(shell, old)
    assert shell.rows("audits") == []

    done = shell.json("purge", "--older-than", "30d")
    assert done == {
        "jobs": [{"id": old, "records": 6}],
        "records": 6,
        "passed_over": [],
        "not_ended": [running],
        "dry_run": False,
        "vacuumed": True,
    }
    assert _texts(shell, old) == [None] * 6
    assert None not in _texts(shell, young) + _texts(shell, running)
    assert "nothing to purge" in shell.run("purge", "--older-than", "30d").stderr


def _age(database: Database, *job_ids: str) -> None:
    """40 days ago these were submitted, and ended."""
    long = 40 * 86_400
    aged = {"created_at": jobs.c.created_at - long, "finished_at": jobs.c.finished_at - long}
    put(database, jobs, jobs.c.id.in_(job_ids), **aged)


@pytest.fixture
def held_and_free(anywhere: Shell) -> tuple[str, str]:
    """Two old jobs: one that failed while a worker has its records in hand, and a later one."""
    held, free = _make(anywhere, {"run": 0}, {})
    database = anywhere.database()
    try:
        database.transact(fail_job, held, "no model")
        _age(database, held, free)
    finally:
        database.close()
    return held, free


def test_a_job_that_cannot_be_purged_now_holds_up_no_other(
    anywhere: Shell, folder: Path | None, held_and_free: tuple[str, str]
) -> None:
    shell, (held, free) = anywhere, held_and_free
    reason = f"passed over: job {held} is failed, and workers still have 6 of its records in hand"
    dry = shell.run("purge", "--older-than", "30d", "--dry-run")
    assert (dry.returncode, reason in dry.stderr) == (0, True)
    assert "would purge 6 records of 1 job" in dry.stderr
    done = shell.run("purge", "--older-than", "30d")
    assert (done.returncode, reason in done.stderr) == (0, True)
    assert "purged 6 records of 1 job" in done.stderr
    assert _texts(shell, free) == [None] * 6
    assert _found(shell, folder, *[canary("text", at) for at in range(6)]) == []
    again = shell.json("purge", "--older-than", "30d")
    assert (again["jobs"], again["passed_over"], again["not_ended"]) == ([], [held], [])


def test_a_job_that_cannot_be_redacted_now_holds_up_no_other(
    anywhere: Shell, held_and_free: tuple[str, str]
) -> None:
    shell, (held, free) = anywhere, held_and_free
    done = shell.run("redact", "--older-than", "30d")
    assert done.returncode == 0
    assert f"passed over: job {held} is failed, and workers still have records" in done.stderr
    assert f"{free}: masked" in done.stderr
    again = shell.json("redact", "--older-than", "30d")
    assert (again["passed_over"], [one["id"] for one in again["jobs"]]) == ([held], [free])


def test_a_record_that_one_job_cannot_give_up_now_goes_from_the_others(
    anywhere: Shell, folder: Path | None, held_and_free: tuple[str, str]
) -> None:
    """Which shows only when its payload is about to be written."""
    shell, (held, free) = anywhere, held_and_free
    done = shell.run("purge", "--record-id", canary("id", 2))
    assert_user_error(done, f"error: a worker has the record of job {held} in hand", code=2)
    assert "purged 1 record of 1 job" in done.stderr
    assert [at for at, text in enumerate(_texts(shell, free)) if text is None] == [2]
    assert _found(shell, folder, canary("text", 2)) == []
    assert [one["vacuumed_at"] is None for one in shell.rows("audits")] == [False] * 2


@pytest.mark.parametrize("about", [{"run": 1}, {"run": 0}], ids=["ran", "waits"])
def test_a_record_that_a_paused_job_has_goes_from_the_ended_ones(
    anywhere: Shell, folder: Path | None, about: dict[str, Any]
) -> None:
    shell = anywhere
    free, paused, later = _make(shell, {}, about, {})
    _pause(shell, paused)
    reason = f"the record is in a job that has not ended: job {paused} is paused"
    dry = shell.run("purge", "--record-id", canary("id", 2), "--dry-run")
    assert_user_error(dry, f"error: {reason}", code=2)
    assert "would purge 2 records of 2 jobs" in dry.stderr
    assert all(job in dry.stderr for job in (free, later))
    assert shell.rows("audits") == []

    done = shell.run("purge", "--record-id", canary("id", 2), "--json")
    assert_user_error(done, f"error: {reason}", code=2)
    told = json.loads(done.stdout)
    assert [(one["id"], one["records"]) for one in told["jobs"]] == [(free, 1), (later, 1)]
    assert (told["passed_over"], told["vacuumed"]) == ([paused], True)
    for job in (free, later):
        assert [at for at, text in enumerate(_texts(shell, job)) if text is None] == [2]

    assert shell.run("cancel", paused).returncode == 0
    shell.run("purge", "--record-id", canary("id", 2))  # nothing is left where it waited
    assert _found(shell, folder, canary("text", 2)) == []


def test_named_jobs_that_have_ended_go_though_another_has_not(anywhere: Shell) -> None:
    shell = anywhere
    free, paused, later = _make(shell, {}, {"run": 1}, {})
    _pause(shell, paused)
    for change in ("redacted", "purged"):
        named = [free, paused, later]
        words = ["redact", *named] if change == "redacted" else ["purge"]
        words += [word for job in named for word in ("--job", job)] if change == "purged" else []
        dry, done = (shell.run(*words, "--json", *more) for more in (["--dry-run"], []))
        for one in (dry, done):
            assert_user_error(one, f"error: job {paused} is paused and cannot be {change}", code=2)
            told = json.loads(one.stdout)
            assert [job["id"] for job in told["jobs"]] == [free, later]
            assert told["passed_over"] == [paused]
    assert _texts(shell, free) == _texts(shell, later) == [None] * 6
    assert None not in _texts(shell, paused)


def test_where_no_named_job_can_be_changed_no_file_is_rewritten(anywhere: Shell) -> None:
    """Though an earlier command had left bytes in them, which was not what was asked for now."""
    shell = anywhere
    free, paused = _make(shell, {}, {"run": 1})
    _pause(shell, paused)
    assert shell.run("purge", "--job", free, "--no-vacuum").returncode == 0
    for words in (["purge", "--job", paused], ["redact", paused]):
        done = shell.run(*words, "--json")
        assert_user_error(done, f"error: job {paused} is paused and cannot be", code=2)
        told = json.loads(done.stdout)
        assert (told["jobs"], told["passed_over"], told["vacuumed"]) == ([], [paused], False)
    assert shell.json("purge", "--job", free)["vacuumed"] is True


def test_by_age_files_are_rewritten_though_the_only_job_left_is_passed_over(
    anywhere: Shell, held_and_free: tuple[str, str]
) -> None:
    """As the next night's command does where the last one's was killed before it had."""
    shell, (held, free) = anywhere, held_and_free
    assert shell.run("purge", "--job", free, "--no-vacuum").returncode == 0
    told = shell.json("purge", "--older-than", "30d")
    assert (told["jobs"], told["passed_over"], told["vacuumed"]) == ([], [held], True)


def _pause(shell: Shell, job_id: str) -> None:
    database = shell.database()
    put_job(database, job_id, JobStatus.PAUSED)
    database.close()


def test_a_record_goes_from_all_jobs_and_its_id_with_it(
    anywhere: Shell, folder: Path | None
) -> None:
    shell = anywhere
    one, other = _make(shell, {"errors": ()}, {"errors": (2,)})
    done = shell.run("purge", "--record-id", canary("id", 2))
    assert done.returncode == 0, done.stderr
    assert "purged 2 records of 2 jobs" in done.stderr
    for job_id in (one, other):
        texts = _texts(shell, job_id)
        assert [at for at, text in enumerate(texts) if text is None] == [2]
    gone = [canary(place, 2) for place in ("text", "output", "extra", "declared", "message", "id")]
    assert _found(shell, folder, *gone) == []
    assert_user_error(shell.run("purge", "--record-id", canary("id", 2)), "no record", "in any job")
    assert shell.run("purge", "--record-id", canary("id", 3), "--job", one).returncode == 0
    assert _texts(shell, other)[3] is not None
    audits = shell.json("audits")
    assert [(audit["records"], audit["detail"]) for audit in audits] == [
        (1, {"by": "record-id", "ids": 1})
    ] * 3
    assert not any(canary("id", at) in json.dumps(audits) for at in range(6))


def test_what_cannot_be_meant_is_refused_and_nothing_changes(anywhere: Shell) -> None:
    shell = anywhere
    (ended,) = _make(shell, {})
    database = shell.database()
    waiting = make_job(database, (2,))
    database.close()
    refusals: list[tuple[list[str], list[str]]] = [
        (["--job", "nope"], ["no job 'nope'", waiting]),
        (["--job", ended, "--job", "nope"], ["no job 'nope'"]),
        (["--job", waiting], [f"job {waiting} is queued and cannot be purged", "cancel"]),
        (["--record-id", "id1"], ["in a job that has not ended", waiting]),
        (["--record-id", "id1", "--job", waiting], ["is queued and cannot be purged"]),
        (["--record-id", "id1", "--dry-run"], ["in a job that has not ended", waiting]),
        (["--job", ended, "--job", waiting, "--dry-run"], ["is queued and cannot be purged"]),
        (["--record-id", "nobody"], ["no record 'nobody' in any job"]),
        (["--record-id", "id1", "--job", ended], [f"no record 'id1' in job {ended}"]),
        (["--record-id", ""], ["an id that is not empty"]),
        (["--older-than", "soon"], ["'soon'", "such as 30d"]),
        (["--older-than", "30"], ["'30'", "such as 30d"]),
        (["--older-than", "30d", "--job", ended], ["goes by itself"]),
        (["--older-than", "1x", "--job", ended], ["--older-than is '1x'"]),
        ([], ["expected what to purge"]),
    ]
    for words, parts in refusals:
        assert_user_error(shell.run("purge", *words), *parts)
    assert_user_error(shell.run("redact"), "expected jobs, or --older-than")
    assert_user_error(shell.run("redact", ended, "--older-than", "0m"), "goes by itself")
    assert_user_error(shell.run("redact", ended, "--older-than", "1x"), "--older-than is '1x'")
    assert_user_error(shell.run("redact", waiting), "is queued and cannot be redacted")
    assert_user_error(shell.run("redact", ended, "--kinds", "mail"), "'mail'", "email")
    assert_user_error(shell.run("redact", ended, "--region", "Nowhere"), "Nowhere")
    assert_user_error(shell.run("redact", "--older-than", "soon"), "such as 30d")
    assert None not in _texts(shell, ended)
    assert len(shell.rows("payloads")) == 2
    assert shell.rows("audits") == []


@contextlib.contextmanager
def _terminal(shell: Shell, *words: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A command on a terminal of its own."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [str(TEXTMILL), *words],
        env=shell.env,
        cwd=shell.folder,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    try:
        yield process, ours
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def _read_to(terminal: int, text: str) -> str:
    seen = b""
    while text.encode() not in seen:
        seen += os.read(terminal, 4096)
    return seen.decode()


@pytest.mark.parametrize("command", ["purge --job", "redact"])
def test_a_person_on_a_terminal_is_asked_first(shell: Shell, command: str) -> None:
    assert shell.run("db", "upgrade").returncode == 0
    (job,) = _make(shell, {})
    for answer in ("n", "y"):
        with _terminal(shell, *command.split(), job) as (process, terminal):
            _read_to(terminal, "for good? [y/N]:")
            assert shell.rows("audits") == []
            os.write(terminal, f"{answer}\n".encode())
            if answer == "n":
                _read_to(terminal, "nothing was changed")
            else:
                _read_to(terminal, "job" if command == "purge --job" else "masked")
            with contextlib.suppress(OSError):  # the terminal is gone with the process
                while os.read(terminal, 4096):
                    pass
            assert process.wait(60) == (1 if answer == "n" else 0)
    assert len(shell.rows("audits")) == 1
    with _terminal(shell, *command.split(), job, "--yes") as (process, terminal):
        with contextlib.suppress(OSError):
            while data := os.read(terminal, 4096):
                assert b"for good?" not in data
        process.wait(60)


def test_a_killed_purge_goes_on_and_leaves_no_byte(anywhere: Shell, folder: Path | None) -> None:
    shell = anywhere
    (job,) = _make(shell, {"records": 6000, "chunk": 3000})
    process = shell.start("purge", "--job", job, "--yes", log="purge.log")

    def begun() -> bool:
        return any(audit["records"] for audit in shell.rows("audits"))

    wait_until(begun, 60, what="purging", every=0.002)
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    (audit,) = shell.rows("audits")
    done = audit["records"]
    assert 0 < done < 6000
    assert audit["finished_at"] is None
    assert sum(text is None for text in _texts(shell, job)) == done
    assert_user_error(shell.run("results", job), "was purged on", code=1)
    assert_user_error(shell.run("retry", job, "--all"), "was purged on", code=1)

    again = shell.run("purge", "--older-than", "0m")
    assert again.returncode == 0, again.stderr
    assert f"purged {6000 - done:,} records of 1 job" in again.stderr
    assert _texts(shell, job) == [None] * 6000
    wanted = [canary(place, at) for place in ("text", "output", "id") for at in range(0, 6000, 97)]
    assert _found(shell, folder, *wanted) == []
    listed = shell.run("audits").stdout
    assert "cut off" in listed
    assert listed.count("rewritten") == 2


def test_the_bytes_can_be_left_for_later(anywhere: Shell, folder: Path | None) -> None:
    shell = anywhere
    (job,) = _make(shell, {})
    done = shell.run("purge", "--job", job, "--no-vacuum")
    assert done.returncode == 0
    assert "still hold what was removed, until `textmill db vacuum`" in done.stderr
    assert _found(shell, folder, *[canary("text", at) for at in range(6)]) != []
    assert "left" in shell.run("audits").stdout
    assert shell.run("db", "vacuum").returncode == 0
    assert _found(shell, folder, *[canary("text", at) for at in range(6)]) == []
    assert "rewritten" in shell.run("audits", job).stdout


def test_personal_data_is_masked_where_it_is_stored(anywhere: Shell, folder: Path | None) -> None:
    shell = anywhere
    rows = [
        {"id": "a", "text": f"write to {MAIL}", "from": MAIL},
        {"id": "b", "text": "call 020 7946 0958", "from": "nobody"},
        {"id": "c", "text": "nothing", "from": "nobody"},
        {"id": "d", "text": "error 4111 1111 1111 1111", "from": "nobody"},
    ]
    file = shell.write("mails.jsonl", "\n".join(map(json.dumps, rows)))
    options = ["--text-column", "text", "--id-column", "id", "--index-column", "from"]
    assert shell.run("run", file, *FAKE, *options, "--devices", "cpu").returncode == 3

    dry = shell.run("redact", "last", "--dry-run", "--region", "GB")
    assert "would mask 2 card, 3 email, 2 phone in 3 records" in dry.stderr
    assert MAIL in str(shell.rows("results"))
    done = shell.run("redact", "last", "--region", "GB")
    assert done.returncode == 0, done.stderr
    found = shell.run("results", "last", "--format", "jsonl").stdout
    texts = [json.loads(line)["text"] for line in found.splitlines()]
    assert texts == ["write to [EMAIL]", "call [PHONE]", "nothing", "error [CARD]"]
    assert _found(shell, folder, "jane.doe", "JANE.DOE", "7946 0958", "4111 1111") == []
    assert len(shell.run("results", "last", "--search", "phone").stdout.splitlines()) == 1
    masked = shell.run("results", "last", "--where", "from=[EMAIL]").stdout
    assert len(masked.splitlines()) == 1
    again = shell.json("redact", "last", "--region", "GB")
    assert (again["jobs"][0]["masked"], again["vacuumed"]) == ({}, False)
    assert "unchanged" in shell.run("audits", "--limit", "1").stdout
    assert shell.run("retry", "last").returncode == 0  # with the masked input
    assert shell.run("run", "--resume", "last", "--devices", "cpu").returncode == 3
    assert "error [CARD]" in _texts(shell, again["jobs"][0]["id"])


def test_a_job_of_a_purged_record_can_run_again_as_a_whole(shell: Shell) -> None:
    texts = shell.write("texts.csv", "id,text\na,one\nb,two\n")
    options = ["--text-column", "text", "--id-column", "id", "--devices", "cpu"]
    assert shell.run("run", texts, *FAKE, *options).returncode == 0
    assert shell.run("purge", "--record-id", "b").returncode == 0
    assert shell.run("retry", "last", "--all").returncode == 0
    assert shell.run("run", "--resume", "last", "--devices", "cpu").returncode == 3
    rows = sorted(shell.rows("results"), key=lambda row: int(row["record_index"]))
    assert [(row["record_id"], row["output"], row["error_code"]) for row in rows] == [
        ("a", "ONE", None),
        ("", None, "purged"),
    ]
