"""What must be true once every job has ended, whatever happened meanwhile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Row, func, select

from textmill.core.jobs import ChunkStatus, JobStatus
from textmill.db.models import chunks, jobs, label_counts, payloads, results
from textmill.db.payloads import decode_payload
from textmill.db.session import Database

INNOCENT = (chunks.c.attempt > 1, chunks.c.crashes == 0)
ERROR_CODES = {"error": "runner_error", "crash": "worker_crashed"}  # by a text's first word


@dataclass(slots=True)
class Verdict:
    """What was found of one job or, added up, of all."""

    records: int = 0
    lost: int = 0
    duplicated: int = 0
    problems: list[str] = field(default_factory=list)

    def check(self, condition: bool, problem: str) -> None:
        """Note a problem unless the condition holds."""
        if not condition:
            self.problems.append(problem)


def judge(database: Database, job_id: str, texts: Sequence[str]) -> Verdict:
    """Compare everything the database says of a job with the texts it was made of."""
    with database.read() as connection:
        job = connection.execute(select(jobs).where(jobs.c.id == job_id)).one()
        rows = connection.execute(select(results).where(results.c.job_id == job_id)).all()
        own = connection.execute(select(chunks).where(chunks.c.job_id == job_id)).all()
        kept = connection.execute(
            select(payloads).where(payloads.c.chunk_id.in_([chunk.id for chunk in own]))
        ).all()
        counted = connection.execute(
            select(label_counts).where(label_counts.c.job_id == job_id)
        ).all()
    verdict = Verdict(records=len(texts))
    _judge_rows(verdict, job, rows, texts)
    _judge_counters(verdict, job, rows, {row.label: row.records for row in counted})
    _judge_chunks(verdict, job, own)
    inputs = sorted(record.index for row in kept for record in decode_payload(row.data))
    errors = sorted(row.record_index for row in rows if row.error_code is not None)
    verdict.check(inputs == errors, f"inputs are kept of {inputs}, errors are {errors}")
    verdict.problems = [f"job {job_id} ({job.status}): {one}" for one in verdict.problems]
    return verdict


def _judge_rows(verdict: Verdict, job: Row[Any], rows: Sequence[Any], texts: Sequence[str]) -> None:
    times = Counter(row.record_index for row in rows)
    if job.status != JobStatus.CANCELLED:
        verdict.lost = sum(index not in times for index in range(len(texts)))
    processed = job.done_records + job.error_records
    verdict.duplicated = sum(times.values()) - len(times) + max(0, processed - len(rows))
    verdict.check(not verdict.lost, f"{verdict.lost} records have no row")
    verdict.check(not verdict.duplicated, f"{verdict.duplicated} records counted more than once")
    for row in rows:
        text = texts[row.record_index]
        wanted = ERROR_CODES.get(text.split()[0])
        good = (row.error_code, row.text, row.record_id) == (wanted, text, str(row.record_index))
        good &= row.output == (text.upper() if wanted is None else None)
        verdict.check(good, f"{text!r} became {row.error_code or row.output!r}")


def _judge_counters(
    verdict: Verdict, job: Row[Any], rows: Sequence[Any], counted: dict[str, int]
) -> None:
    errors = sum(row.error_code is not None for row in rows)
    counters = (job.done_records, job.error_records)
    actual = (len(rows) - errors, errors)
    verdict.check(counters == actual, f"counters say {counters}, rows are {actual}")
    labels = Counter(row.label for row in rows if row.label is not None)
    verdict.check(counted == labels, f"label counts say {counted}, rows are {dict(labels)}")


def _judge_chunks(verdict: Verdict, job: Row[Any], own: Sequence[Any]) -> None:
    statuses = {chunk.status for chunk in own}
    if job.status == JobStatus.CANCELLED:
        allowed = {ChunkStatus.DONE, ChunkStatus.SPLIT, ChunkStatus.CANCELLED}
        verdict.check(statuses <= allowed, f"its chunks are {statuses}")
        return
    ended = JobStatus.COMPLETED_WITH_ERRORS if job.error_records else JobStatus.COMPLETED
    verdict.check(job.total_records == verdict.records, f"it counts {job.total_records} records")
    verdict.check(job.status == ended, f"it should be {ended.value}: {job.error}")
    verdict.check(statuses <= {ChunkStatus.DONE, ChunkStatus.SPLIT}, f"its chunks are {statuses}")


def check_repeats(database: Database, allowed: int) -> list[str]:
    """What a fault may cost at most is the work in hand at that moment.

    Chunks that crashed, or came of one that did, are left out: they run again to be found out.
    """
    with database.read() as connection:
        claims = connection.scalar(select(func.sum(chunks.c.attempt - 1)).where(*INNOCENT)) or 0
    return [f"{claims} chunks were claimed again, {allowed} at most"] if claims > allowed else []
