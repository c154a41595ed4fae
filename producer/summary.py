"""What a person wants to know of a job at one moment, read from SQL."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textmill.core.jobs import ENDED, JobStatus, purge_day
from textmill.db.clock import read_clock
from textmill.db.jobs import get_job
from textmill.db.queries import LabelCount, count_errors, count_labels, first_outputs
from textmill.db.retry import has_retryable
from textmill.db.workers import live_workers
from textmill.producer.terminal import (
    PIPED_COLUMNS,
    cell_width,
    duration,
    number,
    share,
    shorten,
    table,
)

if TYPE_CHECKING:
    from sqlalchemy import Row

    from textmill.core.settings import Settings
    from textmill.db.session import Database

SHOWN_LABELS = 20
SHOWN_OUTPUTS = 3
LABEL_WIDTH = 40
OPTION_WIDTH = 60
ID_WIDTH = 20
MIN_WIDTH = 12  # of a text, on however narrow a terminal
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
    read_at: float  # by the database's clock
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
    def has_loaded(self) -> bool:
        """True if a worker has said that it holds the job's model."""
        return any(self.job.model in worker.models for worker in self.workers)

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
            "workers": [_worker_as_dict(worker) for worker in self.workers],
            "read_at": self.read_at,
        }


def job_as_dict(job: Row[Any]) -> dict[str, Any]:
    """A job's columns for JSON, without its hash."""
    # str(): the names of columns that are SQL words come as a subclass of str.
    return {str(name): value for name, value in job._mapping.items() if name != "input_hash"}


def _worker_as_dict(worker: Row[Any]) -> dict[str, Any]:
    shown = {name: getattr(worker, name) for name in ("id", "host", "device", "slots", "models")}
    return shown | {"seconds_since_seen": worker.age}


def summarize(database: Database, job_id: str) -> Summary:
    """Read all of the job's summary."""
    with database.read() as connection:
        job = get_job(connection, job_id)
        return Summary(
            job,
            count_labels(connection, job_id),
            count_errors(connection, job_id) if job.error_records else [],
            live_workers(connection, job.queue),
            read_clock(connection),
            retryable=has_retryable(connection, job_id),
            outputs=first_outputs(connection, job_id, SHOWN_OUTPUTS),
        )


def _options(params: dict[str, Any]) -> str:
    """The options that are not their defaults, long texts shortened."""
    return ", ".join(
        f"{name}={shorten(repr(value), OPTION_WIDTH)}" for name, value in params.items()
    )


def describe_job(summary: Summary, settings: Settings, columns: int = PIPED_COLUMNS) -> str:
    """Several lines for a person: what it is, how it went, what to type next."""
    job = summary.job
    parts = [headline(summary), ""]
    parts += [
        f"  job       {job.id}  {shorten(job.name or '', 200)}".rstrip(),
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
    parts += label_lines(summary, columns) + output_lines(summary, columns)
    parts += [*error_lines(summary, columns), "", *next_steps(summary, settings)]
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


def label_lines(summary: Summary, columns: int = PIPED_COLUMNS) -> list[str]:
    """Counts by label, the most frequent first."""
    if not summary.labels:
        return []
    total, width = summary.job.done_records, _width(columns, "", "12,345,678", "100.0 %")
    rows = [
        [
            shorten(one.label, min(width, LABEL_WIDTH)),
            number(one.records),
            share(one.records, total),
        ]
        for one in summary.labels[:SHOWN_LABELS]
    ]
    lines = ["", *_indented(table(["label", "records", "share"], rows, right="records,share"))]
    if len(summary.labels) > SHOWN_LABELS:
        lines.append(f"  … and {number(len(summary.labels) - SHOWN_LABELS)} more labels")
    return lines


def output_lines(summary: Summary, columns: int = PIPED_COLUMNS) -> list[str]:
    """What the model wrote for the first records."""
    if not summary.outputs:
        return []
    names = [shorten(name, ID_WIDTH) for name, _ in summary.outputs]
    width = _width(columns, "", max(["record", *names], key=cell_width))
    rows = [
        [name, shorten(text, width)] for name, (_, text) in zip(names, summary.outputs, strict=True)
    ]
    return ["", *_indented(table(["record", "output"], rows))]


def error_lines(summary: Summary, columns: int = PIPED_COLUMNS) -> list[str]:
    """Errors by reason, with an example of each."""
    if not summary.errors:
        return []
    codes = [shorten(code, LABEL_WIDTH) for code, _, _ in summary.errors]
    width = _width(columns, "", max(["error", *codes], key=cell_width), "records")
    rows = [
        [code, number(records), shorten(example or "", width)]
        for code, (_, records, example) in zip(codes, summary.errors, strict=True)
    ]
    return ["", *_indented(table(["error", "records", "for example"], rows, right="records"))]


def _width(columns: int, *beside: str) -> int:
    """How wide the texts of a table may be on a terminal, beside cells such as these."""
    return max(MIN_WIDTH, columns - sum(cell_width(cell) + 2 for cell in beside))


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
    commands = _commands_after(summary) if summary.ended else _commands_until(summary)
    heads = ["next", *[""] * len(commands)]
    lines = [f"{head:<10}{command}" for head, command in zip(heads, commands, strict=False)]
    return [f"database  {database_place(settings)}", *lines]


def _commands_until(summary: Summary) -> list[str]:
    job = summary.job
    commands = [f"textmill watch {job.id}"]
    if summary.status == JobStatus.PAUSED:
        commands.insert(0, f"textmill resume {job.id}")
    if not summary.workers:
        commands.append(f"textmill worker --queues {job.queue}   (none is live)")
    return commands


def _commands_after(summary: Summary) -> list[str]:
    job_id, commands = summary.job.id, []
    if summary.job.purged_at is not None:
        return [f"textmill audits {job_id}"]
    # The rarest label is the one that people look for; one that cannot be typed is no example.
    typable = [one.label for one in summary.labels if one.label.isprintable()]
    if typable:
        label = shlex.quote(typable[-1])
        commands.append(f"textmill results {job_id} --label {label} --min-score 0.9")
    elif summary.job.params.get("openai_batch"):
        export = "--format openai-batch --out answers.jsonl"
        commands.append(f"textmill results {job_id} {export}")
    elif summary.job.done_records:
        commands.append(f"textmill results {job_id}")
    if summary.job.error_records:
        commands.append(f"textmill results {job_id} --errors")
    if summary.retryable:
        commands.append(f"textmill retry {job_id}")
    return commands
