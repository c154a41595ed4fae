"""Hosts apart: a worker is cut off from the broker, from the database, or from both, and heals.

Nothing tells either side of a cut, so only time limits notice it. ``-rP`` shows how long each cut
lasted, and how long after its healing the worker had completed a chunk again.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, update

from textmill.core.errors import ServiceUnavailableError
from textmill.core.settings import load_settings
from textmill.db.models import sweeps
from textmill.db.session import Database

from ..machine import lacks
from ..networks import Network, NetworkError
from ..servers import PostgresServer, ValkeyServer, wait_until
from .conftest import FAKE, Shell, assert_user_error

SETTINGS = {
    "TEXTMILL_LEASE_SECONDS": "2",
    "TEXTMILL_SWEEP_SECONDS": "0.5",
    "TEXTMILL_DISPATCH_GRACE_SECONDS": "1",
    "TEXTMILL_STARVATION_SECONDS": "5",
}
LOAD = [f"slow 0.05{at:03d}" for at in range(160)]
FAR_TEXTS = [f"far {at}" for at in range(20)]
CUT_SECONDS = 7  # longer than the broker's time limits and three leases


@dataclass
class Hosts:
    """The near host, where the services are and the test runs, and a far one, for a worker."""

    network: Network
    shell: Shell

    def start_workers(self) -> None:
        """One on each host; only the far one serves the queue ``far``."""
        with self.network.on(self.network.far):
            self.shell.start("worker", "--devices", "cpu", "--queues", "far", log="far.log")
        self.shell.start("worker", "--devices", "cpu")
        wait_until(lambda: len(self.shell.workers()) == 2, 60, what="with two live workers")

    def held_far(self) -> dict[int, int]:
        """Chunks that the far worker holds, with the attempt of its claim."""
        far = {row["id"] for row in self.shell.workers() if "far" in row["queues"]}
        chunks = self.shell.rows("chunks")
        return {row["id"]: row["attempt"] for row in chunks if row["lease_owner"] in far}

    def are_done(self, chunk_ids: Iterable[int]) -> bool:
        done = {row["id"] for row in self.shell.rows("chunks") if row["status"] == "done"}
        return done.issuperset(chunk_ids)

    def attempts(self) -> dict[int, int]:
        return {row["id"]: row["attempt"] for row in self.shell.rows("chunks")}

    def submit(self, lines: list[str], *options: str) -> str:
        return self.shell.submit(self.shell.write("texts.txt", "\n".join(lines)), *FAKE, *options)


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    with ExitStack() as stack:
        try:
            network = stack.enter_context(Network(["broker", "database"]))
            stack.enter_context(network.on(network.near))
        except NetworkError as error:
            lacks(f"there are no network namespaces here: {error}")
        valkey = stack.enter_context(ValkeyServer(host=network.address("broker")))
        postgres = stack.enter_context(PostgresServer(host=network.address("database")))
        addresses = {"TEXTMILL_BROKER_URL": valkey.url, "TEXTMILL_DATABASE_URL": postgres.url()}
        shell = Shell(tmp_path, **SETTINGS, **addresses)
        stack.callback(shell.close)
        assert shell.run("db", "upgrade").returncode == 0
        yield Hosts(network, shell)


def test_a_worker_that_is_cut_off_loses_nothing_and_takes_part_again(hosts: Hosts) -> None:
    hosts.start_workers()
    _cut_and_heal(hosts, "broker")
    _cut_and_heal(hosts, "database")
    _cut_and_heal(hosts, "broker", "database")
    blamed = [row for row in hosts.shell.rows("chunks") if row["crashes"] or row["failures"]]
    assert blamed == [], "an outage is no chunk's fault"


def _cut_and_heal(hosts: Hosts, *links: str) -> None:
    shell, network = hosts.shell, hosts.network
    load = hosts.submit(LOAD)
    wait_until(hosts.held_far, 60, what="claimed by the far worker")

    network.cut(*links)
    cut_at = time.monotonic()
    held = hosts.held_far()
    far = hosts.submit(FAR_TEXTS, "--queue", "far")
    wait_until(lambda: hosts.are_done(held), 60, what="done")
    if "database" in links:
        assert all(hosts.attempts()[chunk] > held[chunk] for chunk in held), "by the near worker"
    wait_until(lambda: time.monotonic() - cut_at > CUT_SECONDS, what="cut for long enough")
    assert not _results(shell, far)

    network.heal(*links)
    healed_at = time.monotonic()
    wait_until(lambda: _results(shell, far), 60, what="served by the far worker")
    served_after = time.monotonic() - healed_at
    print(f"cut from {links} for {healed_at - cut_at:.1f} s, served after {served_after:.1f} s")
    wait_until(lambda: not _unfinished(shell), 60, what="completed")
    _assert_complete(shell, load, LOAD)
    _assert_complete(shell, far, FAR_TEXTS)
    assert shell.rows("payloads") == []


def _results(shell: Shell, job: str) -> list[dict[str, Any]]:
    return [row for row in shell.rows("results") if row["job_id"] == job]


def _unfinished(shell: Shell) -> list[str]:
    return [job["id"] for job in shell.rows("jobs") if job["finished_at"] is None]


def _assert_complete(shell: Shell, job_id: str, lines: list[str]) -> None:
    rows = sorted(_results(shell, job_id), key=lambda row: row["record_index"])
    assert [row["output"] for row in rows] == [line.upper() for line in lines]
    (job,) = (job for job in shell.rows("jobs") if job["id"] == job_id)
    assert (job["status"], job["error_records"]) == ("completed", 0)
    assert (job["done_records"], job["total_records"]) == (len(lines), len(lines))


def test_commands_that_are_cut_off_say_so_and_a_watch_goes_on(hosts: Hosts) -> None:
    """The test's own time limit is the proof: without theirs, commands would wait for long."""
    shell, network = hosts.shell, hosts.network
    texts, log = shell.write("texts.txt", "a\n"), shell.folder / "watch.log"
    with network.on(network.far):
        network.cut("broker")
        done = shell.run("submit", texts, *FAKE)
        assert done.returncode == 0, done.stderr
        assert "not dispatched yet" in done.stderr
        watch = shell.start("watch", "last", log=log.name)
        wait_until(lambda: log.exists() and log.read_text(), 60, what="watched")

        network.cut("database")
        assert_user_error(shell.run("submit", texts, *FAKE), "does not answer", code=1)
        wait_until(lambda: "waiting: the database" in log.read_text(), 60, what="waiting")
        network.heal("database", "broker")
        assert shell.run("cancel", "last").returncode == 0
    assert watch.wait(60) == 1
    assert "cancelled" in log.read_text()


@pytest.mark.timeout(90)  # what is not acknowledged is repeated for a quarter of an hour
def test_a_host_that_is_cut_off_inside_copy_is_noticed_by_both_ends(hosts: Hosts) -> None:
    """No time limit for transactions reaches a COPY, neither PostgreSQL's nor ours."""
    settings = load_settings(database_url=hosts.shell.env["TEXTMILL_DATABASE_URL"])
    with ExitStack() as stack:
        near, far = (Database.open(settings, transaction_seconds=1) for _ in range(2))
        stack.callback(near.close)
        stack.callback(far.close)
        freed = False

        def stop_inside_copy(connection: Connection) -> None:
            nonlocal freed
            connection.execute(update(sweeps).values(swept_at=0))
            with connection.connection.cursor().copy("COPY sweeps FROM STDIN") as copy:
                hosts.network.cut("database")
                with hosts.network.on(hosts.network.near):
                    wait_until(lambda: _is_writable(near), 20, what="free of the lost host's lock")
                freed = True
                copy.write("a row that is sent to nobody")

        with hosts.network.on(hosts.network.far), pytest.raises(ServiceUnavailableError):
            far.transact(stop_inside_copy)
        assert freed, "the lost host's lock was held on"


def _is_writable(database: Database) -> bool:
    def write(connection: Connection) -> None:
        connection.execute(update(sweeps).values(swept_at=1))

    try:
        database.transact(write)
    except ServiceUnavailableError:  # its time limit for locks
        return False
    return True
