"""Jobs, chunks and outcomes made in a real database, for tests of what happens to them next."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Row, Table, delete, func, insert, select, update

from textmill.core.jobs import JobSpec, JobStatus, Record
from textmill.core.messages import ChunkMessage
from textmill.core.settings import load_settings
from textmill.db.chunks import ChunkOutcome, Claim, claim_chunk, complete_chunk
from textmill.db.dispatch import fill_window
from textmill.db.indexing import UnreadIndexes, make_entries
from textmill.db.jobs import get_job
from textmill.db.loading import NewChunk, add_chunks, create_job, finish_loading
from textmill.db.models import chunks, jobs, metadata, payloads, sweeps
from textmill.db.payloads import decode_payload, encode_payload
from textmill.db.results import ResultRow, to_json, write_results
from textmill.db.session import Database

from .entries import empty_words, read_words
from .servers import PostgresServer

LEASE = 60.0
ALL = 1000  # a window wider than any job here


@contextmanager
def open_database(url: str, kind: type[Database] = Database, **options: Any) -> Iterator[Database]:
    """The database as a process opens it; closed at the end."""
    database = kind.open(load_settings(database_url=url), pool_size=10, **options)
    try:
        yield database
    finally:
        database.close()


def with_tables(url: str) -> Iterator[Database]:
    """For a fixture: the database with empty tables (that they equal the migrations' is tested)."""
    with open_database(url) as database:
        with database.write() as connection:
            metadata.create_all(connection, checkfirst=False)
        empty(database)
        yield database


def empty(database: Database) -> None:
    """Delete every row; leave what a migrated database starts with."""
    with database.write() as connection:
        for table in metadata.sorted_tables:
            connection.execute(delete(table))
        empty_words(connection)
        connection.execute(insert(sweeps).values(name="sweep", swept_at=0))


@pytest.fixture(scope="module")
def tables_url(postgres: PostgresServer) -> Iterator[str]:
    """A PostgreSQL database with tables for all tests of a module: making one takes long."""
    url = postgres.create_database()
    for _ in with_tables(url):
        pass
    yield url
    postgres.drop_database(url)


@pytest.fixture
def postgresql(tables_url: str) -> Iterator[Database]:
    """PostgreSQL with empty tables."""
    with open_database(tables_url) as database:
        empty(database)
        yield database


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """Empty tables on SQLite and again on PostgreSQL."""
    if request.param == "sqlite":
        yield from with_tables(f"sqlite:///{tmp_path / 'textmill.db'}")
    else:
        yield request.getfixturevalue("postgresql")


def spec(**fields: Any) -> JobSpec:
    return JobSpec(**{"task": "classification", "model": "org/model", **fields})


def record(index: int) -> Record:
    return Record(index, f"id{index}", {"text": f"text {index}"}, extra={"n": index})


def make_job(
    database: Database,
    sizes: Sequence[int] = (1,),
    *,
    bad: int = 0,
    finish: bool = True,
    load_seconds: float = LEASE,
    extra_columns: Sequence[str] = (),
    **fields: Any,
) -> str:
    """A job with one chunk per size, then ``bad`` rows that could not be read; returns its id."""
    with database.write() as connection:
        job_id = create_job(
            connection, spec(**fields), extra_columns=extra_columns, load_seconds=load_seconds
        )
        start = 0
        for size in sizes:
            payload = encode_payload(map(record, range(start, start + size)))
            new = [NewChunk(size, payload)]
            add_chunks(connection, job_id, new, load_seconds=load_seconds)
            start += size
        rows = [
            ResultRow(n, f"bad{n - start}", error_code="bad_row", extra=to_json({"n": n}))
            for n in range(start, start + bad)
        ]
        indexes = UnreadIndexes(fields.get("index_columns"))
        write_results(connection, job_id, rows, make_entries(indexes, rows, sqlite=True))
        if finish:
            finish_loading(connection, job_id, total=start + bad, errors=bad, input_hash=b"hash")
    return job_id


def dispatch(database: Database, job_id: str, window: int = ALL) -> list[ChunkMessage]:
    return database.transact(fill_window, job_id, window)


def claim(
    database: Database, message: ChunkMessage, worker: str = "w1", lease: float = LEASE
) -> Claim | None:
    return database.transact(
        claim_chunk, message.chunk_id, message.attempt, worker_id=worker, lease_seconds=lease
    )


def claim_all(
    database: Database, job_id: str, worker: str = "w1", lease: float = LEASE
) -> list[Claim]:
    """Dispatch and claim every pending chunk of the job."""
    claims = [claim(database, message, worker, lease) for message in dispatch(database, job_id)]
    return [one for one in claims if one is not None]


def outcome(claimed: Claim, errors: Collection[int] = (), label: str = "ham") -> ChunkOutcome:
    """What a worker would write: an error row for the record indexes in ``errors``."""
    rows = []
    for one in claimed.records:
        text, extra = one.inputs["text"], to_json(one.extra)
        if one.index in errors:
            row = ResultRow(one.index, one.record_id, text, error_code="too_long", extra=extra)
        else:
            row = ResultRow(one.index, one.record_id, text, None, label, 0.9, extra=extra)
        rows.append(row)
    failed = [one for one in claimed.records if one.index in errors]
    good = len(rows) - len(failed)
    return ChunkOutcome(
        rows,
        failed,
        {label: good} if good else {},
        input_tokens=5 * good,
        output_tokens=2 * good,
        device_seconds=0.5,
    )


def with_further_label(done: ChunkOutcome) -> ChunkOutcome:
    """The outcome of a multi-label model: records of odd index have the label "odd" too."""
    for at, row in enumerate(done.rows):
        if row.error_code is None and row.record_index % 2:
            done.rows[at] = row._replace(detail=to_json({"labels": [row.label, "odd"]}))
            done.labels = Counter(done.labels) + Counter(["odd"])
    return done


def indexed(database: Database, claimed: Claim, done: ChunkOutcome) -> ChunkOutcome:
    """The outcome with the entries that its rows are found by, as a worker makes them."""
    done.entries = make_entries(claimed.job, done.rows, sqlite=database.is_sqlite)
    return done


def complete(
    database: Database,
    claimed: Claim,
    errors: Collection[int] = (),
    *,
    label: str = "ham",
    window: int = ALL,
) -> list[ChunkMessage]:
    done = indexed(database, claimed, outcome(claimed, errors, label))
    return database.transact(complete_chunk, claimed, done, window=window)


def put(database: Database, table: Table, where: Any, **values: Any) -> None:
    """Write what no state change would: the past, or another worker's doing."""
    with database.write() as connection:
        connection.execute(update(table).where(where).values(**values))


def put_job(database: Database, job_id: str, status: JobStatus) -> None:
    put(database, jobs, jobs.c.id == job_id, status=status.value)


def job_of(database: Database, job_id: str) -> Row[Any]:
    with database.read() as connection:
        return get_job(connection, job_id)


def counts(database: Database, job_id: str) -> tuple[str, int, int]:
    """The job's status, and how many of its records are done and are errors."""
    job = job_of(database, job_id)
    return job.status, job.done_records, job.error_records


def statuses(database: Database, job_id: str) -> list[str]:
    """The statuses of the job's chunks, by id."""
    with database.read() as connection:
        rows = select(chunks.c.status).where(chunks.c.job_id == job_id).order_by(chunks.c.id)
        return list(connection.scalars(rows))


def waiting_records(database: Database, job_id: str) -> list[int]:
    """The record indexes in the payloads of the job's unfinished chunks."""
    with database.read() as connection:
        data = connection.scalars(
            select(payloads.c.data)
            .join(chunks, chunks.c.id == payloads.c.chunk_id)
            .where(chunks.c.job_id == job_id, chunks.c.status != "done")
        )
        return sorted(one.index for part in data for one in decode_payload(part))


def count(database: Database, table: Table, *where: Any) -> int:
    with database.read() as connection:
        return connection.scalar(select(func.count()).select_from(table).where(*where)) or 0


def snapshot(database: Database) -> dict[str, list[Any]]:
    """Everything in the database, to see that something changed nothing."""
    with database.read() as connection:
        rows = {
            table.name: [
                tuple(row)
                for row in connection.execute(select(table).order_by(*table.primary_key.columns))
            ]
            for table in metadata.sorted_tables
        }
        return rows | {"result_words": sorted(read_words(connection).items())}


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """Run the calls in threads that start together; each one's result, or what it raised."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        barrier.wait(30)
        try:
            return call()
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))
