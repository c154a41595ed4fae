"""``textmill redact``: personal data in stored texts and outputs becomes placeholders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from textmill.producer.cli import options as o
from textmill.producer.cli.context import Context, open_context
from textmill.producer.cli.removal import (
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

    from textmill.core.masking import Masker
    from textmill.db.redaction import Redaction

Jobs = Annotated[
    list[str] | None,
    typer.Argument(metavar="JOB...", help="Jobs that have ended.", show_default=False),
]
Kinds = Annotated[
    str | None,
    typer.Option(
        metavar="KINDS", help="Some of email, iban, card, phone; by comma.", show_default="all"
    ),
]
Region = Annotated[
    str | None,
    typer.Option(
        metavar="COUNTRY",
        help="Find telephone numbers as they are written within this country too, such as GB.",
        show_default="only those that begin with +",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Count what is found, change nothing.")]


def redact(
    jobs: Jobs = None,
    older_than: o.OlderThan = None,
    kinds: Kinds = None,
    region: Region = None,
    dry_run: DryRun = False,
    yes: o.Yes = False,
    vacuum: o.Vacuum = True,
    json: o.Json = False,
) -> None:
    """Mask e-mail addresses, telephone and card numbers and IBANs in what ended jobs store.

    In texts, outputs, details, extra columns, error messages and kept inputs; ids of records stay.
    Then the database's files are rewritten, as by `textmill purge`.

    \b
    Examples:
      textmill redact last --dry-run
      textmill redact --older-than 7d --region GB
      textmill redact 06h0hkxf --kinds email,card --yes
    """
    from textmill.core.masking import KINDS, Masker

    if older_than is not None:
        check_older_than(older_than, alone=not jobs)
    elif not jobs:
        raise typer.BadParameter("expected jobs, or --older-than AGE", param_hint="JOB")
    wanted = KINDS if kinds is None else [kind.strip() for kind in kinds.split(",")]
    masker = Masker(wanted, region)
    asked = {"kinds": sorted(wanted), **({"region": region} if region else {})}
    asked |= {"older_than": older_than} if older_than is not None else {}
    with open_context() as context:
        passed = PassedOver(named=older_than is None)
        rows = _find(context, jobs or [], older_than, passed)
        unended = [] if older_than is None else name_unended(context, older_than, "redact")
        passed.tell()
        if rows and not dry_run:
            confirm(f"mask what is found in {plural(len(rows), 'job')}, for good?", yes=yes)
        done = _run(context, rows, masker, asked, dry_run, passed)
        gone = not (dry_run or passed.are_all(done)) and rid_files(context, wanted=vacuum)
        if json:
            about = {"passed_over": list(passed.errors), "not_ended": unended}
            emit_json(_as_dict(done, dry_run, gone) | about)
        elif done or not passed.errors:
            _report(done, dry_run)
        passed.end()


def _find(
    context: Context, references: Sequence[str], older_than: str | None, passed: PassedOver
) -> list[Row[Any]]:
    from textmill.db.redaction import check_redactable, find_old
    from textmill.producer.ages import parse_age

    rows = list({row.id: row for row in map(context.job, references)}.values())
    with context.database.read() as connection:
        if older_than is not None:
            rows = find_old(connection, parse_age(older_than))
        for row in rows:
            with passed.on_conflict(row.id):
                check_redactable(connection, row)
    return [row for row in rows if row.id not in passed.errors]


def _run(
    context: Context,
    rows: Sequence[Row[Any]],
    masker: Masker,
    asked: dict[str, Any],
    dry_run: bool,
    passed: PassedOver,
) -> list[tuple[Row[Any], Redaction]]:
    from textmill.db.redaction import redact_job

    database, done = context.database, []
    with counting("looked at") as counter:
        for row in rows:
            with passed.on_conflict(row.id):
                one = redact_job(database, row.id, masker, asked, dry_run=dry_run, report=counter)
                done.append((row, one))
    return done


def _as_dict(
    done: Sequence[tuple[Row[Any], Redaction]], dry_run: bool, gone: bool
) -> dict[str, Any]:
    jobs = [
        {"id": row.id, "records": one.records, "masked": dict(one.masked), "ids": one.ids}
        for row, one in done
    ]
    return {"jobs": jobs, "dry_run": dry_run, "vacuumed": gone}


def _report(done: Sequence[tuple[Row[Any], Redaction]], dry_run: bool) -> None:
    would = "would mask" if dry_run else "masked"
    if not done:
        say("nothing to redact")
    for row, one in done:
        say(f"{row.id}: {would} {_counts(one.masked)} in {plural(one.records, 'record')}")
    ids = sum(one.ids for _, one in done)
    if ids:
        say(
            f"note: {plural(ids, 'record id')} hold such data and stay; `textmill purge "
            "--record-id` removes such records"
        )


def _counts(masked: Counter[str]) -> str:
    found = [f"{number(count)} {kind}" for kind, count in sorted(masked.items())]
    return ", ".join(found) or "nothing"
