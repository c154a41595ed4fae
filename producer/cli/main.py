"""The console command: its commands, and how errors reach a person.

Command modules import what they need when they run, so that ``textmill --help`` is quick.
"""

from __future__ import annotations

import io
import logging
import os
import sys

import typer

from textmill.core.errors import TextmillError
from textmill.producer.cli import (
    audits,
    database,
    doctor,
    jobs,
    purge,
    redact,
    results,
    run,
    sql,
    submit,
    sweep,
    tasks,
    up,
    watch,
    worker,
)
from textmill.producer.terminal import say

EPILOG = (
    "Exit codes: 0 done, 1 failed, 2 wrong usage or input, 3 done with record errors, "
    "130 Ctrl-C. "
    "Every command has --help with examples."
)

app = typer.Typer(
    name="textmill",
    help="Run text models over large batches: jobs in SQL, chunks through Redis, results in SQL.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

# What these two do not know may be an option of the task: see task_options.
task_options = {"allow_extra_args": True, "ignore_unknown_options": True}
app.command("run", context_settings=task_options)(run.run)
app.command("submit", context_settings=task_options)(submit.submit)
app.command("tasks")(tasks.tasks)
app.command("jobs")(jobs.list_jobs)
app.command("show")(jobs.show)
app.command("watch")(watch.watch)
app.command("results")(results.results)
app.command("sql")(sql.sql)
app.command("cancel")(jobs.cancel)
app.command("pause")(jobs.pause)
app.command("resume")(jobs.resume)
app.command("retry")(jobs.retry)
app.command("purge")(purge.purge)
app.command("redact")(redact.redact)
app.command("audits")(audits.audits)
app.command("worker")(worker.worker)
app.command("up")(up.up)
app.command("sweep")(sweep.sweep)
app.command("doctor")(doctor.doctor)
app.add_typer(database.app, name="db")


def main() -> None:
    """Entry of the console script."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # what it cannot show is no reason for a traceback
        sys.stdout.reconfigure(errors="backslashreplace")
    # What it says of a lost connection is an error as well, which is told in our words.
    logging.getLogger("psycopg").addHandler(logging.NullHandler())
    try:
        app()
    except TextmillError as error:
        say(f"error: {error}")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        say("interrupted")
        sys.exit(130)
    except BrokenPipeError:  # `textmill results … | head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:  # a full or read-only disk, wherever it is met
        about = f"{error.filename}: " if error.filename else ""
        say(f"error: {about}{error.strerror or error}")
        sys.exit(1)
