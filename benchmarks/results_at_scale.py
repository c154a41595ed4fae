"""Ten million results: what writing them costs by index, and how quickly questions are answered.

Two processes write one job's rows as workers do, chunk by chunk, each chunk's entries made before
its transaction: rows per second are shown as a curve. Then each filter is asked for its first page
of 20 rows and for further pages, from the beginning and from the middle of the job.

    python -m benchmarks.results_at_scale --rows 10000000 --database sqlite --json
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, select, text, update

from benchmarks.services import services
from textmill.core.jobs import JobSpec, JobStatus
from textmill.core.stored_texts import hash_text
from textmill.db import loading, schema
from textmill.db.chunks import ChunkOutcome, count_labels_of
from textmill.db.filters import ResultFilter
from textmill.db.indexing import make_entries
from textmill.db.jobs import get_job
from textmill.db.models import jobs, label_counts, results
from textmill.db.queries import count_labels, read_page
from textmill.db.results import ResultRow, write_results
from textmill.db.session import Database

MESSAGES = Path(__file__).parents[1] / "examples" / "sms_spam" / "sms_spam.tsv"
CHUNK = 1024
WRITERS = 2
CURVE = (100_000, 300_000, 1_000_000, 2_000_000, 5_000_000, 10_000_000)
COUNTRIES = ("DE", "FR", "GB", "IN", "US")
PAGE = 20
FURTHER = 20  # pages after the first
RARE = 9973  # one record in so many has the rare word, label, error and country
INDEXES = {index.name: index for index in results.indexes}


def main() -> None:
    """Write the rows, ask, print."""
    options = _parse_options()
    with services(options.database) as settings:
        database = Database.open(settings)
        schema.upgrade(database)
        _drop_indexes(database, options.without)
        job_id = _make_job(database, options)
        curve = write_rows(settings.effective_database_url, job_id, options.rows, options.messages)
        report: dict[str, Any] = {"database": options.database, "rows": options.rows}
        report |= {"full_text": options.full_text, "index_column": options.index_column}
        report |= {"messages": options.messages, "without": options.without, "curve": curve}
        _print_curve(report)
        if not options.no_questions:
            _finish(database, job_id, options.rows)
            report["questions"] = ask(database, job_id, options.rows)
        database.close()
    if options.json:
        print(json.dumps(report))


def write_rows(url: str, job_id: str, rows: int, messages: int) -> list[dict[str, Any]]:
    """Write in parallel and return the curve: rows so far, rows per second since the last mark."""
    context = multiprocessing.get_context("spawn")
    queue: Any = context.Queue()
    ready: Any = context.Barrier(WRITERS + 1)
    writers = [
        context.Process(
            target=_write, args=(url, job_id, rows, messages, at, ready, queue), daemon=True
        )
        for at in range(WRITERS)
    ]
    for writer in writers:
        writer.start()
    ready.wait()
    start = time.perf_counter()
    last_rows, last_time, written = 0, start, 0
    curve = []
    marks = iter([*(mark for mark in CURVE if mark < rows), rows])
    mark = next(marks)
    while written < rows:
        written += queue.get(timeout=600)
        if written >= mark:
            moment = time.perf_counter()
            rate = (written - last_rows) / (moment - last_time)
            mean = written / (moment - start)
            curve.append(
                {"rows": written, "rows_per_s": round(rate), "mean_rows_per_s": round(mean)}
            )
            print(f"  {written:>12,} rows  {rate:>9,.0f} rows/s  {mean:>9,.0f} in the mean")
            last_rows, last_time = written, moment
            mark = next(marks, rows + 1)
    for writer in writers:
        writer.join()
    return curve


def _write(
    url: str, job_id: str, rows: int, messages: int, writer: int, ready: Any, queue: Any
) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    database = Database(url)
    with database.read() as connection:
        job = get_job(connection, job_id)
    texts = [line.split("\t")[3] for line in MESSAGES.read_text("utf-8").splitlines()[1:]]
    ready.wait()
    for start in range(writer * CHUNK, rows, WRITERS * CHUNK):
        if not parent.is_alive():
            break
        made = list(make_rows(texts, messages, start, min(start + CHUNK, rows)))
        entries = make_entries(job, made, sqlite=database.is_sqlite)
        labels = Counter(row.label for row in made if row.label)
        outcome = ChunkOutcome(made, [], labels, entries)
        database.transact(_complete, job_id, outcome)
        queue.put(len(made))
    database.close()


def _complete(connection: Connection, job_id: str, outcome: ChunkOutcome) -> None:
    """What a completed chunk writes but for its chunk's own row."""
    write_results(connection, job_id, outcome.rows, outcome.entries)
    count_labels_of(connection, job_id, outcome.labels)


def make_rows(texts: list[str], messages: int, start: int, end: int) -> Iterator[ResultRow]:
    """Rows of a spam filter over so many messages a row, joined: of two, few are equal."""
    draw = random.Random(start)
    pick, bits, row = draw.random, draw.getrandbits, ResultRow._make
    count, countries = len(texts), len(COUNTRIES)
    for index in range(start, end):
        message = texts[int(pick() * count)]
        for _ in range(messages - 1):
            message += f" {texts[int(pick() * count)]}"
        rare = index % RARE == RARE - 1
        if rare:
            message += " zebra"
        country = "MT" if rare else COUNTRIES[int(pick() * countries)]
        label, score, tokens, code, why = None, None, None, None, None
        if index % 100 == 7:
            code, why = "rare_error" if index % (100 * RARE) == 7 else "text_too_long", "600 tokens"
        else:
            label = "unsure" if rare else ("spam" if pick() < 0.13 else "ham")
            score, tokens = pick(), len(message) // 4
        record_id, text_hash = f"r{bits(48):x}", hash_text(message)
        extra = f'{{"country":"{country}","page":{index // 7}}}'
        answer = (label, score, None, None, None)  # without output, vector and detail
        yield row(
            (index, record_id, message, text_hash, *answer, code, why, extra, tokens, 0, None)
        )


def ask(database: Database, job_id: str, rows: int) -> list[dict[str, Any]]:
    """Seconds of first and further pages of each filter, and of counting by label."""
    with database.read() as connection:
        job = get_job(connection, job_id)
        middle = connection.execute(
            select(results.c.record_id, results.c.score).where(
                results.c.job_id == job_id, results.c.record_index == rows // 2
            )
        ).one()
    asked: dict[str, dict[str, Any]] = {
        "everything": {},
        "label, frequent": {"label": "ham"},
        "label, rare": {"label": "unsure"},
        "score from 0.99999": {"min_score": 0.99999},
        "score from 0.5": {"min_score": 0.5},
        "label and score": {"label": "spam", "min_score": 0.9},
        "errors": {"errors": True},
        "error code, rare": {"error_code": "rare_error"},
        "record id": {"record_id": middle.record_id},
        "column, frequent": {"where": {"country": "DE"}},
        "column, rare": {"where": {"country": "MT"}},
        "by score": {"order": "score"},
        "label, by score": {"label": "spam", "order": "score"},
        "column and label": {"where": {"country": "MT"}, "label": "unsure"},
    }
    if job.full_text:
        asked |= {
            "word, frequent": {"search": "you"},
            "word, rare": {"search": "zebra"},
            "two words": {"search": "free prize"},
            "phrase": {"search": '"call now"'},
            "prefix": {"search": "congrat*"},
            "either, without": {"search": "(win OR prize) -call"},
            "word and label": {"search": "zebra", "label": "unsure"},
            "word by score": {"search": "prize", "order": "score"},
            "rare word by score": {"search": "zebra", "order": "score"},
            "prefix by score": {"search": "congrat*", "order": "score"},
        }
    found = [_ask_pages(database, job, name, wanted) for name, wanted in asked.items()]
    start = time.perf_counter()
    with database.read() as connection:
        count_labels(connection, job_id)
    found.append({"question": "count by label", "first_s": time.perf_counter() - start})
    print(f"  {'counting by label':24} {found[-1]['first_s'] * 1000:>9.1f} ms")
    return found


def _ask_pages(
    database: Database, job: Row[Any], name: str, wanted: dict[str, Any]
) -> dict[str, Any]:
    seconds: list[float] = []
    after: str | None = None
    rows = 0
    for _ in range(1 + FURTHER):
        start = time.perf_counter()
        page = read_page(database, job, ResultFilter(**wanted, after=after), PAGE)
        seconds.append(time.perf_counter() - start)
        rows += len(page.rows)
        after = page.after
        if after is None:
            break
    further = seconds[1:] or [0.0]
    middle = None
    if wanted.get("order") != "score":
        start = time.perf_counter()
        read_page(database, job, ResultFilter(**wanted, after=str(job.total_records // 2)), PAGE)
        middle = time.perf_counter() - start
    print(
        f"  {name:24} {rows:>5} rows  first {seconds[0] * 1000:>9.1f} ms"
        f"  further {statistics.median(further) * 1000:>7.1f} ms, worst {max(further) * 1000:>7.1f}"
        + ("" if middle is None else f"  from the middle {middle * 1000:>7.1f}")
    )
    return {
        "question": name,
        "rows": rows,
        "first_s": seconds[0],
        "further_median_s": statistics.median(further),
        "further_worst_s": max(further),
        "middle_s": middle,
    }


def _make_job(database: Database, options: argparse.Namespace) -> str:
    spec = JobSpec(
        task="classification",
        model="none",
        full_text=options.full_text,
        index_columns=("country",) if options.index_column else (),
    )
    return database.transact(
        loading.create_job, spec, extra_columns=["country", "page"], load_seconds=86400
    )


def _finish(database: Database, job_id: str, rows: int) -> None:
    with database.write() as connection:
        errors = len(range(7, rows, 100))
        connection.execute(
            update(jobs)
            .where(jobs.c.id == job_id)
            .values(
                status=JobStatus.COMPLETED_WITH_ERRORS.value,
                total_records=rows,
                done_records=rows - errors,
                error_records=errors,
            )
        )
        assert connection.scalar(select(label_counts.c.records).limit(1))
    if not database.is_sqlite:  # autovacuum does it within a minute of a table's growth
        with database.engine.connect().execution_options(
            isolation_level="AUTOCOMMIT"
        ) as connection:
            connection.execute(text("VACUUM ANALYZE"))


def _drop_indexes(database: Database, names: list[str]) -> None:
    with database.write() as connection:
        for name in names:
            connection.execute(text(f"DROP INDEX {name}"))


def _print_curve(report: dict[str, Any]) -> None:
    words = "with full text" if report["full_text"] else "without full text"
    dropped = ", ".join(report["without"]) or "none"
    words += ", a declared column" if report["index_column"] else ""
    mean = report["curve"][-1]["mean_rows_per_s"]
    print(f"{report['database']}, {words}, indexes left out: {dropped}: {mean:,} rows/s")


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.results_at_scale",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--messages", type=int, default=1, help="of 16 words each in a row's text")
    parser.add_argument("--full-text", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument(
        "--index-column",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="declare the column country, which the questions need",
    )
    parser.add_argument(
        "--without", nargs="*", default=[], choices=sorted(INDEXES), help="indexes to leave out"
    )
    parser.add_argument("--no-questions", action="store_true", help="only the curve")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    return parser.parse_args()


if __name__ == "__main__":
    main()
