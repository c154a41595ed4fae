"""Exports of a large job: rows per second and peak memory of `textmill results --out`, by format.

Compared in the same run with a plain loop over result objects and Python's csv module.
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Row, update

from benchmarks.services import services
from textmill.core.jobs import JobSpec
from textmill.core.stored_texts import hash_text
from textmill.db import schema
from textmill.db.jobs import get_job
from textmill.db.loading import create_job, finish_loading
from textmill.db.models import jobs
from textmill.db.queries import ResultFilter, iter_results
from textmill.db.results import ResultRow, write_results
from textmill.db.session import Database

COUNTRIES = ("DE", "FR", "US", "GB", "IT")
WRITTEN_ROWS = 20_000  # in one transaction
COMPARED_ROWS = 50_000
OUTS = {
    "csv": "out.csv",
    "parquet": "out.parquet",
    "tsv": "out.tsv",
    "jsonl": "out.jsonl",
    "arrow": "out.arrow",
    "datasets": "out",
    "csv, safe": "safe.csv",
    "csv.zst": "out.csv.zst",
    "csv.gz": "out.csv.gz",
}
# The peak of this program alone: what a new process inherits counts in getrusage, and not here.
RUN = """
import sys
from textmill.producer.cli.main import app
try:
    app(sys.argv[1:])
except SystemExit as end:
    assert not end.code, end.code
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def main() -> None:
    """Fill a job, export it in each format, print the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exports", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--all", action="store_true", help="every format, not CSV and Parquet only")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    given = parser.parse_args()
    with services(given.database) as settings:
        database = Database.open(settings)
        schema.upgrade(database)
        start = time.perf_counter()
        job = _fill(database, given.rows)
        print(f"{given.rows:,} rows written in {time.perf_counter() - start:.0f} s")
        plain = _loop(database, job, settings.home / "plain.csv")
        database.close()
        wanted = list(OUTS) if given.all else ["csv", "parquet"]
        found = {name: _export(name, job.id, given.rows, settings.home) for name in wanted}
    for name, one in found.items():
        print(
            f"  {name:10} {one['rows_per_s']:>9,} rows/s, {one['cpu_us_per_row']:>5} µs of CPU, "
            f"peak {one['peak_mb']:>4} MB, {one['file_mb']:>6,} MB written"
        )
    print(f"  a plain loop with the csv module {plain:>9,} rows/s")
    if given.json:
        figures = {"database": given.database, "rows": given.rows, "formats": found}
        print(json.dumps({**figures, "plain_loop_csv_rows_per_s": plain}))


def _fill(database: Database, rows: int) -> Row[Any]:
    spec = JobSpec(task="classification", model="org/model")
    with database.write() as connection:
        job_id = create_job(connection, spec, load_seconds=3600)
    for at in range(0, rows, WRITTEN_ROWS):
        page = list(_results(at, min(rows, at + WRITTEN_ROWS)))
        database.transact(write_results, job_id, page)
    with database.write() as connection:
        finish_loading(connection, job_id, total=rows, errors=0, input_hash=b"hash")
        columns = (
            update(jobs).where(jobs.c.id == job_id).values(extra_columns=["country", "author"])
        )
        connection.execute(columns)
        return get_job(connection, job_id)


def _results(start: int, end: int) -> Iterator[ResultRow]:
    for at in range(start, end):
        text = f"message number {at} is about as long as a short message, and has a comma"
        score = 0.5 + (at % 4999) / 10_000
        label, other = ("spam", "ham") if at % 7 == 0 else ("ham", "spam")
        yield ResultRow(
            at,
            f"r-{at}",
            text,
            hash_text(text),
            label,
            score,
            detail=f'{{"scores":{{"{label}":{score:.4f},"{other}":{1 - score:.4f}}}}}',
            extra=f'{{"country":"{COUNTRIES[at % 5]}","author":"author {at % 1000}"}}',
            input_tokens=17 + at % 9,
        )


def _loop(database: Database, job: Row[Any], out: Path) -> int:
    rows = iter_results(database, job, ResultFilter(limit=COMPARED_ROWS))
    start = time.perf_counter()
    count = 0
    with out.open("w", newline="") as file:
        writer = csv.writer(file)
        for count, row in enumerate(rows, 1):  # noqa: B007 - the last value is the result
            extra = row.extra or {}
            cells = [row.record_index, row.record_id, row.text, row.label, row.score]
            writer.writerow([*cells, json.dumps(row.detail), extra["country"], extra["author"]])
    return round(count / (time.perf_counter() - start))


def _export(name: str, job_id: str, rows: int, folder: Path) -> dict[str, float]:
    out = folder / OUTS[name]
    words = ["results", job_id, "--out", str(out)]
    words += ["--format", "datasets"] if name == "datasets" else []
    words += ["--spreadsheet-safe"] if name == "csv, safe" else []
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", RUN, *words], stdout=subprocess.PIPE, text=True, check=True
    )
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    files = [out] if out.is_file() else list(out.iterdir())
    written = sum(file.stat().st_size for file in files)
    for file in files:
        file.unlink()
    return {
        "rows_per_s": round(rows / seconds),
        "cpu_us_per_row": round(cpu_seconds / rows * 1e6, 1),
        "peak_mb": round(int(done.stdout) / 1024),
        "file_mb": round(written / 1e6),
    }


if __name__ == "__main__":
    main()
