"""How soon work goes on after the broker or the database was away under load, with the defaults.

Two worker processes run a job of texts that take 20 ms each. The service is ended (the broker by
SIGKILL, with all it holds; PostgreSQL by an immediate shutdown), stays away for the given time and
is started again. Measured is the time from its first answer to the first chunk completed after it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from benchmarks.services import ROOT, process, textmill, wait_for
from tests.servers import PostgresServer, ValkeyServer
from textmill.core.settings import load_settings
from textmill.db.models import chunks, jobs, results, workers
from textmill.db.session import Database

WORKERS = 2


def main() -> None:
    """Let the service go away and come back, and print how long the work took to do so."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.outage", description=__doc__)
    parser.add_argument("--service", choices=["broker", "database"], required=True)
    parser.add_argument("--seconds", type=float, default=60, help="how long it is away")
    parser.add_argument("--records", type=int, default=4000)
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    given = parser.parse_args()
    with servers() as (broker, postgres):
        textmill("db", "upgrade")
        database = Database.open(load_settings())
        found = measure(given, database, broker if given.service == "broker" else postgres)
        database.close()
    print(f"{given.service} away for {given.seconds:g} s")
    print(f"  the next chunk was completed after {found['first_chunk_seconds']:.1f} s")
    print(f"  {found['claimed_again']} chunks were claimed again", end="")
    print(f", {found['replaced_workers']} of {WORKERS} worker processes replaced")
    print(f"  job {found['status']}, {found['results']} results of {given.records} records")
    if given.json:
        print(json.dumps(found))


@contextmanager
def servers() -> Iterator[tuple[ValkeyServer, PostgresServer]]:
    """Both services, and the environment that names them to child processes."""
    with (
        tempfile.TemporaryDirectory(prefix="textmill-bench-") as home,
        ValkeyServer() as broker,
        PostgresServer(synchronous_commit="on") as postgres,
    ):
        os.environ |= {
            "TEXTMILL_HOME": home,
            "TEXTMILL_PLUGINS": "fake_tasks",
            "TEXTMILL_BROKER_URL": broker.url,
            "TEXTMILL_DATABASE_URL": postgres.create_database(),
            "PYTHONPATH": str(ROOT / "tests" / "plugins"),
        }
        yield broker, postgres


def measure(
    given: argparse.Namespace, database: Database, service: ValkeyServer | PostgresServer
) -> dict[str, Any]:
    """One outage in the middle of one job; the report."""
    home = Path(os.environ["TEXTMILL_HOME"])
    texts = home / "texts.txt"
    texts.write_text("\n".join(f"slow 0.020{at:05d}" for at in range(given.records)))
    command = [sys.executable, "-P", "-m", "textmill.workers"]
    command += ["--devices", ",".join(["cpu"] * WORKERS)]
    with process(command, home / "worker.log"):
        wait_for(lambda: len(_pids(database)) == WORKERS, seconds=60, what="workers")
        before = _pids(database)
        textmill("submit", str(texts), "--task", "fake", "--model", "m")
        wait_for(lambda: _results(database) > given.records / 20, seconds=60, what="results")
        if isinstance(service, PostgresServer):
            service.crash()
        else:
            service.kill()
        time.sleep(given.seconds)
        done = 0 if isinstance(service, PostgresServer) else _results(database)
        service.start()
        back = time.monotonic()
        done = done or _results(database)
        wait_for(lambda: _results(database) > done, seconds=300, what="the next chunk")
        first_chunk_seconds = time.monotonic() - back
        wait_for(lambda: _job(database).finished_at is not None, seconds=600, what="the job")
        return {
            "service": given.service,
            "away_seconds": given.seconds,
            "records": given.records,
            "first_chunk_seconds": round(first_chunk_seconds, 2),
            "claimed_again": _claimed_again(database),
            "replaced_workers": len(before - _pids(database)),
            "status": _job(database).status,
            "results": _results(database),
        }


def _results(database: Database) -> int:
    with database.read() as connection:
        return connection.scalar(select(func.count()).select_from(results)) or 0


def _claimed_again(database: Database) -> int:
    with database.read() as connection:
        return connection.scalar(select(func.count()).where(chunks.c.attempt > 1)) or 0


def _pids(database: Database) -> set[int]:
    with database.read() as connection:
        return set(connection.scalars(select(workers.c.pid)))


def _job(database: Database) -> Any:
    with database.read() as connection:
        return connection.execute(select(jobs)).one()


if __name__ == "__main__":
    main()
