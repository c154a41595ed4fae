"""Submitting a large CSV: records per second and peak memory of the producer's process.

Compared in the same run with reading the same file by Python's csv module and doing nothing else.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import subprocess
import time
from pathlib import Path

from benchmarks.services import TEXTMILL, services
from textmill.db import schema
from textmill.db.session import Database


def main() -> None:
    """Make the file, submit it, print the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.submit", description=__doc__)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--id-column", action="store_true", help="check ids for duplicates too")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    given = parser.parse_args()
    with services(given.database) as settings:
        database = Database.open(settings)
        schema.upgrade(database)
        database.close()
        source = settings.home / "records.csv"
        _write_csv(source, given.records)
        read_seconds = _time_reading(source)
        seconds, peak_mb = _time_submission(source, given.id_column)
    found = {
        "database": given.database,
        "records": given.records,
        "records_per_s": round(given.records / seconds),
        "peak_rss_mb": round(peak_mb),
        "seconds": round(seconds, 2),
        "csv_module_records_per_s": round(given.records / read_seconds),
    }
    print(f"{given.records:,} records into {given.database}")
    print(f"  textmill submit   {found['records_per_s']:>9,} records/s, peak {peak_mb:.0f} MB")
    print(f"  csv module alone  {found['csv_module_records_per_s']:>9,} records/s")
    if given.json:
        print(json.dumps(found))


def _write_csv(source: Path, records: int) -> None:
    with source.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text", "country"])
        for at in range(records):
            writer.writerow([f"r-{at}", f"message number {at} is about as long as a text", "DE"])


def _time_reading(source: Path) -> float:
    start = time.perf_counter()
    with source.open(newline="") as file:
        for _ in csv.reader(file):
            pass
    return time.perf_counter() - start


def _time_submission(source: Path, id_column: bool) -> tuple[float, float]:
    """Wall seconds of the command, its start included, and its peak memory in MB."""
    command = [str(TEXTMILL), "submit", str(source), "--task", "null", "--model", "none"]
    command += ["--text-column", "text", *(["--id-column", "id"] if id_column else [])]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ)
    seconds = time.perf_counter() - start
    return seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


if __name__ == "__main__":
    main()
