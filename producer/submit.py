"""Submitting a job: check it, have its input loaded into SQL, then dispatch.

Memory is bounded by the records of the batch being written. A submission that fails leaves no half
job; one that succeeds is in SQL, whether or not the broker is there to be told.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row
from sqlalchemy.exc import IntegrityError

from textmill.core.broker import Publisher
from textmill.core.errors import (
    InvalidJobError,
    JobConflictError,
    ServiceUnavailableError,
)
from textmill.core.jobs import BadRecord, JobSpec, JobStatus, Priority, Record
from textmill.core.messages import ChunkMessage, require_queue
from textmill.core.settings import Settings
from textmill.core.storable import iter_texts, require_storable
from textmill.core.stored_texts import StoreText, key_id, require_key
from textmill.core.tasks import get_task, nearest, validate_params
from textmill.db import dead_loads
from textmill.db import jobs as jobs_db
from textmill.db import loading as loading_db
from textmill.db.dispatch import fill_window, publish, window_size
from textmill.db.reuse import make_reusable
from textmill.db.session import Database
from textmill.producer.loader import InputDigest, Loader, OnWait, Progress, encode_input
from textmill.producer.model_check import check_model
from textmill.producer.readers import IdCheck, RecordRules, Records

POLL_SECONDS = 0.25
DTYPES = ("auto", "fp32", "bf16", "fp16", "int8")


@dataclass(frozen=True, slots=True)
class Submitted:
    """An accepted job."""

    job_id: str
    records: int
    error_records: int
    existing: bool = False  # the key's earlier job answered
    undispatched: str | None = None  # why no message was published yet


def name_after(files: Sequence[str | Path]) -> str | None:
    """What a job without a name is called: its first file, and how many more there are.

    A file's name may hold bytes that are not UTF-8, which a database does not take.
    """
    if not files:
        return None
    first = "stdin" if str(files[0]) == "-" else _as_unicode(Path(files[0]).name)
    return first + (f" and {len(files) - 1} more" if len(files) > 1 else "")


def _as_unicode(name: str) -> str:
    return name.encode(errors="replace").decode()


def parse_priority(value: str) -> Priority:
    """The priority of this name; raises InvalidJobError that names the nearest right one."""
    known = [priority.value for priority in Priority]
    if value not in known:
        raise InvalidJobError(
            f"priority {value!r} is unknown; expected {', '.join(known)}{nearest(value, known)}"
        )
    return Priority(value)


def validate_spec(spec: JobSpec, settings: Settings) -> tuple[JobSpec, RecordRules]:
    """The job with its options checked and its model looked into, and how its records are read.

    Raises InvalidJobError before anything is read or written.
    """
    _check_texts(spec)
    task = get_task(spec.task)
    params = validate_params(task, spec.params)
    require_queue(spec.queue)
    if spec.dtype not in DTYPES:
        raise InvalidJobError(f"dtype {spec.dtype!r} is unknown; expected: {', '.join(DTYPES)}")
    params.check_dtype(spec.dtype)
    if spec.max_error_rate is not None and not 0 <= spec.max_error_rate <= 1:
        raise InvalidJobError(
            f"max error rate {spec.max_error_rate!r} is no share of records: expected 0% to 100%"
        )
    if spec.reuse and spec.store_text == StoreText.NONE:
        raise InvalidJobError(
            "--reuse finds nothing with --store-text none: results that keep nothing of their "
            "texts have no keys to be found by, and results that keep some differ from theirs; "
            "leave out --reuse, or take --store-text hash"
        )
    model = check_model(spec, task, params, settings)
    hashes = spec.store_text == StoreText.HASH
    checked = replace(
        spec,
        params=params.model_dump(exclude_defaults=True),
        model_version=model.version,
        chunk_records=task.prompted_chunk_records if model.writes_text else None,
        hash_key_id=key_id(require_key(settings.hash_key_bytes)) if hashes else None,
    )
    return checked, RecordRules(task, params, spec.store_text)


def _check_texts(spec: JobSpec) -> None:
    """Raise InvalidJobError for a text of the job that a database would not take."""
    require_storable("model", spec.model)
    for name in ("revision", "name", "key"):
        if (value := getattr(spec, name)) is not None:
            require_storable(name, value)
    # Of a script whose variable is unset: every later submission would be taken for the first.
    if spec.key is not None and not spec.key.strip():
        raise InvalidJobError(
            f"key is {spec.key!r}; expected a text that is not blank, or no key for a new job "
            "each time"
        )
    for option, value in spec.params.items():
        for text in iter_texts(value):
            require_storable(option, text)


def submit_job(
    database: Database,
    publisher: Publisher,
    spec: JobSpec,
    reader: Records,
    *,
    lease_seconds: float = 60,
    hash_key: bytes | None = None,
    progress: Progress | None = None,
    on_wait: OnWait = lambda reason: None,
    on_reusable: Callable[[int], None] = lambda records: None,
) -> Submitted:
    """Write the job and its records, dispatch its first chunks, and say what became of it.

    ``spec`` is as ``validate_spec`` returned it, ``hash_key`` that of the settings. Raises
    InputError for a bad input (nothing is left behind), JobConflictError if the key belongs to
    other input or the job was cancelled while loading, ServiceUnavailableError if the database is
    away: at once if it is away at the start, later only after ``lease_seconds``. ``on_wait`` is
    called when a wait begins, ``on_reusable`` with the number of earlier results that were looked
    at for a job that reuses them.
    """
    check_index_columns(spec, reader)
    if spec.reuse and (looked_at := make_reusable(database, spec, secret=hash_key)):
        on_reusable(looked_at)
    dead_loads.remove_dead_loads(database)  # one may hold the key, with no worker to sweep
    job_id = _create_job(database, spec, reader, lease_seconds, on_wait)
    if not isinstance(job_id, str):
        return _same_job(job_id, InputDigest(spec, hash_key), reader)
    loader = Loader(
        database,
        job_id,
        spec,
        lease_seconds=lease_seconds,
        hash_key=hash_key,
        progress=progress,
        on_wait=on_wait,
    )
    try:
        status = loader.load(reader)
    except BaseException:  # Ctrl-C too: a submission that ends early leaves no half job
        _abandon(database, job_id)
        raise
    undispatched = None
    if status == JobStatus.QUEUED:
        undispatched = dispatch_job(database, publisher, job_id, spec.queue)
    return Submitted(job_id, loader.records, loader.errors, undispatched=undispatched)


def check_index_columns(spec: JobSpec, reader: Records) -> None:
    """Raise InvalidJobError for a declared column that results do not keep."""
    for name in spec.index_columns:
        if not name or name not in reader.extra_columns:  # no name means another thing in SQL
            known = ", ".join(reader.extra_columns) or "none"
            raise InvalidJobError(
                f"no column {name!r} to index; the results keep of other columns: {known}"
                f"{nearest(name, reader.extra_columns)}"
            )


def _create_job(
    database: Database, spec: JobSpec, reader: Records, lease_seconds: float, on_wait: OnWait
) -> str | Row[Any]:
    """The new job's id, or the earlier job that holds the key."""
    while True:
        try:
            return database.transact(
                loading_db.create_job,
                spec,
                extra_columns=reader.extra_columns,
                load_seconds=lease_seconds,
            )
        except IntegrityError as error:
            if spec.key is None or not loading_db.is_key_conflict(error):
                raise
        earlier = _wait_for_earlier(database, spec.key, on_wait)
        if earlier is not None:
            return earlier


def _abandon(database: Database, job_id: str) -> None:
    """Remove a half-loaded job, or at least let go of it."""
    with suppress(ServiceUnavailableError):  # its lease ends by itself, and then it is a dead load
        dead_loads.abandon_load(database, job_id)


def dispatch_job(database: Database, publisher: Publisher, job_id: str, queue: str) -> str | None:
    """Fill the job's window and publish; returns why that could not be done now, or None.

    The job is accepted by then: whatever is away, sweep dispatches it later.
    """

    def fill(connection: Connection) -> list[ChunkMessage]:
        return fill_window(connection, job_id, window_size(connection, queue))

    try:
        publish(database, publisher, database.transact(fill))
    except ServiceUnavailableError as error:
        return str(error)
    return None


def _wait_for_earlier(database: Database, key: str, on_wait: OnWait) -> Row[Any] | None:
    """The job that holds the key, once it is loaded; None if its load failed and freed the key."""
    told = False
    while True:
        with database.read() as connection:
            job = jobs_db.find_job_by_key(connection, key)
        if job is None or job.status != JobStatus.LOADING:
            return job
        if not told:
            on_wait(f"another submission with the key {key!r} is loading job {job.id}")
            told = True
        time.sleep(POLL_SECONDS)
        dead_loads.remove_dead_loads(database)


def _same_job(job: Row[Any], digest: InputDigest, reader: Records) -> Submitted:
    """The earlier job of the key if its input is the same; raises JobConflictError.

    Nothing is compared with a job that was purged or redacted: the digest of its input is gone.
    """
    for record in reader:
        digest.add(record, encode_input(record))
    if job.input_hash is not None and job.input_hash != digest.value:
        raise JobConflictError(
            f"key {job.key!r} belongs to job {job.id}, submitted with other records, task, model "
            "or parameters; use a new key for a new job"
        )
    return Submitted(job.id, job.total_records, job.error_records, existing=True)


def iter_dry(reader: Records) -> Iterator[Record | BadRecord]:
    """Every record, with duplicate ids found, and nothing written (``--dry-run``)."""
    with IdCheck() as ids:
        for record in reader:
            if reader.id_column and isinstance(record, Record):
                ids.add(record.record_id, record.index + 1)
            yield record
        ids.finish()
