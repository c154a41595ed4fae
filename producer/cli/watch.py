"""``textmill watch``: live progress of a job that other processes work on."""

from __future__ import annotations

import typer

from textmill.producer.cli import options as o
from textmill.producer.cli.context import open_context
from textmill.producer.terminal import emit_json, say


def watch(job: o.JobRef, json: o.Json = False) -> None:
    """Show a job's progress until it ends. Ctrl-C only stops watching.

    \b
    Examples:
      textmill watch last
      textmill watch 06h0hkxf --json | jq .done_records
    """
    from textmill.producer.progress import watch_job
    from textmill.producer.summary import describe_job

    with open_context() as context:
        job_id = context.job(job).id
        try:
            summary = watch_job(context.database, job_id, settings=context.settings, json=json)
        except KeyboardInterrupt:
            say(f"\nno longer watching; the job goes on. Again: textmill watch {job_id}")
            raise typer.Exit(0) from None
        if json:
            emit_json(summary.as_dict())
        else:
            print(describe_job(summary, context.settings))
        raise typer.Exit(summary.exit_code)
