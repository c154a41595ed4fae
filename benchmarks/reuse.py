"""What `--reuse` costs a record, against computing it with a small model.

A worker makes the keys of a chunk and asks the database for them in one query. That is timed with
keys that are there and keys that are not, beside a table of many; then a classifier computes texts
of the same kind as a worker's engine does.

    python -m benchmarks.reuse --model FOLDER --texts FILE.tsv --rows 1000000 --json
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.engine_vs_pipeline import CHUNK_RECORDS, EXAMPLE, chunks, read_texts, run_engine
from benchmarks.services import services
from textmill.core.jobs import JobSpec, Record
from textmill.core.params import ClassificationParams
from textmill.core.reuse import ReuseScope
from textmill.core.stored_texts import hash_text
from textmill.db import schema
from textmill.db.jobs import get_job
from textmill.db.loading import create_job
from textmill.db.results import ResultRow, write_results
from textmill.db.reuse import find_answers, keep_answers
from textmill.db.session import Database

WRITTEN_ROWS = 4096  # in one transaction


def main() -> None:
    """Fill the database, time the lookups, then the model; print both."""
    options = _parse_options()
    texts = read_texts(options.texts, options.limit)
    report: dict[str, Any] = {"database": options.database, "rows": options.rows}
    with services(options.database) as settings:
        database = Database.open(settings)
        schema.upgrade(database)
        scope = _fill(database, texts, options.rows)
        known = [_record(texts, number) for number in range(0, options.rows, 7)][: options.lookups]
        unknown = [_record(texts, options.rows + number) for number in range(options.lookups)]
        for name, records in (("found", known), ("not_found", unknown)):
            report[f"lookup_{name}_us"] = _look_up(database, scope, records, name == "found")
        database.close()
    cost, _ = run_engine(texts, options)
    report["model_us"] = round(1e6 / cost.rate(texts), 1)
    report["model_over_lookup"] = round(report["model_us"] / report["lookup_not_found_us"], 1)
    print(
        f"{options.database}, {options.rows:,} results with keys: a record that is found takes "
        f"{report['lookup_found_us']} µs, one that is not {report['lookup_not_found_us']} µs; "
        f"the model takes {report['model_us']} µs a text"
    )
    if options.json:
        print(json.dumps(report))


def _record(texts: list[str], number: int) -> Record:
    text = f"{texts[number % len(texts)]} {number}"
    return Record(number, str(number), {"text": text})


def _fill(database: Database, texts: list[str], rows: int) -> ReuseScope:
    """One job's results with their keys; returns the scope of its records."""
    params = ClassificationParams()
    spec = JobSpec(task="classification", model="m", model_version="v", reuse=True, full_text=False)
    job_id = database.transact(partial(create_job, load_seconds=3600), spec)
    with database.read() as connection:
        job = get_job(connection, job_id)
    scope = ReuseScope.of(
        task=job.task,
        model=job.model,
        version="v",
        dtype=job.dtype,
        params=params,
        store_text=job.store_text,
    )
    for start in range(0, rows, WRITTEN_ROWS):
        records = [
            _record(texts, number) for number in range(start, min(start + WRITTEN_ROWS, rows))
        ]
        with database.write() as connection:
            write_results(connection, job_id, [_result(record) for record in records])
            answers = {scope.key(record): record.index for record in records}
            keep_answers(connection, job_id, answers)
    return scope


def _result(record: Record) -> ResultRow:
    text = str(record.inputs["text"])
    return ResultRow(record.index, record.record_id, text, hash_text(text), "ham", 0.5)


def _look_up(
    database: Database, scope: ReuseScope, records: Sequence[Record], found: bool
) -> float:
    """Microseconds a record, its key included, in chunks as a worker asks."""
    parts = list(chunks(list(records)))
    start = time.perf_counter()
    for part in parts:
        keys = list(dict.fromkeys(scope.key(record) for record in part))
        with database.read() as connection:
            answers = find_answers(connection, keys)
        assert len(answers) == (len(keys) if found else 0)
    return round((time.perf_counter() - start) / len(records) * 1e6, 1)


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.reuse",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", type=Path, default=EXAMPLE / "model")
    parser.add_argument("--texts", type=Path, default=EXAMPLE / "sms_spam.tsv")
    parser.add_argument("--limit", type=int, default=2000, help="texts for the model")
    parser.add_argument("--rows", type=int, default=1_000_000, help="earlier results with keys")
    parser.add_argument("--lookups", type=int, default=40 * CHUNK_RECORDS)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    # As benchmarks.engine_vs_pipeline has them.
    parser.set_defaults(dtype="fp32", device="auto", max_batch_tokens=None)
    return parser.parse_args()


if __name__ == "__main__":
    main()
