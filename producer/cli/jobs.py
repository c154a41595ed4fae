"""Commands about jobs that exist: list, show, cancel, pause, resume, retry. SQL only, no worker."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from textmill.producer.cli import options as o
from textmill.producer.cli.context import Context, open_context
from textmill.producer.terminal import (
    ago,
    emit_json,
    number,
    say,
    share,
    shorten,
    table,
    tell,
    terminal_columns,
)

Count = Annotated[int, typer.Option("--limit", help="How many, the latest first.", min=1)]
All = Annotated[bool, typer.Option("--all", help="Every record, not only the errors.")]
NAME_WIDTH = 40

Status = Annotated[str | None, typer.Option(help="Only jobs of this status.", show_default=False)]


def list_jobs(limit: Count = 20, status: Status = None, json: o.Json = False) -> None:
    """List jobs, the latest first.

    \b
    Examples:
      textmill jobs
      textmill jobs --status running --json
    """
    from textmill.core.errors import InvalidJobError
    from textmill.core.jobs import JobStatus
    from textmill.core.tasks import nearest
    from textmill.db.jobs import list_jobs as query
    from textmill.producer.summary import job_as_dict

    known = [value.value for value in JobStatus]
    if status is not None and status not in known:
        raise InvalidJobError(
            f"status {status!r} is unknown; expected {', '.join(known)}{nearest(status, known)}"
        )
    with open_context() as context:
        with context.database.read() as connection:
            found = query(connection, limit=limit, status=status)
        if json:
            emit_json([job_as_dict(job) for job in found])
        elif not found:
            say("no jobs yet; submit one with `textmill submit` or `textmill run`")
        else:
            tell(_job_table(found))


def _job_table(found: Any) -> str:
    headers = ["job", "status", "records", "done", "errors", "task", "name", "submitted"]
    rows = [
        [
            job.id,
            job.status,
            number(job.total_records),
            share(job.done_records + job.error_records, job.total_records),
            number(job.error_records),
            job.task,
            shorten(job.name or "", NAME_WIDTH),
            ago(job.created_at),
        ]
        for job in found
    ]
    room = terminal_columns() if sys.stdout.isatty() else None
    return table(headers, rows, right="records,done,errors", columns=room)


def show(job: o.JobRef, json: o.Json = False) -> None:
    """Show one job: status, counts by label, errors by reason, cost, and what to do next.

    \b
    Examples:
      textmill show last
      textmill show 06h0hkxf --json
    """
    from textmill.producer.summary import describe_job, summarize

    with open_context() as context:
        summary = summarize(context.database, context.job(job).id)
        if json:
            emit_json(summary.as_dict())
        else:
            tell(describe_job(summary, context.settings, terminal_columns()))


def _report(context: Context, job_id: str, done: str, json: bool) -> None:
    from textmill.producer.summary import job_as_dict

    job = context.job(job_id)
    if json:
        emit_json(job_as_dict(job))
    else:
        say(
            f"{done} {job.id}: {number(_rows(job))} of {number(job.total_records)} records have "
            "rows"
        )


def cancel(job: o.JobRef, json: o.Json = False) -> None:
    """Cancel a job now; the results it has are kept. Rows that a retry deleted stay deleted.

    \b
    Example:
      textmill cancel 06h0hkxf
    """
    from textmill.db.jobs import cancel_job
    from textmill.db.retry import rows_taken_by_retry

    with open_context() as context:
        row = context.job(job)
        context.database.transact(cancel_job, row.id)
        _report(context, row.id, "cancelled", json)
        with context.database.read() as connection:
            gone = rows_taken_by_retry(connection, row.id)
        if gone:
            say(f"note: {number(gone)} records had rows before `textmill retry`; those are gone")


def pause(job: o.JobRef, json: o.Json = False) -> None:
    """Hold a job back; what is running finishes.

    \b
    Example:
      textmill pause last
    """
    from textmill.db.jobs import pause_job

    with open_context() as context:
        row = context.job(job)
        context.database.transact(pause_job, row.id)
        _report(context, row.id, "paused", json)


def resume(job: o.JobRef, json: o.Json = False) -> None:
    """Let a paused job go on.

    \b
    Example:
      textmill resume last
    """
    from textmill.db.jobs import resume_job
    from textmill.producer.submit import dispatch_job

    with open_context() as context:
        row = context.job(job)
        context.database.transact(resume_job, row.id)
        dispatch_job(context.database, context.publisher, row.id, row.queue)
        _report(context, row.id, "resumed", json)


def retry(job: o.JobRef, every: All = False, json: o.Json = False) -> None:
    """Run the error records of a job again, and whatever a failed job has left.

    With --all every record runs again, from the texts in its results, which are deleted at once.
    On SQLite everything that writes waits meanwhile: about a minute for a million records.

    \b
    Examples:
      textmill retry last && textmill watch last
      textmill retry last --all
    """
    from textmill.db.rerun import rerun_job
    from textmill.db.retry import retry_job
    from textmill.producer.submit import dispatch_job

    with open_context() as context:
        row = context.job(job)
        records = context.database.transact(rerun_job if every else retry_job, row.id)
        dispatch_job(context.database, context.publisher, row.id, row.queue)
        if json:
            emit_json({"id": row.id, "records": records})
            return
        say(f"retrying {number(records)} records of {row.id}; `textmill watch {row.id}`")
        if every:
            gone = _rows(row) - _rows(context.job(row.id))
            say(
                f"note: the job's {number(gone)} rows are gone and come again as its records are "
                "done; `textmill cancel` would not bring them back"
            )


def _rows(job: Any) -> int:
    return int(job.done_records + job.error_records)
