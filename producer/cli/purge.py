"""``textmill purge``: texts, outputs and ids of records go, for good."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from textmill.core.storable import require_storable
from textmill.producer.cli import options as o
from textmill.producer.cli.context import Context, open_context
from textmill.producer.cli.removal import (
    SHOWN_JOBS,
    Counter,
    PassedOver,
    check_older_than,
    confirm,
    counting,
    name_unended,
    rid_files,
)
from textmill.producer.terminal import emit_json, number, plural, say

if TYPE_CHECKING:
    from sqlalchemy import Row

Jobs = Annotated[
    list[str] | None,
    typer.Option(
        "--job",
        metavar="JOB",
        help="This job; once for each. With --record-id: only there.",
        show_default=False,
    ),
]
RecordIds = Annotated[
    list[str] | None,
    typer.Option(
        "--record-id",
        metavar="ID",
        help="The record of this id, in every job that has it; once for each.",
        show_default=False,
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would go, and change nothing.")]


@dataclass(frozen=True, slots=True)
class Step:
    """A job, how many of its rows lose their texts, and what does that."""

    job: Row[Any]
    records: int
    run: Callable[[Counter], int]


def purge(
    older_than: o.OlderThan = None,
    job: Jobs = None,
    record_id: RecordIds = None,
    dry_run: DryRun = False,
    yes: o.Yes = False,
    vacuum: o.Vacuum = True,
    json: o.Json = False,
) -> None:
    """Remove texts, outputs and record ids of jobs that have ended, and their bytes on disk.

    Each row stays with its label, score, error code and tokens, so that counts stay right. To have
    no byte left, the database's files are rewritten, and whatever writes waits meanwhile.

    \b
    Examples:
      textmill purge --older-than 30d
      textmill purge --job 06h0hkxf --dry-run
      textmill purge --record-id customer-4711 --yes
    """
    _check(older_than, job, record_id)
    with open_context() as context:
        passed = PassedOver(named=older_than is None)
        steps = _plan(context, older_than, job or [], record_id or [], passed)
        unended = [] if older_than is None else name_unended(context, older_than, "purge --job")
        passed.tell()
        done = _do(steps, passed, dry_run=dry_run, yes=yes)
        records = sum(done.values())
        gone = not (dry_run or passed.are_all(steps)) and rid_files(context, wanted=vacuum)
        if json:
            jobs = [{"id": job_id, "records": count} for job_id, count in done.items()]
            told: dict[str, Any] = {"jobs": jobs, "records": records}
            told |= {"passed_over": list(passed.errors), "not_ended": unended}
            emit_json(told | {"dry_run": dry_run, "vacuumed": gone})
        elif steps and not dry_run:
            say(f"purged {plural(records, 'record')} of {plural(len(done), 'job')}")
        passed.end()


def _check(older_than: str | None, job: Sequence[str] | None, ids: Sequence[str] | None) -> None:
    if older_than is not None:
        check_older_than(older_than, alone=not (job or ids))
    if older_than is None and not job and not ids:
        raise typer.BadParameter(
            "expected what to purge: --older-than 30d, --job JOB, or --record-id ID"
        )
    if ids and not all(ids):
        raise typer.BadParameter("expected an id that is not empty", param_hint="--record-id")
    for record_id in ids or ():
        require_storable("--record-id", record_id, "an id")


def _plan(
    context: Context,
    older_than: str | None,
    references: Sequence[str],
    ids: Sequence[str],
    passed: PassedOver,
) -> list[Step]:
    from textmill.db.dead_loads import remove_dead_loads

    remove_dead_loads(context.database)  # one may hold what is meant, and ends by itself
    rows = {row.id: row for row in map(context.job, references)}
    if ids:
        return _plan_records(context, ids, list(rows.values()), passed)
    return _plan_jobs(context, older_than, list(rows.values()), passed)


def _plan_jobs(
    context: Context, older_than: str | None, rows: Sequence[Row[Any]], passed: PassedOver
) -> list[Step]:
    from textmill.core.jobs import purge_day
    from textmill.db import purge as purging
    from textmill.producer.ages import parse_age

    database = context.database
    asked = {"older_than": older_than} if older_than is not None else {"by": "job"}

    def step(job: Row[Any], records: int) -> Step:
        return Step(
            job, records, lambda counter: purging.purge_job(database, job.id, asked, counter)
        )

    steps = []
    with database.read() as connection:
        if older_than is not None:
            for one in purging.find_old(connection, parse_age(older_than)):
                with passed.on_conflict(one.job.id):
                    purging.check_purgeable(connection, one.job)
                    steps.append(step(one.job, one.records))
        for job in rows:
            with passed.on_conflict(job.id):
                purging.check_purgeable(connection, job)
                if purging.is_purged(connection, job):
                    say(f"job {job.id} was purged on {purge_day(job.purged_at)} already")
                else:
                    steps.append(step(job, purging.count_left(connection, job)))
    return steps


def _plan_records(
    context: Context, ids: Sequence[str], rows: Sequence[Row[Any]], passed: PassedOver
) -> list[Step]:
    from textmill.core.errors import InvalidJobError
    from textmill.db import record_purge as purging

    database, wanted = context.database, frozenset(ids)
    places = [job.id for job in rows] or [None]
    found = [one for place in places for one in purging.find_records(database, wanted, place)]
    if not found:
        where = f"job {', '.join(job.id for job in rows)}" if rows else "any job"
        raise InvalidJobError(
            f"no record {', '.join(map(repr, sorted(wanted)))} in {where}; ids are compared as "
            "they are, and a purged record has none"
        )
    asked = {"by": "record-id", "ids": len(wanted)}

    def step(one: purging.Found) -> Step:
        return Step(
            one.job, one.records, lambda _: purging.purge_records(database, one, wanted, asked)
        )

    steps = []
    for one in found:
        with passed.on_conflict(one.job.id):
            purging.check_ended(one.job)
            steps.append(step(one))
    return steps


def _show(steps: Sequence[Step], doing: str) -> None:
    records = sum(step.records for step in steps)
    say(f"{doing} {plural(records, 'record')} of {plural(len(steps), 'job')}")
    for step in steps[:SHOWN_JOBS]:
        say(f"  {step.job.id}  {number(step.records):>12}  {step.job.name or ''}".rstrip())
    if len(steps) > SHOWN_JOBS:
        say(f"  … and {plural(len(steps) - SHOWN_JOBS, 'more job')}")


def _do(steps: Sequence[Step], passed: PassedOver, *, dry_run: bool, yes: bool) -> dict[str, int]:
    """How many records were purged of which job, or would be."""
    planned = {step.job.id: step.records for step in steps}
    if not steps:
        if not passed.errors:  # or these say why
            say("nothing to purge")
        return planned
    if dry_run:
        _show(steps, "would purge")
        return planned
    _show(steps, "purging")
    confirm(f"purge {plural(sum(planned.values()), 'record')}, for good?", yes=yes)
    return _run(steps, passed)


def _run(steps: Sequence[Step], passed: PassedOver) -> dict[str, int]:
    done = {}
    with counting("purged") as counter:
        for step in steps:
            with passed.on_conflict(step.job.id):
                done[step.job.id] = step.run(counter)
    return done
