"""``textmill watch``: live progress of a job that other processes work on."""

from __future__ import annotations

from typing import Annotated

import typer

from textmill.producer.cli import options as o
from textmill.producer.cli.context import open_context
from textmill.producer.terminal import emit_json, say, tell, terminal_columns

Interval = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        min=0,
        help="At least so long between two lines, or two changes of what a terminal shows.",
        show_default="5 for plain lines, else 0",
    ),
]


def watch(job: o.JobRef, interval: Interval = None, json: o.Json = False) -> None:
    """Show a job's progress until it ends. Ctrl-C only stops watching.

    On a terminal it changes in place; elsewhere it is a line every few seconds, or with --json an
    object a line whenever something changed: docs/watching.md explains each field.

    \b
    Examples:
      textmill watch last
      textmill watch last --interval 60 2>> watch.log
      textmill watch 06h0hkxf --json | jq .done_records
    """
    from textmill.producer.moment import Moment
    from textmill.producer.progress import watch_job
    from textmill.producer.summary import describe_job

    with open_context() as context:
        job_id = context.job(job).id
        try:
            summary = watch_job(
                context.database,
                job_id,
                settings=context.settings,
                json=json,
                interval=interval,
                hint="Ctrl-C stops watching; the job goes on",
            )
        except KeyboardInterrupt:
            say(f"\nno longer watching; the job goes on. Again: textmill watch {job_id}")
            raise typer.Exit(0) from None
        if json:
            emit_json(Moment(summary).as_dict())
        else:
            tell(describe_job(summary, context.settings, terminal_columns()))
        raise typer.Exit(summary.exit_code)
