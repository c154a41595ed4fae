"""``textmill watch``: why nothing moves, errors while it runs, and each field of its JSON."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

from ..servers import ValkeyServer, wait_until
from .conftest import FAKE, ROOT, Shell, assert_user_error

FIELD = re.compile(r"^\| `([\w\[\].]+)` \| ([\w ]+) \| .+ \|$", flags=re.MULTILINE)
TYPES: dict[str, tuple[type, ...]] = {
    "text": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "object": (dict,),
    "list": (list,),
    "null": (type(None),),
}


def _watch(shell: Shell, job: str, *options: str) -> subprocess.Popen[str]:
    return shell.start("watch", job, *options, log="watch.log")


def test_watch_says_once_that_there_is_no_worker(shell: Shell) -> None:
    job = shell.submit(shell.write("texts.txt", "a\nb\n"), *FAKE)
    watching = _watch(shell, job)
    shell.wait_for_log("waiting: no live worker serves queue 'default'", "watch.log")
    asking = _watch(shell, job, "--json")
    shell.wait_for_log('"waiting":"no live worker', "watch.log")  # it asks twice meanwhile
    shell.start_worker()
    assert watching.wait(60) == asking.wait(60) == 0
    log = shell.log("watch.log")
    assert log.count("waiting: no live worker") == 1
    last = json.loads([line for line in log.splitlines() if line.startswith("{")][-1])
    assert last["status"] == "completed"


def test_watch_says_that_the_job_waits_behind_others(shell: Shell) -> None:
    gate = shell.folder / "gate"
    shell.start_worker("--slots", "1")
    shell.submit(shell.write("long.txt", f"wait {gate}\n"), *FAKE)
    wait_until(lambda: shell.rows("jobs")[0]["status"] == "running", 60, what="running")
    watching = _watch(shell, shell.submit(shell.write("texts.txt", "a\n"), *FAKE))
    shell.wait_for_log("waiting: behind other work: 1 chunk of 1 other job", "watch.log")
    gate.touch()
    assert watching.wait(60) == 0


def test_watch_and_run_say_that_the_broker_is_away(
    broker_shell: Shell, own_valkey: ValkeyServer
) -> None:
    shell = broker_shell
    shell.start_worker()
    own_valkey.kill()
    job = shell.submit(shell.write("texts.txt", "a\n"), *FAKE)
    watching = _watch(shell, job)
    running = shell.start("run", "--resume", job, log="run.log")
    for log in ("watch.log", "run.log"):
        shell.wait_for_log("waiting: the broker", log)
    own_valkey.start()
    assert watching.wait(90) == running.wait(90) == 0
    assert shell.log("watch.log").count("waiting: the broker") == 1


def test_ctrl_c_ends_a_watch_that_waits(shell: Shell) -> None:
    job = shell.submit(shell.write("texts.txt", "a\n"), *FAKE)
    assert shell.run("pause", job).returncode == 0
    watching = _watch(shell, job)
    shell.wait_for_log(f"waiting: the job is paused; `textmill resume {job}`", "watch.log")
    watching.send_signal(signal.SIGINT)
    assert watching.wait(60) == 0


def _fields(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each field with its value; ``errors[].code`` for those of objects in a list."""
    for name, content in value.items():
        yield prefix + name, content
        for one in content if isinstance(content, list) else []:
            if isinstance(one, dict):
                yield from _fields(one, f"{prefix}{name}[].")


def test_json_tells_errors_while_the_job_runs_in_the_fields_that_are_documented(
    shell: Shell,
) -> None:
    gate = shell.folder / "gate"
    texts = ["ham", "spam", *["error"] * 8, f"wait {gate}"]
    shell.start_worker("--slots", "1")
    job = shell.submit(shell.write("texts.txt", "\n".join(texts)), *FAKE)
    watching = _watch(shell, job, "--json")
    shell.wait_for_log('"code":"runner_error"', "watch.log")
    gate.touch()
    assert watching.wait(60) == 3
    lines = [json.loads(line) for line in shell.log("watch.log").splitlines()]

    running = next(line for line in lines if line["errors"])
    assert running["status"] == "running"
    (reason,) = running["errors"]
    assert (reason["code"], reason["records"]) == ("runner_error", 8)
    assert "the text asked for an error" in reason["example"]
    assert [line["status"] for line in lines].count("completed_with_errors") == 1
    assert lines[-1]["labels"] == {"H": 1, "S": 1, "W": 1}

    page = (ROOT / "docs" / "watching.md").read_text()
    documented = dict(FIELD.findall(page))
    shown = json.loads(page.split("```json\n")[1].split("\n```")[0])
    for line in [*lines, shown]:
        found = dict(_fields(line))
        nested = {name for name in documented if "[]" in name and not line[name.split("[")[0]]}
        assert found.keys() == documented.keys() - nested
        for name, value in found.items():
            types = [one for word in documented[name].split(" or ") for one in TYPES[word]]
            assert type(value) in types, (name, value, documented[name])


def _watch_to_the_end(shell: Shell, name: str, *options: str) -> tuple[str, list[str]]:
    """A job that ends once it is watched, and what is said of its 20 records meanwhile."""
    gate = shell.folder / name
    lines = [*(f"text {n}" for n in range(19)), f"wait {gate}"]
    job = shell.submit(shell.write(f"{name}.txt", "\n".join(lines)), *FAKE)
    watching = shell.start("watch", job, *options, log=f"{name}.log")
    wait_until(lambda: re.search(r"of 20 \(|\{", shell.log(f"{name}.log")), 60, what="watched")
    gate.touch()
    assert watching.wait(60) == 0
    return job, [line for line in shell.log(f"{name}.log").splitlines() if re.match(r"\d|\{", line)]


def test_an_interval_is_the_least_time_between_two_lines(shell: Shell) -> None:
    shell.start_worker()
    job, said = _watch_to_the_end(shell, "lines", "--interval", "3600")
    assert len([line for line in said if " of 20 (" in line]) == 2, "the first and the last"
    told = shell.run("watch", job, "--interval", "3600").stderr
    assert told == "", "a job that has ended has its summary only"
    _, said = _watch_to_the_end(shell, "json", "--json", "--interval", "3600")
    assert len(said) == 2, "the first and the last"
    assert_user_error(shell.run("watch", job, "--interval", "-1"), "--interval")


def test_a_job_that_has_ended_is_told_with_what_to_do_next(shell: Shell) -> None:
    shell.start_worker()
    job = shell.submit(shell.write("texts.txt", "ham\nham\nspam\nerror\n"), *FAKE)
    assert shell.run("watch", job).returncode == 3
    done = shell.run("watch", job)
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout.startswith("completed with errors: 4 of 4 records in ")
    assert done.stdout.endswith(
        f"next      textmill results {job} --label S --min-score 0.9\n"
        f"          textmill results {job} --errors\n"
        f"          textmill retry {job}\n"
    )
    held = shell.submit(shell.folder / "texts.txt", *FAKE, "--queue", "nobody")
    assert shell.run("pause", held).returncode == 0
    paused = shell.run("show", "last").stdout
    assert re.search(r"next      textmill resume \w+\n          textmill watch \w+\n", paused), (
        paused
    )
    assert shell.run("cancel", "last").returncode == 0
    done = shell.run("watch", "last")
    assert (done.returncode, done.stderr) == (1, "")
    assert "next" not in done.stdout, "there is nothing to look at"
