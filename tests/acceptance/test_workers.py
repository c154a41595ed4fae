"""Workers as processes: they share, stop, die and hang, and the job ends all the same."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from ..servers import wait_until
from .conftest import FAKE, Shell


def _texts(shell: Shell, lines: list[str]) -> Path:
    return shell.write("texts.txt", "\n".join(lines))


def _wait_for(shell: Shell, status: str) -> None:
    wait_until(lambda: shell.rows("jobs")[0]["status"] == status, 60, what=f"{status}")


def _assert_complete(shell: Shell, lines: list[str]) -> None:
    rows = sorted(shell.rows("results"), key=lambda row: row["record_index"])
    assert [row["output"] for row in rows] == [line.upper() for line in lines]
    (job,) = shell.rows("jobs")
    assert (job["status"], job["done_records"]) == ("completed", len(lines))
    assert shell.rows("payloads") == []


def test_one_process_per_device_shares_a_job_and_is_listed(shell: Shell) -> None:
    lines = [f"slow 0.01 {at}"[:9] for at in range(200)]
    shell.start("worker", "--devices", "cpu,cpu", "--queues", "fast")
    wait_until(lambda: len(shell.workers()) == 2, 60, what="with two workers")
    shell.submit(_texts(shell, lines), *FAKE)
    _wait_for(shell, "completed")

    _assert_complete(shell, lines)
    assert {tuple(worker["queues"]) for worker in shell.workers()} == {("fast", "default")}
    report = shell.run("doctor")
    assert report.returncode == 0, report.stdout
    assert "cpu, 4 slots, queues fast,default" in report.stdout


def test_a_job_for_a_queue_without_worker_says_so_and_waits(shell: Shell) -> None:
    shell.start_worker()
    done = shell.run("submit", _texts(shell, ["a"]), *FAKE, "--queue", "gpu")
    assert "no live worker serves queue 'gpu'" in done.stderr
    report = shell.run("doctor")
    assert report.returncode == 1
    assert "(queue gpu)" in report.stdout

    shell.start_worker("--queues", "gpu")
    _wait_for(shell, "completed")


def test_sigterm_finishes_what_runs_and_gives_back_the_rest(shell: Shell) -> None:
    gate = shell.folder / "gate"
    lines = [f"wait {gate}"] + [f"text {at}" for at in range(9)] + ["slow 0.05"] * 100
    worker = shell.start_worker("--slots", "1")
    shell.submit(_texts(shell, lines), *FAKE)
    wait_until(
        lambda: any(c["status"] == "running" for c in shell.rows("chunks")), 60, what="running"
    )
    worker.send_signal(signal.SIGTERM)
    gate.touch()
    assert worker.wait(60) == 0
    statuses = [chunk["status"] for chunk in shell.rows("chunks")]
    assert "done" in statuses
    assert "running" not in statuses
    assert shell.workers() == []

    shell.start_worker()
    _wait_for(shell, "completed")
    _assert_complete(shell, lines)


def test_a_killed_worker_is_replaced_and_its_chunks_run_again(shell: Shell) -> None:
    gate = shell.folder / "gate"
    lines = [f"text {at}" for at in range(45)] + [f"wait {gate}"]
    shell.start_worker()
    shell.submit(_texts(shell, lines), *FAKE)
    wait_until(lambda: len(shell.rows("results")) >= 10, 60, what="with first results")
    (first,) = shell.workers()
    os.kill(first["pid"], signal.SIGKILL)
    gate.touch()
    _wait_for(shell, "completed")
    _assert_complete(shell, lines)
    (second,) = shell.workers()
    assert second["pid"] != first["pid"]
    assert max(chunk["crashes"] for chunk in shell.rows("chunks")) == 1


@pytest.mark.parametrize("how", ["crash", "exit", "lose"])
def test_a_record_that_kills_workers_is_condemned_and_no_other(shell: Shell, how: str) -> None:
    """The ended processes hold several chunks each, of which only one is guilty.

    Native code may call exit(1); an index out of bounds fails an assertion on a GPU, which is lost.
    """
    lines = [f"text {at}" for at in range(35)]
    lines[17] = how
    shell.start_worker()
    shell.submit(_texts(shell, lines), *FAKE)
    wait_until(lambda: shell.rows("jobs")[0]["finished_at"], 90, what="finished")

    rows = {row["record_index"]: row for row in shell.rows("results")}
    assert len(rows) == len(lines)
    assert rows.pop(17)["error_code"] == "worker_crashed"
    assert {at: row["output"] for at, row in rows.items()} == {
        at: line.upper() for at, line in enumerate(lines) if at != 17
    }
    (job,) = shell.rows("jobs")
    assert (job["status"], job["error_records"]) == ("completed_with_errors", 1)
    assert "split" in {chunk["status"] for chunk in shell.rows("chunks")}


def test_a_model_that_loses_the_device_as_it_loads_fails_its_job_and_no_other(
    shell: Shell,
) -> None:
    """As one does whose kernels this device cannot run. It would be tried for ever."""
    shell.start_worker()
    losing = shell.submit(_texts(shell, ["a"]), "--task", "fake", "--model", "losing")
    wait_until(lambda: _ended(shell, losing), 60, what="failed")
    (job,) = shell.rows("jobs")
    assert job["status"] == "failed"
    assert "no kernel image" in job["error"]

    other = shell.submit(_texts(shell, ["b"]), *FAKE)
    wait_until(lambda: _ended(shell, other), 60, what="completed")
    assert [row["output"] for row in shell.rows("results")] == ["B"]


def test_a_hung_worker_is_replaced(shell: Shell) -> None:
    shell.env["TEXTMILL_BATCH_TIMEOUT_SECONDS"] = "1"
    gate = shell.folder / "gate"
    lines = [f"wait {gate}", "text"]
    shell.start_worker()
    (first,) = shell.workers()
    shell.submit(_texts(shell, lines), *FAKE)
    wait_until(
        lambda: any(worker["pid"] != first["pid"] for worker in shell.workers()),
        60,
        what="replaced",
    )
    gate.touch()
    _wait_for(shell, "completed")
    _assert_complete(shell, lines)
    assert "ending a hung worker" in (shell.folder / "worker.log").read_text()


def test_cancel_ends_a_running_job_at_once_and_keeps_its_results(shell: Shell) -> None:
    gate = shell.folder / "gate"
    shell.env["TEXTMILL_LEASE_SECONDS"] = "2"
    lines = [f"text {at}" for at in range(10)] + [f"wait {gate}"] * 10
    shell.start_worker("--slots", "1")
    shell.submit(_texts(shell, lines), *FAKE)
    wait_until(lambda: len(shell.rows("results")) == 10, 60, what="with the first chunk")
    assert shell.run("cancel", "last").returncode == 0
    assert shell.rows("jobs")[0]["status"] == "cancelled"
    gate.touch()
    shell.wait_for_log("chunk lost")
    assert "was cancelled" in shell.log()
    assert "overtaken" not in shell.log()
    other = shell.write("other.txt", "after\n")
    shell.submit(other, *FAKE)
    wait_until(lambda: shell.rows("jobs")[1]["status"] == "completed", 60, what="completed")
    assert len(shell.rows("results")) == 11


def test_a_higher_priority_goes_first(shell: Shell) -> None:
    gate = shell.folder / "gate"
    shell.start_worker("--slots", "1")
    shell.submit(_texts(shell, [f"wait {gate}", *["slow 0.1"] * 300]), *FAKE)
    low = shell.submit(shell.write("low.txt", "low\n"), *FAKE, "--priority", "low")
    high = shell.submit(shell.write("high.txt", "high\n"), *FAKE, "--priority", "high")
    gate.touch()
    wait_until(lambda: _ended(shell, high), 60, what="completed")
    assert not _ended(shell, low)


def _ended(shell: Shell, job_id: str) -> bool:
    return any(job["id"] == job_id and job["finished_at"] for job in shell.rows("jobs"))
