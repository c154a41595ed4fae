"""``textmill audits``: the book of what was purged and redacted."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from textmill.producer.cli import options as o
from textmill.producer.cli.context import open_context
from textmill.producer.terminal import (
    emit_json,
    number,
    say,
    table,
    tell,
    terminal_columns,
)

Job = Annotated[
    str | None,
    typer.Argument(metavar="JOB", help="Only of this job.", show_default="all jobs"),
]
Count = Annotated[int, typer.Option("--limit", help="How many, the latest first.", min=1)]


def audits(job: Job = None, limit: Count = 20, json: o.Json = False) -> None:
    """List each purge and redaction, the latest first: when, how many records, on what terms.

    \b
    Examples:
      textmill audits
      textmill audits 06h0hkxf --json
    """
    from textmill.db.audits import list_audits

    with open_context() as context:
        job_id = None if job is None else context.job(job).id
        with context.database.read() as connection:
            found = list_audits(connection, job_id=job_id, limit=limit)
    if json:
        emit_json([{str(name): value for name, value in row._mapping.items()} for row in found])
    elif not found:
        say("nothing was purged or redacted yet")
    else:
        headers = ["when", "action", "job", "records", "what", "finished", "files"]
        room = terminal_columns() if sys.stdout.isatty() else None
        tell(table(headers, list(map(_line, found)), right="records", columns=room))


def _line(row: Any) -> list[str]:
    return [
        _time(row.at),
        row.action,
        row.job_id or "",
        number(row.records),
        _asked(row.detail or {}),
        "cut off" if row.finished_at is None else "yes",
        _files(row),
    ]


def _files(row: Any) -> str:
    if row.vacuumed_at is not None:
        return "rewritten"
    found = (row.detail or {}).get("masked")
    return "unchanged" if row.finished_at is not None and found == {} else "left"


def _time(seconds: float) -> str:
    from datetime import UTC, datetime

    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def _asked(detail: dict[str, Any]) -> str:
    """Such as ``older than 30d``, ``record-id (2)``, ``email 3, phone 1``."""
    if "kinds" in detail:
        masked = detail.get("masked", {})
        return ", ".join(f"{kind} {number(count)}" for kind, count in masked.items()) or "nothing"
    if "older_than" in detail:
        return f"older than {detail['older_than']}"
    ids = f" ({detail['ids']})" if "ids" in detail else ""
    return f"{detail.get('by', '')}{ids}"
