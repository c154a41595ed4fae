"""The fixed cost per text: a runner that does nothing, SQL → Valkey → Celery → SQL.

Compared in the same run with one Celery task per text (see task_per_text.py). The workers are up
before the job is submitted; its time is from the first claim to the end, by the database's clock.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from typing import Any

from sqlalchemy import func, select, text

from benchmarks.services import process, services, textmill, wait_for
from textmill.core.settings import Settings
from textmill.db import schema
from textmill.db.clock import now
from textmill.db.jobs import get_job
from textmill.db.models import results
from textmill.db.session import Database
from textmill.db.workers import live_workers


def main() -> None:
    """Measure both sides and print them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fixed_cost", description=__doc__)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--indexes", choices=["none", "default"], default="default")
    parser.add_argument("--full-text", action="store_true", help="index the words too")
    parser.add_argument("--texts", type=int, default=200_000)
    parser.add_argument("--chunk-records", type=int, default=4096)
    parser.add_argument("--workers", type=int, default=2, help="worker processes")
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--single-texts", type=int, default=3000, help="for one task per text")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    given = parser.parse_args()
    os.environ["BENCHMARK_CHUNK_RECORDS"] = str(given.chunk_records)
    with services(given.database) as settings:
        database = Database.open(settings)
        schema.upgrade(database)
        if given.indexes == "none":
            _drop_indexes(database)
        rate = measure_job(database, settings, given)
        single = measure_task_per_text(database, settings, given.single_texts)
        database.close()
    found = {
        "database": given.database,
        "indexes": given.indexes,
        "full_text": given.full_text,
        "texts": given.texts,
        "chunk_records": given.chunk_records,
        "workers": given.workers,
        "slots": given.slots,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "texts_per_s": round(rate),
        "task_per_text_texts_per_s": round(single),
        "ratio_to_task_per_text": round(rate / single, 1),
    }
    print(f"{given.database}, indexes {given.indexes}, {given.chunk_records} records a chunk")
    print(f"  textmill            {rate:>9,.0f} texts/s")
    print(f"  one task per text   {single:>9,.0f} texts/s   ratio {rate / single:.0f}")
    if given.json:
        print(json.dumps(found))


def _drop_indexes(database: Database) -> None:
    with database.write() as connection:
        for index in results.indexes:
            connection.execute(text(f"DROP INDEX {index.name}"))


def measure_job(database: Database, settings: Settings, given: argparse.Namespace) -> float:
    """Texts per second of one job."""
    texts, workers = given.texts, given.workers
    source = settings.home / "texts.txt"
    with source.open("w") as file:
        file.writelines(f"text number {at}, as short as a message\n" for at in range(texts))
    command = [sys.executable, "-P", "-m", "textmill.workers"]
    command += ["--devices", ",".join(["cpu"] * workers), "--slots", str(given.slots)]
    with process(command, settings.home / "worker.log"):
        wait_for(lambda: _live(database) == workers, seconds=60, what="workers")
        words = "--full-text" if given.full_text else "--no-full-text"
        job_id = textmill("submit", str(source), "--task", "null", "--model", "none", words)
        wait_for(lambda: _ended(database, job_id), seconds=600, what="the job")
    with database.read() as connection:
        job: Any = get_job(connection, job_id)
        rows = connection.scalar(select(func.count()).select_from(results))
    if (job.status, rows) != ("completed", texts):
        raise RuntimeError(f"job is {job.status} with {rows} rows of {texts}")
    return float(texts / (job.finished_at - job.started_at))


def _live(database: Database) -> int:
    with database.read() as connection:
        return len(live_workers(connection))


def _ended(database: Database, job_id: str) -> bool:
    with database.read() as connection:
        return get_job(connection, job_id).finished_at is not None


def measure_task_per_text(database: Database, settings: Settings, texts: int) -> float:
    """Texts per second of one Celery task per text, from the first row to the last."""
    os.environ["BENCHMARK_BROKER_URL"] = settings.effective_broker_url
    os.environ["BENCHMARK_DATABASE_URL"] = settings.effective_database_url
    from benchmarks import task_per_text as other

    other.app.conf.broker_url = settings.effective_broker_url
    with database.write() as connection:
        other.metadata.create_all(connection)
    for at in range(texts):
        other.classify_text.delay(at, f"text number {at}, as short as a message")
    command = [sys.executable, "-m", "celery", "-A", "benchmarks.task_per_text", "worker"]
    command += ["--concurrency", "2", "--loglevel", "WARNING"]
    times: list[tuple[float, int]] = []

    def done() -> bool:
        with database.read() as connection:
            moment = connection.scalar(select(now()))
            count = connection.scalar(select(func.count()).select_from(other.rows)) or 0
        if count:
            times.append((float(moment or 0), count))
        return count >= texts

    with process(command, settings.home / "single.log"):
        wait_for(done, seconds=300, what="single tasks")
    (start, before), (end, after) = times[0], times[-1]
    return (after - before) / (end - start)


if __name__ == "__main__":
    main()
