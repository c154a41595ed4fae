"""Redaction: personal data in the stored texts and outputs of ended jobs becomes placeholders.

Everything that holds a text is looked through, kept inputs too; ids of records stay, since by them
rows are told apart. In short transactions: one that was cut off goes on when it is asked for again,
and what is masked is not found again. What the files still hold is ``vacuum.py``'s.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Connection, LargeBinary, Row, bindparam, func, select, update

from textmill.core.errors import JobConflictError
from textmill.core.jobs import ENDED, ChunkStatus, JobStatus, Record, not_ended
from textmill.core.masking import Masker
from textmill.core.stored_texts import hash_text
from textmill.core.tasks import options_from_inputs
from textmill.db.audits import begin_audit, count_audited, finish_audit
from textmill.db.clock import now
from textmill.db.indexing import make_entries, remove_entries, write_entries
from textmill.db.jobs import check_not_purged, get_job, lock_ended
from textmill.db.models import chunks, jobs, payloads, results, reuse_keys
from textmill.db.pace import Pace
from textmill.db.payloads import decode_payload, encode_payload
from textmill.db.purge import erase_deleted
from textmill.db.results import driver_errors
from textmill.db.reuse import forget_answers
from textmill.db.session import Database

PAGE_ROWS = 1000  # of one read
FIRST_ROWS, MOST_ROWS = 50, 1000  # of one transaction that writes
JSON_OPTIONS = {"json_schema"}  # kept as JSON text
Report = Callable[[int], None]
"""Told of each page of rows how many were looked at."""


class _Texts(NamedTuple):
    """What of a row may hold personal data, and what its entries are made of."""

    record_index: int
    record_id: str
    text: str | None
    output: str | None
    label: str | None
    detail: Any
    error_message: str | None
    extra: Any


@dataclass(slots=True)
class Redaction:
    """What was found, and masked unless it was a dry run."""

    records: int = 0  # rows with something in them
    masked: Counter[str] = field(default_factory=Counter)  # of each kind, kept inputs too
    ids: int = 0  # of records, that hold such data and stay as they are


def find_old(connection: Connection, seconds: float) -> list[Row[Any]]:
    """The jobs that ended longer ago and still have their texts, the oldest first."""
    old = (
        select(jobs)
        .where(
            jobs.c.status.in_([status.value for status in ENDED]),
            jobs.c.finished_at < now() - seconds,
            jobs.c.purged_at.is_(None),
        )
        .order_by(jobs.c.id)
    )
    return list(connection.execute(old).all())


def check_redactable(connection: Connection, job: Row[Any]) -> None:
    """Raise JobConflictError for a job that is not over, PurgedJobError for one without texts."""
    check_not_purged(job)
    status = JobStatus(job.status)
    if status not in ENDED:
        raise JobConflictError(not_ended(job.id, status, "redacted"))
    running = (chunks.c.job_id == job.id, chunks.c.status == ChunkStatus.RUNNING.value)
    if connection.scalar(select(chunks.c.id).where(*running).limit(1)) is not None:
        raise JobConflictError(
            f"job {job.id} is {status}, and workers still have records of it in hand; redact it "
            "when they are done, which is a lease at most; if none runs, after a `textmill sweep`"
        )


def redact_job(
    database: Database,
    job_id: str,
    masker: Masker,
    asked: Mapping[str, Any],
    *,
    dry_run: bool = False,
    report: Report = lambda rows: None,
) -> Redaction:
    """Mask all that the job stores; ``asked`` is what the audit keeps of the request.

    Raises as ``check_redactable`` does, and JobConflictError if the job runs again meanwhile.
    """
    with database.read() as connection:
        job = get_job(connection, job_id)
        check_redactable(connection, job)
    audit_id = None if dry_run else database.transact(begin_audit, "redact", job_id, asked)
    work = _Work(database, job, masker, audit_id)
    work.mask_rows(report)
    work.mask_payloads()
    work.mask_job()
    if audit_id is not None:
        found = {"masked": dict(sorted(work.found.masked.items()))}
        database.transact(finish_audit, audit_id, found)
    return work.found


class _Work:
    """One job's redaction."""

    def __init__(
        self, database: Database, job: Row[Any], masker: Masker, audit_id: int | None
    ) -> None:
        self._database = database
        self._job = job
        self._masker = masker
        self._audit_id = audit_id
        self.found = Redaction()

    def mask_rows(self, report: Report) -> None:
        """Page by page; masked outside of the transaction that writes, for that takes longer."""
        pace = Pace(FIRST_ROWS, MOST_ROWS)
        last = -1
        while rows := self._next_rows(last):
            pairs = [(row, self._masked(row)) for row in rows]
            changed = [(old, new) for old, new in pairs if new != old]
            self.found.records += len(changed)
            while changed and self._audit_id is not None:
                some, changed = changed[: pace.size], changed[pace.size :]
                self._database.transact(self._write_rows, some, pace)
            last = rows[-1].record_index
            report(len(rows))

    def _next_rows(self, last: int) -> list[_Texts]:
        with self._database.read() as connection:
            return self._read(connection, results.c.record_index > last)

    def _read(self, connection: Connection, which: Any) -> list[_Texts]:
        page = (
            select(*[results.c[name] for name in _Texts._fields])
            .where(results.c.job_id == self._job.id, which)
            .order_by(results.c.record_index)
            .limit(PAGE_ROWS)
        )
        return [_Texts(*row) for row in connection.execute(page)]

    def _masked(self, row: _Texts) -> _Texts:
        self.found.ids += bool(self._masker.mask(row.record_id)[1])
        return row._replace(
            text=self._text(row.text),
            output=self._text(row.output),
            detail=self._json(row.detail),
            error_message=self._text(row.error_message),
            extra=self._json(row.extra),
        )

    def _text(self, text: str | None) -> str | None:
        if not text:
            return text
        masked, counts = self._masker.mask(text)
        self.found.masked += counts
        return masked

    def _json(self, value: Any, *, numbers: bool = True) -> Any:
        if not value:
            return value
        masked, counts = self._masker.mask_json(value, numbers=numbers)
        self.found.masked += counts
        return masked

    def _option(self, name: str, value: Any) -> Any:
        """An option's numbers are settings: a seed may look like a telephone number."""
        if name not in JSON_OPTIONS or not value:
            return self._json(value, numbers=False)
        decoded = orjson.loads(value)
        masked = self._json(decoded, numbers=False)
        return value if masked == decoded else orjson.dumps(masked).decode()

    def _write_rows(
        self, connection: Connection, changed: Sequence[tuple[_Texts, _Texts]], pace: Pace
    ) -> None:
        lock_ended(connection, self._job)
        erase_deleted(connection)
        job, sqlite = self._job, connection.dialect.name == "sqlite"
        with pace.piece(len(changed)):
            # Another redaction may have been here: what finds a row may be removed once only.
            indexes = results.c.record_index.in_([row.record_index for row, _ in changed])
            there = {row.record_index: row for row in self._read(connection, indexes)}
            changed = [pair for pair in changed if there.get(pair[0].record_index) == pair[0]]
            if not changed:
                return
            old, new = zip(*changed, strict=True)
            remove_entries(connection, job.id, make_entries(job, old, sqlite=sqlite))
            with driver_errors(connection):
                write_entries(connection, job.id, make_entries(job, new, sqlite=sqlite))
            # By such a key a guess of what was masked could be confirmed.
            keys = reuse_keys.c.record_index.in_([row.record_index for row in old])
            forget_answers(connection, job, keys)
            connection.execute(_update_row(job.id), [_values(row) for row in new])
            count_audited(connection, self._audit_id or 0, len(changed))

    def mask_payloads(self) -> None:
        """The inputs kept of error records, and those of a failed job that wait."""
        last = 0
        while (found := self._next_payload(last)) is not None:
            if self._mask_payload(*found):
                last = found[0]

    def _next_payload(self, last: int) -> tuple[int, bytes] | None:
        query = (
            select(payloads.c.chunk_id, payloads.c.data)
            .join(chunks, chunks.c.id == payloads.c.chunk_id)
            .where(chunks.c.job_id == self._job.id, payloads.c.chunk_id > last)
            .order_by(payloads.c.chunk_id)
            .limit(1)
        )
        with self._database.read() as connection:
            found = connection.execute(query).one_or_none()
        return None if found is None else (found.chunk_id, found.data)

    def _mask_payload(self, chunk_id: int, data: bytes) -> bool:
        """False, and nothing masked or counted, if it was changed since it was read."""
        before = self.found.masked.copy()
        records = [self._masked_record(record) for record in decode_payload(data)]
        if self.found.masked == before or self._audit_id is None:
            return True
        written = self._database.transact(
            self._write_payload, chunk_id, data, encode_payload(records)
        )
        if not written:
            self.found.masked = before
        return written

    def _masked_record(self, record: Record) -> Record:
        params = record.params and {
            name: self._option(name, value) for name, value in record.params.items()
        }
        inputs, extra = self._json(record.inputs), self._json(record.extra)
        return Record(record.index, record.record_id, inputs, params, extra)

    def _write_payload(self, connection: Connection, chunk_id: int, old: bytes, new: bytes) -> bool:
        lock_ended(connection, self._job)
        erase_deleted(connection)
        # Somebody may have purged a record of it: it must not come back.
        as_read = (payloads.c.chunk_id == chunk_id, payloads.c.data == old)
        changed = connection.execute(update(payloads).where(*as_read).values(data=new))
        return changed.rowcount == 1

    def mask_job(self) -> None:
        """What the job itself holds of its input, and of what was said when it failed."""
        job, inputs = self._job, options_from_inputs(self._job.task, self._job.params)
        params = {
            name: self._option(name, value) if name in inputs else value
            for name, value in job.params.items()
        }
        error = self._text(job.error)
        if (params, error) != (job.params, job.error) and self._audit_id is not None:
            self._database.transact(self._write_job, params, error)

    def _write_job(self, connection: Connection, params: Any, error: str | None) -> None:
        lock_ended(connection, self._job)
        values = {"params": params, "error": error}
        connection.execute(update(jobs).where(jobs.c.id == self._job.id).values(**values))
        if params != self._job.params:  # the keys of all records are of what was masked too
            forget_answers(connection, self._job)


def _update_row(job_id: str) -> Any:
    own = (results.c.job_id == job_id, results.c.record_index == bindparam("at"))
    names = ("text", "output", "detail", "error_message", "extra")
    values: dict[str, Any] = {name: bindparam(f"new_{name}") for name in names}
    # A keyed hash of a text that is not kept stays: it tells nothing to whoever lacks the key.
    new_hash = bindparam("new_text_hash", type_=LargeBinary)
    values["text_hash"] = func.coalesce(new_hash, results.c.text_hash)
    return update(results).where(*own).values(values)


def _values(new: _Texts) -> dict[str, Any]:
    return {
        "at": new.record_index,
        "new_text": new.text,
        "new_text_hash": None if new.text is None else hash_text(new.text),
        "new_output": new.output,
        "new_detail": new.detail,
        "new_error_message": new.error_message,
        "new_extra": new.extra,
    }
