"""How soon the chunks of a killed worker are claimed again, in lease times.

Two hosts, each a supervisor with one worker, run a job of ten-record chunks that take a tenth of a
second. In one kind of round the worker alone is killed (SIGKILL) while it holds chunks, in the
other the supervisor with it, as when a machine is lost. Measured is the time until the last of the
chunks that it held is claimed by another worker, by a look at the database every few milliseconds.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import time

from tests.acceptance.faults.mill import LEASE_SECONDS, Mill, Servers, send
from tests.acceptance.faults.observer import Observer
from tests.plugins import fake_tasks as _registered  # noqa: F401 - the task of the job
from tests.servers import wait_until
from textmill.core.jobs import JobSpec
from textmill.producer.readers import ReadOptions, records_from_objects
from textmill.producer.submit import submit_job

RECORDS = 3000
KILLED = ("worker", "host")


def main() -> None:
    """Print median and worst for each kind of kill."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recovery", description=__doc__)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--rounds", type=int, default=10, help="of each kind")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    given = parser.parse_args()
    seconds: dict[str, list[float]] = {killed: [] for killed in KILLED}
    with Servers(given.database) as servers:
        for _ in range(given.rounds):
            for killed in KILLED:
                seconds[killed].append(measure(servers, killed))
    found = {
        f"{killed}_{name}_leases": round(of(seconds[killed]) / LEASE_SECONDS, 2)
        for killed in KILLED
        for name, of in (("median", statistics.median), ("worst", max))
    }
    for killed in KILLED:
        median, worst = found[f"{killed}_median_leases"], found[f"{killed}_worst_leases"]
        print(f"{killed} killed: claimed again after {median} leases (median), {worst} (worst)")
    if given.json:
        fixed = {"database": given.database, "rounds": given.rounds, "lease_seconds": LEASE_SECONDS}
        print(json.dumps(fixed | found))


def measure(servers: Servers, killed: str) -> float:
    """One kill in the middle of a job of its own; the seconds until it is overcome."""
    with Mill(servers) as mill:
        observer = Observer(mill.database)
        wait_until(lambda: len(observer.look().workers) == len(mill.hosts), 60, what="up")
        rows = [{"text": f"slow 0.01 {at}"} for at in range(RECORDS)]
        reader = records_from_objects(rows, ["text"], ReadOptions())
        spec = JobSpec(task="fake", model="m")
        submit_job(mill.database, mill.publisher, spec, reader)
        wait_until(lambda: observer.look().done > 20, 60, what="under way")
        host = mill.hosts[0]
        victims = host.processes()
        pid = victims[-1].pid
        wait_until(lambda: observer.look().held_by(pid), 60, what="holding chunks", every=0.001)
        for process in victims if killed == "host" else victims[-1:]:
            send(process, signal.SIGKILL)
        began = time.monotonic()
        held = observer.look().held_by(pid)

        def claimed_again() -> bool:
            view = observer.look()
            return all(view.chunks[chunk].attempt > attempt for chunk, attempt in held.items())

        wait_until(claimed_again, 60, what="claimed again", every=0.005)
        return time.monotonic() - began


if __name__ == "__main__":
    main()
