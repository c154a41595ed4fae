"""The broker's memory by the size of a job: a window of messages, however many records there are.

Each size has servers of its own. The worker is up before the job is submitted; from then to the
job's end the broker is asked what it uses and holds. Its own peak is since its start.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import redis

from benchmarks.services import TEXTMILL, process, services, wait_for
from textmill.core.broker import kombu_url, redis_url
from textmill.core.jobs import Priority
from textmill.core.messages import queue_name
from textmill.core.settings import Settings
from textmill.db import schema
from textmill.db.dispatch import window_size
from textmill.db.jobs import get_job
from textmill.db.session import Database
from textmill.db.workers import live_workers

SAMPLE_SECONDS = 0.02
LISTS = [queue_name("default", priority) for priority in Priority]


@dataclass(slots=True)
class Broker:
    """What one size of job cost the broker; memory in bytes."""

    records: int
    idle_memory: int = 0  # the worker connected, no job
    most_memory: int = 0  # sampled, from the submission to the end
    peak_memory: int = 0  # the server's own figure
    most_messages: int = 0  # that wait, or that the worker has not taken up
    most_keys: int = 0
    window: int = 0
    samples: int = 0
    seconds: float = 0


def main() -> None:
    """Run a job of each size and print what the broker needed for it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.broker_memory", description=__doc__)
    parser.add_argument("--records", default="10000,100000,1000000", help="sizes, by comma")
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--chunk-records", type=int, default=1024)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    given = parser.parse_args()
    os.environ["BENCHMARK_CHUNK_RECORDS"] = str(given.chunk_records)
    found = []
    print(
        f"{given.database}, {given.chunk_records} records a chunk, a worker of {given.slots} slots"
    )
    print("    records   idle KB   most KB   peak KB   messages   window   keys   seconds")
    for records in map(int, given.records.split(",")):
        with services(given.database) as settings:
            found.append(measure(settings, records, given.slots))
        _print_row(found[-1])
    if given.json:
        about = {key: getattr(given, key) for key in ("database", "chunk_records", "slots")}
        print(json.dumps(about | {"sizes": [asdict(one) for one in found]}))


def _print_row(one: Broker) -> None:
    memory = [one.idle_memory, one.most_memory, one.peak_memory]
    print(f"{one.records:>11,}", *(f"{value / 1024:>9,.0f}" for value in memory), end="")
    print(
        f"{one.most_messages:>11}{one.window:>9}{one.most_keys:>7}{one.seconds:>10.1f}", flush=True
    )


def measure(settings: Settings, records: int, slots: int) -> Broker:
    """Submit a job of so many records, run it, and watch the broker meanwhile."""
    source = _write_texts(settings.home / "texts.txt", records)
    database = Database.open(settings)
    schema.upgrade(database)
    url = redis_url(kombu_url(settings.effective_broker_url))
    found = Broker(records)
    command = [sys.executable, "-P", "-m", "textmill.workers", "--devices", "cpu"]
    worker = process([*command, "--slots", str(slots)], settings.home / "worker.log")
    with redis.Redis.from_url(url) as client, worker:
        wait_for(lambda: _is_live(database), seconds=60, what="a worker")
        found.idle_memory = int(client.info("memory")["used_memory"])
        with database.read() as connection:
            found.window = window_size(connection, "default")
        start = time.perf_counter()
        _run_job(database, client, found, source)
        found.seconds = round(time.perf_counter() - start, 1)
        found.peak_memory = int(client.info("memory")["used_memory_peak"])
    database.close()
    return found


def _write_texts(source: Path, records: int) -> Path:
    with source.open("w") as file:
        file.writelines(f"text number {at}, as short as a message\n" for at in range(records))
    return source


def _is_live(database: Database) -> bool:
    with database.read() as connection:
        return bool(live_workers(connection))


def _run_job(database: Database, client: redis.Redis, found: Broker, source: Path) -> None:
    words = ["submit", str(source), "--task", "null", "--model", "none"]
    with subprocess.Popen([str(TEXTMILL), *words], stdout=subprocess.PIPE, text=True) as submit:
        while submit.poll() is None:  # a small job may end before the command does
            _sample(client, found)
        job_id = submit.communicate()[0].strip()
    while not _has_ended(database, job_id, found.records):
        _sample(client, found)


def _has_ended(database: Database, job_id: str, records: int) -> bool:
    with database.read() as connection:
        job = get_job(connection, job_id)
    if job.finished_at is not None and (job.status, job.done_records) != ("completed", records):
        raise RuntimeError(f"job is {job.status} with {job.done_records} of {records} records done")
    return job.finished_at is not None


def _sample(client: redis.Redis, found: Broker) -> None:
    # One transaction: a message that moves between two questions would count twice.
    pipeline = client.pipeline(transaction=True)
    pipeline.info("memory")
    pipeline.dbsize()
    pipeline.hlen("unacked")
    for name in LISTS:
        pipeline.llen(name)
    memory, keys, unacked, *lengths = pipeline.execute()
    found.samples += 1
    time.sleep(SAMPLE_SECONDS)
    found.most_memory = max(found.most_memory, int(memory["used_memory"]))
    found.most_keys = max(found.most_keys, keys)
    found.most_messages = max(found.most_messages, unacked + sum(lengths))


if __name__ == "__main__":
    main()
