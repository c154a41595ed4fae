"""What the database holds at one moment, and what must be true of it and of every change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from sqlalchemy import Row, Table, event, select

from textmill.core.jobs import CHUNK_TRANSITIONS, ENDED, JOB_TRANSITIONS, ChunkStatus, JobStatus
from textmill.db.clock import now
from textmill.db.models import chunks, jobs, label_counts, payloads, results
from textmill.db.payloads import decode_payload
from textmill.db.session import Database

from .entries import read_values, read_words

UNFINISHED = ("pending", "dispatched", "running", "failed")
OPEN = ("queued", "running", "paused")
BAD_ROW = "bad_row"  # the code of the error rows that builders.make_job writes


class WatchedDatabase(Database):
    """Calls ``watch`` after each transaction of the product's that may have written something."""

    watch: Callable[[], None]

    def __init__(self, url: str, **options: Any) -> None:
        super().__init__(url, **options)
        self._wrote = False
        event.listen(self.engine, "after_cursor_execute", self._look_at_statement)

    def _look_at_statement(self, _: Any, cursor: Any, statement: str, *rest: Any) -> None:
        # Of a statement that returns rows, sqlite3 does not say yet how many it changed.
        changes = statement.startswith(("INSERT", "UPDATE", "DELETE"))
        self._wrote |= changes and ("RETURNING" in statement or cursor.rowcount != 0)

    def transact(self, change: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        self._wrote = False
        result = super().transact(change, *args, **kwargs)
        if self._wrote:
            self.watch()
        return result


@dataclass(frozen=True, slots=True)
class State:
    """All rows that state changes write; equal if none of them differs."""

    jobs: dict[str, Row[Any]]
    chunks: dict[int, Row[Any]]
    inputs: dict[int, list[int]]  # the record indexes in each chunk's payload
    results: dict[tuple[str, int], Row[Any]]
    labels: dict[tuple[str, str], int]
    words: dict[int, list[str]]  # by a row's place in result_words
    values: set[tuple[Any, ...]]  # job, name, value and record index
    now: float = field(compare=False)

    def rows_of(self, job_id: str) -> dict[int, Row[Any]]:
        return {index: row for (job, index), row in self.results.items() if job == job_id}

    def chunks_of(self, job_id: str, *statuses: str) -> list[Row[Any]]:
        own = [chunk for chunk in self.chunks.values() if chunk.job_id == job_id]
        return [chunk for chunk in own if not statuses or chunk.status in statuses]

    def inputs_of(self, job_id: str, *statuses: str) -> list[int]:
        """The indexes of the records in the payloads of the job's chunks of these statuses."""
        own = self.chunks_of(job_id, *statuses)
        return [index for chunk in own for index in self.inputs.get(chunk.id, ())]


@lru_cache(1000)
def indexes_in(payload: bytes) -> list[int]:
    """The indexes of its records."""
    return [record.index for record in decode_payload(payload)]


def read_state(database: Database) -> State:
    with database.read() as connection:

        def rows(table: Table) -> list[Row[Any]]:
            return list(connection.execute(select(table)))

        return State(
            {row.id: row for row in rows(jobs)},
            {row.id: row for row in rows(chunks)},
            {row.chunk_id: indexes_in(row.data) for row in rows(payloads)},
            {(row.job_id, row.record_index): row for row in rows(results)},
            {(row.job_id, row.label): row.records for row in rows(label_counts)},
            read_words(connection),
            read_values(connection),
            connection.execute(select(now())).scalar_one(),
        )


def check_state(state: State) -> None:
    """Every job by itself, and nothing that belongs to no job."""
    assert {chunk.job_id for chunk in state.chunks.values()} <= set(state.jobs), "chunk of no job"
    assert {job_id for job_id, _ in state.results} <= set(state.jobs), "result of no job"
    assert {job_id for job_id, _ in state.labels} <= set(state.jobs), "label count of no job"
    assert set(state.inputs) <= set(state.chunks), "payload of no chunk"
    _check_entries(state)
    for chunk in state.chunks.values():
        _check_chunk(state, chunk)
    for job in state.jobs.values():
        if job.status != "loading":  # while its producer still counts
            _check_counts(state, job)
            _check_records(state, job)
        _check_end(state, job)


def _check_entries(state: State) -> None:
    """What finds rows is there for each row that there is, and for no other."""
    words, values = {}, set()
    for (job_id, index), row in state.results.items():
        job = state.jobs[job_id]
        if job.full_text and row.text is not None:
            words[(job.number << 40) + index] = row.text.split()
        for name in job.index_columns or () if row.extra else ():
            values.add((job_id, name, str(row.extra[name]), index))
        for label in further_labels(row):
            values.add((job_id, "", label, index))
    assert state.words == words, "words differ from the rows"
    assert state.values == values, "values differ from the rows"


def further_labels(row: Row[Any]) -> list[str]:
    """The labels of a row behind its first one."""
    return list(row.detail["labels"][1:]) if row.detail else []


def _check_chunk(state: State, chunk: Row[Any]) -> None:
    lease = (chunk.lease_owner is not None, chunk.lease_expires_at is not None)
    held = chunk.status == "running"
    assert lease == (held, held), f"lease of a {chunk.status} chunk"
    inputs = state.inputs.get(chunk.id)
    if chunk.status in UNFINISHED:
        assert inputs is not None, f"{chunk.status} chunk without its payload"
        assert len(inputs) == chunk.records, "payload of other records"
    elif chunk.status != "done":
        assert inputs is None, f"payload of a {chunk.status} chunk"


def _check_counts(state: State, job: Row[Any]) -> None:
    rows = state.rows_of(job.id).values()
    good = [row for row in rows if row.error_code is None]
    counters = (job.done_records, job.error_records)
    assert counters == (len(good), len(rows) - len(good)), "counters differ from the rows"
    labels = {label: n for (job_id, label), n in state.labels.items() if job_id == job.id}
    counted = Counter(label for row in good for label in [row.label, *further_labels(row)])
    assert labels == counted, "label counts differ from the rows"


def _check_records(state: State, job: Row[Any]) -> None:
    """Each record has its own row, or waits in exactly one chunk; error inputs are kept once."""
    rows = state.rows_of(job.id)
    waiting = state.inputs_of(job.id, *UNFINISHED)
    if job.status != "cancelled":
        places = sorted([*waiting, *rows])
        assert places == list(range(job.total_records)), "a record without place, or with two"
    for index, row in rows.items():
        if row.error_code != BAD_ROW:
            assert (row.record_id, row.text) == (f"id{index}", f"text {index}"), "row of another"
    kept = sorted(state.inputs_of(job.id, "done"))
    failed = sorted(index for index, row in rows.items() if row.error_code not in (None, BAD_ROW))
    assert kept == failed, "kept inputs differ from the error rows"


def _check_end(state: State, job: Row[Any]) -> None:
    assert (job.finished_at is not None) == (job.status in ENDED), f"finished_at of {job.status}"
    assert (job.error is not None) == (job.status == "failed"), f"reason of {job.status}"
    unfinished = state.chunks_of(job.id, *UNFINISHED)
    if job.status in OPEN:
        assert unfinished, f"{job.status}, but nothing is left to do"
    elif job.status not in ("failed", "loading"):
        assert not unfinished, f"{job.status}, but a chunk is {unfinished[0].status}"
    if job.status == "completed":
        assert job.error_records == 0, "completed, but has error rows"
    if job.status == "completed_with_errors":
        assert job.error_records > 0, "completed_with_errors, but has none"


def check_change(before: State, after: State, *, rerun: str | None = None) -> None:
    """One transaction: only legal changes of status, and no row written twice or taken away.

    ``rerun`` is the job whose every record is to run again, if the transaction may do that.
    """
    for job_id, job in before.jobs.items():
        if job_id not in after.jobs:
            assert (job.status, job.load_expires_at < after.now) == ("loading", True), "job lost"
        elif after.jobs[job_id].status != job.status:
            legal = JOB_TRANSITIONS[JobStatus(job.status)]
            assert after.jobs[job_id].status in legal, f"{job.status} → {after.jobs[job_id].status}"
    for chunk in before.chunks.values():
        if chunk.job_id in after.jobs:
            _check_chunk_change(chunk, after.chunks[chunk.id])
    for key, row in before.results.items():
        if key[0] in after.jobs and after.results.get(key) != row:
            assert key not in after.results, "a row was written again"
            moved = (before.jobs[key[0]].status in ENDED, after.jobs[key[0]].status)
            assert moved == (True, "queued"), "a row was lost"
            assert row.error_code != BAD_ROW, "the row of an unreadable input was lost"
            assert row.error_code is not None or key[0] == rerun, "an output was lost"
    for job_id in [job_id for job_id, job in before.jobs.items() if job.status == "cancelled"]:
        assert after.rows_of(job_id) == before.rows_of(job_id), "cancelled, but gained a row"


def _check_chunk_change(before: Row[Any], after: Row[Any]) -> None:
    claimed = (before.status, after.status) == ("dispatched", "running")
    assert after.attempt == before.attempt + claimed, "attempts count claims"
    assert after.crashes >= before.crashes, "a crash was forgotten"
    if after.status != before.status:
        legal = CHUNK_TRANSITIONS[ChunkStatus(before.status)]
        assert after.status in legal, f"chunk {before.status} → {after.status}"
