"""``textmill submit``, and what it shares with ``run``: from options to a job."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from textmill.producer.cli import options as o
from textmill.producer.cli.context import Context, open_context
from textmill.producer.terminal import can_repaint, emit_json, number, plural, say, shorten, tell

if TYPE_CHECKING:
    from textmill.core.jobs import JobSpec
    from textmill.core.settings import Settings
    from textmill.producer.cli.task_options import TaskOptions
    from textmill.producer.openai_batch import BatchReader
    from textmill.producer.readers import ReadOptions, RecordRules, Records
    from textmill.producer.submit import Submitted


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """What the person asked for, checked: the job, where its records are and how to read them."""

    inputs: Sequence[Path]
    spec: JobSpec
    rules: RecordRules
    reading: ReadOptions
    settings: Settings
    batch: BatchReader | None = None  # inputs that were recognised, and are open

    def open(self) -> Records:
        """Open the inputs; raises InputError."""
        from textmill.producer.readers import open_records

        if self.batch is not None:
            return self.batch
        return open_records(self.inputs, self.rules.params.fields(), self.reading, self.rules)


def submit(
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
    json: o.Json = False,
) -> None:
    """Put a job into the queue and print its id.

    \b
    Examples:
      textmill submit sms.tsv --task classification --model ./spam-model
      textmill submit day1.csv.gz day2.csv.gz --model ./m --text-column body --id-column id
      zcat log.gz | textmill submit - --model ./m --key log-2026-11-23 --max-error-rate 5%
    """
    submission = make_submission(**locals())
    if dry_run:
        show_dry_run(submission, json=json)
        return
    with open_context(submission.settings) as context:
        submitted = submit_records(context, submission)
        warn_if_waiting(context, submission, submitted)
        if json:
            emit_json(submitted)
        else:
            tell(submitted.job_id)


def make_submission(**given: Any) -> Submission:
    """A Submission of the command's options; raises InvalidJobError before anything is opened."""
    from textmill.core.settings import load_settings
    from textmill.core.tasks import load_plugins
    from textmill.producer.cli.batch_options import find_batch

    settings = load_settings()
    load_plugins(settings.plugins)
    options, batch = find_batch(given, _own_options(given["call"]))
    try:
        return _make_submission(given, options, batch, settings)
    except BaseException:
        if batch is not None:
            batch.close()
        raise


def _make_submission(
    given: Mapping[str, Any], options: TaskOptions, batch: BatchReader | None, settings: Settings
) -> Submission:
    from textmill.core.jobs import JobSpec
    from textmill.core.stored_texts import parse_store_text
    from textmill.producer.cli.batch_options import choose_task
    from textmill.producer.submit import name_after, parse_priority, validate_spec

    if not options.inputs:
        raise typer.BadParameter("expected at least one file, or - for stdin", param_hint="INPUT")
    task, model, params = choose_task(given, options, batch)
    inputs = [Path(name) for name in options.inputs]
    asked = JobSpec(
        task=task,
        model=model,
        params=params,
        revision=given["revision"],
        dtype=given["dtype"],
        allow_pickle=given["allow_pickle"],
        trust_remote_code=given["trust_remote_code"],
        name=given["name"] or name_after(inputs),
        queue=given["queue"],
        priority=parse_priority(given["priority"]),
        key=given["key"],
        max_error_rate=parse_rate(given["max_error_rate"]),
        store_text=parse_store_text(given["store_text"]),
        full_text=given["full_text"],
        index_columns=tuple(dict.fromkeys(given["index_column"] or ())),
        reuse=given["reuse"],
    )
    reading = read_options(given, options.columns)
    spec, rules = validate_spec(asked, settings)
    return Submission(
        inputs=inputs, spec=spec, rules=rules, reading=reading, settings=settings, batch=batch
    )


def read_options(given: Mapping[str, Any], columns: Mapping[str, str]) -> ReadOptions:
    """How the inputs are read; raises InvalidJobError."""
    from textmill.core.errors import InvalidJobError
    from textmill.producer.readers import ReadOptions

    if given["quoting"] not in ("minimal", "none"):
        raise InvalidJobError(f"--quoting is {given['quoting']!r}; expected minimal or none")
    return ReadOptions(
        columns=columns,
        id_column=given["id_column"],
        format=given["input_format"],
        delimiter=given["delimiter"],
        quoting=given["quoting"],
        header=not given["no_header"],
        limit=given["limit"],
        skip_bad=given["skip_bad"],
    )


def _own_options(call: typer.Context) -> list[str]:
    """The options that the command itself declares."""
    return [name for one in call.command.params for name in one.opts if name.startswith("--")]


def parse_rate(value: str | None) -> float | None:
    """``5%`` and ``0.05`` are the same share; raises InvalidJobError for anything else."""
    if value is None:
        return None
    from textmill.core.errors import InvalidJobError

    try:
        rate = float(value.removesuffix("%")) / (100 if value.endswith("%") else 1)
    except ValueError:
        rate = -1.0
    if not 0 <= rate <= 1:
        raise InvalidJobError(
            f"--max-error-rate is {value!r}; expected a share such as 5% or 0.05, at most 100%"
        )
    return rate


def submit_records(context: Context, submission: Submission) -> Submitted:
    """Read the inputs into SQL, with a line of progress for a person; returns the job."""
    from textmill.core.jobs import purge_day
    from textmill.producer.submit import submit_job

    spec = submission.spec
    with submission.open() as reader:
        try:
            submitted = submit_job(
                context.database,
                context.publisher,
                spec,
                reader,
                lease_seconds=context.settings.lease_seconds,
                hash_key=context.settings.hash_key_bytes,
                progress=_LoadProgress(),
                on_wait=lambda reason: say(f"waiting: {reason}"),
                on_reusable=lambda rows: say(f"{number(rows)} earlier results may answer records"),
            )
        except KeyboardInterrupt:
            say("interrupted: nothing was submitted")
            raise
        finally:
            _LoadProgress.clear()
    if submission.batch is not None:
        say(submission.batch.census.describe())
    if submitted.existing:
        job = context.job(submitted.job_id)
        status = job.status
        if job.purged_at is not None:
            status += f", purged on {purge_day(job.purged_at)}"
        say(f"key {spec.key!r} is job {submitted.job_id} ({status}) already; nothing was submitted")
    return submitted


class _LoadProgress:
    """A counter on a terminal while the input is loaded; silence elsewhere."""

    def __call__(self, records: int) -> None:
        if can_repaint(sys.stderr):
            sys.stderr.write(f"\rloading {number(records)} records")
            sys.stderr.flush()

    @staticmethod
    def clear() -> None:
        if can_repaint(sys.stderr):
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()


def warn_if_waiting(context: Context, submission: Submission, submitted: Submitted) -> None:
    """Say what the job waits for: a broker, a worker, or a worker of its queue."""
    from textmill.core.jobs import ENDED, JobStatus
    from textmill.db.workers import live_workers

    job = context.job(submitted.job_id)
    if JobStatus(job.status) in ENDED:
        return
    if submitted.undispatched:
        say(f"note: accepted, not dispatched yet: {submitted.undispatched}")
    with context.database.read() as connection:
        workers = live_workers(connection, job.queue)
    if not workers:
        queue = "" if job.queue == "default" else f" --queues {job.queue}"
        command = "textmill up" if context.settings.embedded_broker else "textmill worker"
        say(f"note: no live worker serves queue {job.queue!r}; start one with `{command}{queue}`")


def show_dry_run(submission: Submission, *, json: bool) -> None:
    """Read and check everything, write nothing."""
    from textmill.core.jobs import BadRecord
    from textmill.producer.submit import check_index_columns, iter_dry

    spec = submission.spec
    records = bad = 0
    first: list[str] = []
    with submission.open() as reader:
        check_index_columns(spec, reader)
        for record in iter_dry(reader):
            records += 1
            if isinstance(record, BadRecord):
                bad += 1
            elif len(first) < 3:
                first.append(f"{record.record_id}: {shorten(str(record.inputs), 70)}")
        fields, extra = dict(reader.fields), list(reader.extra_columns)
    chunks = -(-(records - bad) // (spec.chunk_records or submission.rules.task.chunk_records))
    if json:
        found = {"records": records, "bad_records": bad, "chunks": chunks, "columns": fields}
        emit_json(found | {"full_text": spec.full_text, "index_columns": spec.index_columns})
        return
    if submission.batch is not None:
        say(submission.batch.census.describe())
    say(f"would submit {plural(records, 'record')} in about {plural(chunks, 'chunk')} ({bad} bad)")
    say(f"  task     {spec.task} {spec.params or ''}".rstrip())
    say(f"  model    {spec.model}" + (f" @ {spec.model_version}" if spec.model_version else ""))
    say(f"  columns  {', '.join(f'{f} = {c!r}' for f, c in fields.items())}")
    say(f"  kept     {', '.join(extra) or 'no other columns'}")
    indexed = [*(["words"] if spec.full_text else []), *spec.index_columns]
    say(f"  indexed  {', '.join(indexed) or 'nothing for --search and --where'}")
    for line in first:
        say(f"  record   {line}")
    say("nothing was written")
