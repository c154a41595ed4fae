"""The loader: cuts a stream of records into chunks and writes them in short transactions."""

from __future__ import annotations

import hashlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import orjson
from sqlalchemy import Connection

from textmill.core.errors import NoSpaceError, ServiceUnavailableError, TextmillError
from textmill.core.jobs import BadRecord, JobSpec, JobStatus, Record
from textmill.core.patience import keep_trying
from textmill.core.stored_texts import StoreText, keyed_digest, require_key
from textmill.core.tasks import get_task
from textmill.db import loading as loading_db
from textmill.db.indexing import UnreadIndexes, make_entries
from textmill.db.loading import ChunkCutter, NewChunk
from textmill.db.payloads import encode_record
from textmill.db.results import ResultRow, to_json, write_results
from textmill.db.session import Database
from textmill.producer.readers import IdCheck, Records

R = TypeVar("R")
OnWait = Callable[[str], None]

FLUSH_RECORDS = 4096  # one write transaction: about 30 ms on SQLite, so others get their turn
FLUSH_BYTES = 8 << 20


class Progress(Protocol):
    """Told how many records were read so far."""

    def __call__(self, records: int, /) -> None: ...


class InputDigest:
    """A digest of task, model, parameters and every record; equal only for equal jobs.

    A model folder counts by its absolute path: the same script from another folder is the same job.
    By it a guess of all records could be confirmed: where texts are not kept it is keyed, or of a
    job that keeps no hashes either made of what its rows keep.
    """

    def __init__(self, spec: JobSpec, hash_key: bytes | None = None) -> None:
        model = loading_db.absolute_model(spec.model)
        about: list[Any] = [spec.task, model, spec.revision, spec.dtype, spec.params]
        if permits := loading_db.permits_of(spec):
            about.append(permits)
        self._without_texts = spec.store_text == StoreText.NONE
        keyed = spec.store_text == StoreText.HASH
        self._hash = keyed_digest(require_key(hash_key)) if keyed else hashlib.sha256()
        self._hash.update(orjson.dumps(about, option=orjson.OPT_SORT_KEYS))

    def add(self, record: Record | BadRecord, line: bytes) -> None:
        """Count a record in, which ``line`` is the encoding of."""
        if self._without_texts:
            line = orjson.dumps((record.index, record.record_id, record.extra))
        self._hash.update(b"\n")
        self._hash.update(line)

    @property
    def value(self) -> bytes:
        """The 32-byte digest so far."""
        return self._hash.digest()


def encode_input(record: Record | BadRecord) -> bytes:
    """One input row as the bytes that count for the digest; of a record, also what is stored."""
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
        self,
        database: Database,
        job_id: str,
        spec: JobSpec,
        *,
        lease_seconds: float,
        hash_key: bytes | None = None,
        progress: Progress | None = None,
        on_wait: OnWait = lambda reason: None,
    ) -> None:
        self.records = 0
        self.errors = 0
        self._database = database
        self._job_id = job_id
        self._cutter = ChunkCutter(spec.chunk_records or get_task(spec.task).chunk_records)
        self._digest = InputDigest(spec, hash_key)
        self._indexes = UnreadIndexes(spec.index_columns)
        self._progress = progress
        self._on_wait = on_wait
        self._written = [0, 0]  # chunks and error rows
        self._lease_seconds = lease_seconds
        self._batch = _Batch()

    def load(self, reader: Records) -> JobStatus:
        """Write everything and accept the job; returns the status it has then."""
        with IdCheck() as ids, self._renewing():
            check: Callable[[str, int], None] | None = ids.add if reader.id_column else None
            for record in reader:
                # A bad row may be called after its index, for want of an id: it is no duplicate.
                if check is not None and isinstance(record, Record):
                    check(record.record_id, record.index + 1)
                self._add(record)
            ids.finish()
        self._add_chunk(self._cutter.end())
        self._flush()
        return self._patiently(self._finish)

    def _finish(self, connection: Connection, again: bool) -> JobStatus:
        accepted = loading_db.accepted_status(connection, self._job_id) if again else None
        if accepted is not None:
            return accepted  # at the first try, whose answer was lost
        return loading_db.finish_loading(
            connection,
            self._job_id,
            total=self.records,
            errors=self.errors,
            input_hash=self._digest.value,
        )

    def _patiently(self, change: Callable[[Connection, bool], R]) -> R:
        """Run the change; while the database is away again, for as long as the load lease lasts.

        The second argument of ``change`` says whether an earlier try may have been committed.
        """
        deadline = time.monotonic() + self._lease_seconds
        tries = itertools.count()

        def pause(seconds: float) -> bool:
            time.sleep(seconds)
            return time.monotonic() > deadline

        return keep_trying(
            lambda: self._database.transact(change, next(tries) > 0),
            pause=pause,
            away=lambda error: self._on_wait(str(error)),
            final=NoSpaceError,  # also of a disk that fills while another outage is waited out
        )

    @contextmanager
    def _renewing(self) -> Iterator[None]:
        """Keep the lease of the loading job while its input is slow, a pipe say."""
        done = threading.Event()

        def renew() -> None:
            while not done.wait(self._lease_seconds / 4):
                try:
                    self._database.transact(
                        loading_db.add_chunks, self._job_id, [], load_seconds=self._lease_seconds
                    )
                except ServiceUnavailableError:
                    continue  # it may be back before the lease ends
                except TextmillError:
                    return  # cancelled: the next write says so

        thread = threading.Thread(target=renew, name="load lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _add(self, record: Record | BadRecord) -> None:
        line = encode_input(record)
        self._digest.add(record, line)
        self.records += 1
        if isinstance(record, BadRecord):
            self._add_error(record)
        else:
            self._batch.bytes += len(line)
            self._add_chunk(self._cutter.add(line))
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

    def _add_chunk(self, chunk: NewChunk | None) -> None:
        if chunk is not None:
            self._batch.chunks.append(chunk)
            self._batch.records += chunk.records

    def _flush(self) -> None:
        batch, self._batch = self._batch, _Batch()
        if batch.records:
            self._patiently(lambda connection, again: self._write(connection, batch, again))
            self._written[0] += len(batch.chunks)
            self._written[1] += len(batch.error_rows)
        if self._progress is not None:
            self._progress(self.records)

    def _write(self, connection: Connection, batch: _Batch, again: bool) -> None:
        if again and loading_db.count_loaded(connection, self._job_id) != tuple(self._written):
            return  # it was committed, and the answer was lost
        loading_db.add_chunks(
            connection,
            self._job_id,
            batch.chunks,
            load_seconds=self._lease_seconds,
        )
        sqlite = connection.dialect.name == "sqlite"
        entries = make_entries(self._indexes, batch.error_rows, sqlite=sqlite)
        write_results(connection, self._job_id, batch.error_rows, entries)
