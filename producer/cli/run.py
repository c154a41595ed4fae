"""``textmill run``: services, a worker, the job and its progress in one command."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from textmill.producer.cli import options as o
from textmill.producer.cli.context import Context, open_context
from textmill.producer.cli.submit import make_submission, show_dry_run, submit_records
from textmill.producer.cli.worker import (
    describe_end,
    require_worker_packages,
    start_worker,
    stop_worker,
    worker_command,
    worker_log,
)
from textmill.producer.terminal import emit_json, plural, say, tell, terminal_columns

if TYPE_CHECKING:
    from textmill.producer.summary import Summary

ResumeJob = Annotated[
    str | None,
    typer.Option(
        "--resume",
        metavar="JOB",
        help="Go on with an unfinished job instead of a new one.",
        show_default=False,
    ),
]


def run(
    call: typer.Context,
    arguments: o.Arguments = None,
    task: o.TaskName = None,
    model: o.Model = "",
    model_alias: o.ModelAlias = None,
    id_column: o.IdColumn = None,
    input_format: o.Format = None,
    delimiter: o.Delimiter = None,
    quoting: o.Quoting = "minimal",
    no_header: o.NoHeader = False,
    skip_bad: o.SkipBad = False,
    limit: o.Limit = None,
    dry_run: o.DryRun = False,
    revision: o.Revision = None,
    dtype: o.Dtype = "auto",
    allow_pickle: o.AllowPickle = False,
    trust_remote_code: o.TrustRemoteCode = False,
    name: o.Name = None,
    queue: o.Queue = "default",
    priority: o.PriorityName = "normal",
    key: o.Key = None,
    max_error_rate: o.MaxErrorRate = None,
    store_text: o.StoreTextName = "full",
    full_text: o.FullText = True,
    index_column: o.IndexColumns = None,
    reuse: o.Reuse = False,
    devices: o.Devices = "auto",
    resume: ResumeJob = None,
    json: o.Json = False,
) -> None:
    """Do it all: start what is needed, submit, show progress, print a summary.

    \b
    Examples:
      textmill run sms.tsv --task classification --model ./spam-model
      textmill run comments.csv.gz --model ./m --text-column body --limit 1000
      textmill run batch.jsonl --model-alias gpt-4o-mini=./chat-model
      textmill run --resume 06h0hkxf
    """
    given = dict(locals())
    if resume is not None:
        if arguments or dry_run:
            raise typer.BadParameter("takes no INPUT and no --dry-run", param_hint="--resume")
        submission = None
    else:
        submission = make_submission(**given)
        if dry_run:
            show_dry_run(submission, json=json)
            return
    with open_context(submission.settings if submission else None) as context:
        if submission is None:
            job_id, queue = _resume(context, str(resume))
        with _services(context, devices, queue, _own_permits(context, given)) as started:
            if submission is not None:
                job_id = submit_records(context, submission).job_id
            summary = _watch(context, job_id, started, json=json)
    if json:
        emit_json(summary.as_dict())
    raise typer.Exit(summary.exit_code)


def _resume(context: Context, reference: str) -> tuple[str, str]:
    """The job to go on with and its queue; a paused one is let go."""
    from textmill.core.jobs import JobStatus
    from textmill.db.jobs import resume_job

    job = context.job(reference)
    if job.status == JobStatus.PAUSED:
        context.database.transact(resume_job, job.id)
    return job.id, job.queue


def _own_permits(context: Context, given: Mapping[str, Any]) -> dict[str, str]:
    """What the person allows the worker that this command starts.

    Only with a database of this command's own: a shared one may give the worker others' jobs.
    """
    if context.settings.database_url is not None:
        return {}
    options = ("allow_pickle", "trust_remote_code")
    return {f"TEXTMILL_{name.upper()}": "1" for name in options if given[name]}


@contextmanager
def _services(
    context: Context, devices: str, queue: str, permits: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes] | None]:
    """The embedded broker if it is wanted, and a worker of our own unless one is live."""
    from textmill.core.embedded import EmbeddedServices
    from textmill.core.folders import folder_errors
    from textmill.db.workers import live_workers

    with EmbeddedServices(context.settings):
        with context.database.read() as connection:
            live = live_workers(connection, queue)
        if live:
            ignored = "" if devices == "auto" else f"; --devices {devices} is not used"
            say(f"using {plural(len(live), 'live worker')} of queue {queue!r}{ignored}")
            yield None
            return
        require_worker_packages()
        log = worker_log(context.settings)
        with folder_errors(context.settings.home):
            log.parent.mkdir(parents=True, exist_ok=True)
            file = log.open("ab")
        with file:
            process = start_worker(worker_command(devices, queue), file, permits)
        try:
            yield process
        finally:
            stop_worker(process)


def _watch(
    context: Context, job_id: str, started: subprocess.Popen[bytes] | None, *, json: bool
) -> Summary:
    """Watch to the end, or say how to go on after Ctrl-C."""
    from textmill.core.errors import ServiceUnavailableError
    from textmill.db.jobs import get_job
    from textmill.db.workers import LIVE_SECONDS, live_workers
    from textmill.producer.progress import watch_job
    from textmill.producer.summary import describe_job

    seen_at = time.monotonic()

    def worker_ended() -> str | None:
        nonlocal seen_at
        if started is not None:
            code = started.poll()
            return None if code is None else f"the worker {describe_end(code)}"
        with context.database.read() as connection:
            queue = get_job(connection, job_id).queue
            if live_workers(connection, queue):
                seen_at = time.monotonic()
        # One that died or was ended is replaced by its supervisor, which takes a moment.
        gone = time.monotonic() - seen_at > LIVE_SECONDS
        return f"the last live worker of queue {queue!r} is gone" if gone else None

    say(f"job {job_id}")
    try:
        summary = watch_job(
            context.database,
            job_id,
            settings=context.settings,
            hint=f"Ctrl-C stops it; textmill run --resume {job_id} goes on",
            starting="starting a worker" if started else None,
            stopped=worker_ended,
        )
    except KeyboardInterrupt:
        say("\nstopping: chunks in work are finished, results so far are kept")
        say(f"go on     textmill run --resume {job_id}")
        say(f"give up   textmill cancel {job_id}")
        raise typer.Exit(130) from None
    if not summary.ended:
        raise ServiceUnavailableError(
            f"{worker_ended()}; job {job_id} is kept: `textmill run --resume {job_id}` goes on. "
            f"The worker's log: {worker_log(context.settings)}"
        )
    if not json:
        tell(describe_job(summary, context.settings, terminal_columns()))
    return summary
