"""Submitting a job: read the input as a stream, cut chunks, write them to SQL, then dispatch.

Memory is bounded by the records of the batch being written. A submission that fails leaves no half
job; one that succeeds is in SQL, whether or not the broker is there to be told.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import orjson
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from textmill.core.broker import Publisher
from textmill.core.errors import (
    InvalidJobError,
    JobConflictError,
    ServiceUnavailableError,
)
from textmill.core.jobs import BadRecord, JobSpec, JobStatus, Priority, Record
from textmill.core.messages import ChunkMessage
from textmill.core.settings import Settings
from textmill.core.tasks import Task, get_task, nearest, validate_params
from textmill.db import jobs as jobs_db
from textmill.db.dispatch import fill_window, window_size
from textmill.db.jobs import NewChunk
from textmill.db.payloads import compress, encode_record
from textmill.db.results import ResultRow, to_json, write_results
from textmill.db.session import Database
from textmill.producer.model_check import check_model
from textmill.producer.readers import IdCheck, RecordReader

MAX_CHUNK_BYTES = 1 << 20  # of encoded records; long texts make short chunks
FLUSH_RECORDS = 4096  # one write transaction: about 30 ms on SQLite, so others get their turn
FLUSH_BYTES = 8 << 20
LOAD_SECONDS = 120.0  # lease of a loading job, renewed with each flush
POLL_SECONDS = 0.25
QUEUE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
DTYPES = ("auto", "fp32", "bf16", "fp16")


@dataclass(frozen=True, slots=True)
class Submitted:
    """An accepted job."""

    job_id: str
    records: int
    error_records: int
    existing: bool = False  # the key's earlier job answered
    undispatched: str | None = None  # why no message was published yet


class Progress(Protocol):
    """Told how many records were read so far."""

    def __call__(self, records: int, /) -> None: ...


def name_after(files: Sequence[str | Path]) -> str | None:
    """What a job without a name is called: its first file, and how many more there are."""
    if not files:
        return None
    first = "stdin" if str(files[0]) == "-" else Path(files[0]).name
    return first + (f" and {len(files) - 1} more" if len(files) > 1 else "")


def parse_priority(value: str) -> Priority:
    """The priority of this name; raises InvalidJobError that names the nearest right one."""
    known = [priority.value for priority in Priority]
    if value not in known:
        raise InvalidJobError(
            f"priority {value!r} is unknown; expected {', '.join(known)}{nearest(value, known)}"
        )
    return Priority(value)


def validate_spec(spec: JobSpec, settings: Settings) -> JobSpec:
    """The job with its parameters checked and completed by their defaults.

    Raises InvalidJobError before anything is read or written.
    """
    task = get_task(spec.task)
    params = validate_params(task, spec.params)
    if not QUEUE_NAME.fullmatch(spec.queue):
        raise InvalidJobError(
            f"queue {spec.queue!r} is no name: expected letters, digits, '-' and '_', at most 64"
        )
    if spec.dtype not in DTYPES:
        raise InvalidJobError(f"dtype {spec.dtype!r} is unknown; expected: {', '.join(DTYPES)}")
    if spec.max_error_rate is not None and not 0 <= spec.max_error_rate <= 1:
        raise InvalidJobError(
            f"max error rate {spec.max_error_rate!r} is no share of records: expected 0% to 100%"
        )
    check_model(spec.model, task, settings)
    return replace(spec, params=params.model_dump(exclude_defaults=True))


def submit_job(
    database: Database,
    publisher: Publisher,
    spec: JobSpec,
    reader: RecordReader,
    *,
    progress: Progress | None = None,
) -> Submitted:
    """Write the job and its records, dispatch its first chunks, and say what became of it.

    ``spec`` is as ``validate_spec`` returned it. Raises InputError for a bad input (nothing is
    left behind), JobConflictError if the key belongs to other input or the job was cancelled while
    loading, ServiceUnavailableError if the database is away.
    """
    database.transact(jobs_db.remove_dead_loads)  # one may hold the key, with no worker to sweep
    try:
        job_id = database.transact(
            jobs_db.create_job,
            spec,
            extra_columns=reader.extra_columns,
            load_seconds=LOAD_SECONDS,
        )
    except IntegrityError as error:
        if spec.key is None or not jobs_db.is_key_conflict(error):
            raise
        return _earlier_job(database, spec, reader)
    loader = Loader(database, job_id, spec, progress)
    try:
        status = loader.load(reader)
    except BaseException:  # Ctrl-C too: a submission that ends early leaves no half job
        _abandon(database, job_id)
        raise
    undispatched = None
    if status == JobStatus.QUEUED:
        undispatched = dispatch_job(database, publisher, job_id, spec.queue)
    return Submitted(job_id, loader.records, loader.errors, undispatched=undispatched)


def _abandon(database: Database, job_id: str) -> None:
    """Remove a half-loaded job, or at least let go of it."""
    for change in (_delete_loading, jobs_db.expire_load):
        try:
            database.transact(change, job_id)
        except ServiceUnavailableError:
            continue  # its lease ends by itself, and then it is a dead load
        return


def _delete_loading(connection: Connection, job_id: str) -> None:
    jobs_db.delete_job(connection, job_id, expected=JobStatus.LOADING)


def dispatch_job(database: Database, publisher: Publisher, job_id: str, queue: str) -> str | None:
    """Fill the job's window and publish; returns why the broker could not be told, or None."""

    def fill(connection: Connection) -> list[ChunkMessage]:
        return fill_window(connection, job_id, window_size(connection, queue))

    messages = database.transact(fill)
    try:
        publisher.publish(messages)
    except ServiceUnavailableError as error:
        return str(error)
    return None


def _earlier_job(database: Database, spec: JobSpec, reader: RecordReader) -> Submitted:
    """The job that holds the key, if its input is the same; waits while it is loading."""
    key = str(spec.key)
    digest = InputDigest(spec)
    for record in reader:
        digest.add(_encode(record))
    while True:
        with database.read() as connection:
            job = jobs_db.find_job_by_key(connection, key)
        if job is None:
            raise JobConflictError(
                f"the submission that held the key {key!r} failed meanwhile; submit again"
            )
        if job.status != JobStatus.LOADING:
            break
        time.sleep(POLL_SECONDS)
        database.transact(jobs_db.remove_dead_loads)
    if job.input_hash is not None and job.input_hash != digest.value:
        raise JobConflictError(
            f"key {key!r} belongs to job {job.id}, submitted with other records, task, model or "
            "parameters; use a new key for a new job"
        )
    return Submitted(job.id, job.total_records, job.error_records, existing=True)


class InputDigest:
    """SHA-256 over task, model, parameters and every record; equal only for equal jobs.

    A model folder counts by its absolute path: the same script from another folder is the same job.
    """

    def __init__(self, spec: JobSpec) -> None:
        model = jobs_db.absolute_model(spec.model)
        about = [spec.task, model, spec.revision, spec.dtype, spec.params]
        self._hash = hashlib.sha256(orjson.dumps(about, option=orjson.OPT_SORT_KEYS))

    def add(self, line: bytes) -> None:
        """Count one encoded record in."""
        self._hash.update(b"\n")
        self._hash.update(line)

    @property
    def value(self) -> bytes:
        """The 32-byte digest so far."""
        return self._hash.digest()


def _encode(record: Record | BadRecord) -> bytes:
    if isinstance(record, Record):
        return encode_record(record)
    return orjson.dumps((record.index, record.record_id, record.code, record.message, record.extra))


@dataclass(slots=True)
class _Batch:
    """What the next write transaction carries."""

    chunks: list[NewChunk] = field(default_factory=list)
    error_rows: list[ResultRow] = field(default_factory=list)
    records: int = 0
    bytes: int = 0


class Loader:
    """Cuts a stream of records into chunks and writes them in short transactions."""

    def __init__(
        self, database: Database, job_id: str, spec: JobSpec, progress: Progress | None = None
    ) -> None:
        self.records = 0
        self.errors = 0
        self._database = database
        self._job_id = job_id
        self._task: Task = get_task(spec.task)
        self._digest = InputDigest(spec)
        self._progress = progress
        self._batch = _Batch()
        self._lines: list[bytes] = []
        self._line_bytes = 0

    def load(self, reader: RecordReader) -> JobStatus:
        """Write everything and accept the job; returns the status it has then."""
        with IdCheck() as ids:
            check: Callable[[str, int], None] | None = ids.add if reader.id_column else None
            for record in reader:
                if check is not None:
                    check(record.record_id, record.index + 1)
                self._add(record)
            ids.finish()
        self._end_chunk()
        self._flush()
        return self._database.transact(
            jobs_db.finish_loading,
            self._job_id,
            total=self.records,
            errors=self.errors,
            input_hash=self._digest.value,
        )

    def _add(self, record: Record | BadRecord) -> None:
        line = _encode(record)
        self._digest.add(line)
        self.records += 1
        if isinstance(record, BadRecord):
            self._add_error(record)
        else:
            self._lines.append(line)
            self._line_bytes += len(line)
            if len(self._lines) >= self._task.chunk_records or self._line_bytes >= MAX_CHUNK_BYTES:
                self._end_chunk()
        if self._batch.records >= FLUSH_RECORDS or self._batch.bytes >= FLUSH_BYTES:
            self._flush()

    def _add_error(self, record: BadRecord) -> None:
        self.errors += 1
        self._batch.records += 1
        self._batch.error_rows.append(
            ResultRow(
                record.index,
                record.record_id,
                error_code=record.code,
                error_message=record.message,
                extra=to_json(record.extra),
            )
        )

    def _end_chunk(self) -> None:
        if not self._lines:
            return
        self._batch.chunks.append(NewChunk(len(self._lines), compress(self._lines)))
        self._batch.records += len(self._lines)
        self._batch.bytes += self._line_bytes
        self._lines, self._line_bytes = [], 0

    def _flush(self) -> None:
        batch, self._batch = self._batch, _Batch()
        if batch.records:
            self._database.transact(self._write, batch)
        if self._progress is not None:
            self._progress(self.records)

    def _write(self, connection: Connection, batch: _Batch) -> None:
        jobs_db.add_chunks(
            connection,
            self._job_id,
            batch.chunks,
            load_seconds=LOAD_SECONDS,
        )
        write_results(connection, self._job_id, batch.error_rows)


def iter_dry(reader: RecordReader) -> Iterator[Record | BadRecord]:
    """Every record, with duplicate ids found, and nothing written (``--dry-run``)."""
    with IdCheck() as ids:
        for record in reader:
            if reader.id_column:
                ids.add(record.record_id, record.index + 1)
            yield record
        ids.finish()
