"""What a person wants to know of a job at one moment, read from SQL."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textmill.core.jobs import ENDED, JobStatus, purge_day
from textmill.db.jobs import get_job
from textmill.db.queries import LabelCount, count_errors, count_labels, first_outputs
from textmill.db.retry import has_retryable
from textmill.db.workers import live_workers
from textmill.producer.terminal import duration, number, share, shorten, table

if TYPE_CHECKING:
    from sqlalchemy import Connection, Row

    from textmill.core.settings import Settings
    from textmill.db.session import Database

SHOWN_LABELS = 20
SHOWN_OUTPUTS = 3
OUTPUT_WIDTH = 80
OPTION_WIDTH = 60
EXIT_CODES = {
    JobStatus.COMPLETED: 0,
    JobStatus.COMPLETED_WITH_ERRORS: 3,
    JobStatus.FAILED: 1,
    JobStatus.CANCELLED: 1,
}


@dataclass(frozen=True, slots=True)
class Summary:
    """One job: counts by label, errors by reason, its first outputs, its queue's workers."""

    job: Row[Any]
    labels: list[LabelCount]
    errors: list[tuple[str, int, str]]
    workers: list[Row[Any]]
    retryable: bool = False  # something of it can run again
    outputs: Sequence[tuple[str, str]] = ()  # record ids, and what the model wrote

    @property
    def status(self) -> JobStatus:
        """The job's status."""
        return JobStatus(self.job.status)

    @property
    def ended(self) -> bool:
        """True if nothing more happens by itself."""
        return self.status in ENDED

    @property
    def processed(self) -> int:
        """Records that have their row."""
        return int(self.job.done_records + self.job.error_records)

    @property
    def run_seconds(self) -> float | None:
        """From the first claim to the end; None while it runs."""
        if self.job.finished_at is None or self.job.started_at is None:
            return None
        return float(self.job.finished_at - self.job.started_at)

    @property
    def exit_code(self) -> int:
        """0 done, 1 failed or cancelled, 3 done with record errors."""
        return EXIT_CODES.get(self.status, 0)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        job = job_as_dict(self.job)
        return job | {
            "labels": {count.label: count.records for count in self.labels},
            "errors": [
                {"code": code, "records": records, "example": example}
                for code, records, example in self.errors
            ],
            "live_workers": len(self.workers),
        }


def job_as_dict(job: Row[Any]) -> dict[str, Any]:
    """A job's columns for JSON, without its hash."""
    # str(): the names of columns that are SQL words come as a subclass of str.
    return {str(name): value for name, value in job._mapping.items() if name != "input_hash"}


def summarize(database: Database, job_id: str) -> Summary:
    """Read all of the job's summary."""
    with database.read() as connection:
        counts = _count(connection, job_id)
        return replace(
            counts,
            errors=count_errors(connection, job_id) if counts.job.error_records else [],
            retryable=has_retryable(connection, job_id),
            outputs=first_outputs(connection, job_id, SHOWN_OUTPUTS),
        )


def summarize_counts(database: Database, job_id: str) -> Summary:
    """What costs the same however many rows there are, for those who look again and again."""
    with database.read() as connection:
        return _count(connection, job_id)


def _count(connection: Connection, job_id: str) -> Summary:
    job = get_job(connection, job_id)
    workers = live_workers(connection, job.queue)
    return Summary(job, count_labels(connection, job_id), [], workers)


def _options(params: dict[str, Any]) -> str:
    """The options that are not their defaults, long texts shortened."""
    return ", ".join(
        f"{name}={shorten(repr(value), OPTION_WIDTH)}" for name, value in params.items()
    )


def describe_job(summary: Summary, settings: Settings) -> str:
    """Several lines for a person: what it is, how it went, what to type next."""
    job = summary.job
    parts = [headline(summary), ""]
    parts += [
        f"  job       {job.id}  {job.name or ''}".rstrip(),
        f"  task      {job.task}",
        *([f"  options   {_options(job.params)}"] if job.params else []),
        f"  model     {job.model}" + (f" @ {job.revision}" if job.revision else ""),
        *([f"            {job.model_version}"] if job.model_version else []),
        f"  queue     {job.queue}, priority {job.priority}",
        f"  tokens    {number(job.input_tokens)} in, {number(job.output_tokens)} out; "
        f"{duration(job.device_seconds)} of device time",
    ]
    if job.error:
        parts.append(f"  reason    {job.error}")
    if job.purged_at is not None:
        parts.append(f"  purged    {purge_day(job.purged_at)}; texts, outputs and ids are gone")
    parts += label_lines(summary) + output_lines(summary) + error_lines(summary) + [""]
    parts += next_steps(summary, settings)
    return "\n".join(parts)


def headline(summary: Summary) -> str:
    """One line: status, records, time, rate, errors."""
    job = summary.job
    status = str(summary.status).replace("_", " ")
    line = f"{status}: {number(summary.processed)} of {number(job.total_records)} records"
    seconds = summary.run_seconds
    if seconds and summary.processed:
        line += f" in {duration(seconds)}, {number(summary.processed / seconds)} records/s"
        if job.output_tokens:
            line += f", {number(job.output_tokens / seconds)} tokens/s written"
    if job.reuse:
        line += f", {number(job.reused_records)} reused"
    if job.error_records:
        line += f", {number(job.error_records)} errors"
    return line


def label_lines(summary: Summary) -> list[str]:
    """Counts by label, the most frequent first."""
    if not summary.labels:
        return []
    total = summary.job.done_records
    rows = [
        [shorten(count.label, 40), number(count.records), share(count.records, total)]
        for count in summary.labels[:SHOWN_LABELS]
    ]
    lines = ["", *_indented(table(["label", "records", "share"], rows, right="records,share"))]
    if len(summary.labels) > SHOWN_LABELS:
        lines.append(f"  … and {len(summary.labels) - SHOWN_LABELS} more labels")
    return lines


def output_lines(summary: Summary) -> list[str]:
    """What the model wrote for the first records."""
    if not summary.outputs:
        return []
    rows = [[name, shorten(text, OUTPUT_WIDTH)] for name, text in summary.outputs]
    return ["", *_indented(table(["record", "output"], rows))]


def error_lines(summary: Summary) -> list[str]:
    """Errors by reason, with an example of each."""
    if not summary.errors:
        return []
    rows = [
        [code, number(records), shorten(example or "", 60)]
        for code, records, example in summary.errors
    ]
    return ["", *_indented(table(["error", "records", "for example"], rows, right="records"))]


def _indented(text: str) -> list[str]:
    return [f"  {line}" for line in text.split("\n")]


def database_place(settings: Settings) -> str:
    """Where the database is, without its password."""
    from sqlalchemy import make_url

    url = make_url(settings.effective_database_url)
    if url.get_backend_name() == "sqlite":
        return str(Path(url.database or "").absolute())
    return url.render_as_string(hide_password=True)


def next_steps(summary: Summary, settings: Settings) -> list[str]:
    """The commands a person is likely to type next."""
    job_id = summary.job.id
    lines = [f"database  {database_place(settings)}"]
    if not summary.ended:
        lines.append(f"next      textmill watch {job_id}")
        if not summary.workers:
            lines.append(f"          textmill worker --queues {summary.job.queue}   (none is live)")
        return lines
    if summary.job.purged_at is not None:
        return [*lines, f"next      textmill audits {job_id}"]
    if summary.labels:
        label = shlex.quote(summary.labels[-1].label)
        lines.append(f"next      textmill results {job_id} --label {label} --min-score 0.9")
    elif summary.job.params.get("openai_batch"):
        export = "--format openai-batch --out answers.jsonl"
        lines.append(f"next      textmill results {job_id} {export}")
    elif summary.job.done_records:
        lines.append(f"next      textmill results {job_id}")
    if summary.job.error_records:
        lines.append(f"          textmill results {job_id} --errors")
    if summary.retryable:
        lines.append(f"          textmill retry {job_id}")
    return lines
