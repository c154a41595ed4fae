"""``textmill results``: the rows of a job, filtered, on the terminal or into a file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from textmill.producer.cli import options as o
from textmill.producer.cli.context import open_context
from textmill.producer.terminal import number, say

SHOWN_ROWS = 20

Label = Annotated[
    str | None, typer.Option(help="Only records with this label.", show_default=False)
]
MinScore = Annotated[
    float | None, typer.Option(help="Only scores from here on.", show_default=False)
]
MaxScore = Annotated[float | None, typer.Option(help="Only scores up to here.", show_default=False)]
Search = Annotated[
    str | None, typer.Option(help="Only texts that contain this.", show_default=False)
]
Errors = Annotated[bool, typer.Option("--errors", help="Only error rows.")]
RecordId = Annotated[
    str | None, typer.Option(help="Only the record of this id.", show_default=False)
]
Order = Annotated[str, typer.Option(help="input, or score: the highest first.")]
Rows = Annotated[
    int | None,
    typer.Option(
        "--limit",
        min=0,
        help="At most this many rows, 0 for all.",
        show_default=f"{SHOWN_ROWS} in a table, else all",
    ),
]
Kind = Annotated[
    str | None,
    typer.Option(
        "--format",
        help="table, csv, tsv or jsonl; of an OpenAI batch file also openai-batch.",
        show_default="table on a terminal, else jsonl; by the name of --out",
    ),
]
Out = Annotated[Path | None, typer.Option(help="Write to this new file.", show_default=False)]


def results(
    job: o.JobRef,
    label: Label = None,
    min_score: MinScore = None,
    max_score: MaxScore = None,
    search: Search = None,
    errors: Errors = False,
    record_id: RecordId = None,
    order: Order = "input",
    limit: Rows = None,
    kind: Kind = None,
    out: Out = None,
    json: o.Json = False,
) -> None:
    """Print or export the results of a job, also while it runs.

    \b
    Examples:
      textmill results last --label spam --min-score 0.9
      textmill results last --order score --limit 3
      textmill results 06h0hkxf --errors --format jsonl
      textmill results last --out spam.csv
      textmill results last --format openai-batch --out answers.jsonl
    """
    from textmill.db.queries import ResultFilter, count_results, iter_results
    from textmill.producer.cli.batch_results import export_batch
    from textmill.producer.cli.results_table import print_results
    from textmill.producer.export import write_results

    kind = _kind(kind, out, json)
    wanted = ResultFilter(
        label=label,
        min_score=min_score,
        max_score=max_score,
        search=search,
        errors=True if errors else None,
        record_id=record_id,
        order=cast(Any, order),  # ResultFilter checks it
        limit=(limit or None) if limit is not None or kind != "table" else SHOWN_ROWS,
    )
    with open_context() as context:
        row = context.job(job)
        rows = iter_results(context.database, row, wanted)
        if kind == "openai-batch":
            export_batch(rows, row, out, whole=wanted == ResultFilter())
        elif kind == "table":
            shown = print_results(rows)
            with context.database.read() as connection:
                total = count_results(connection, row, wanted)
            if total > shown:
                say(f"{shown} of {number(total)} rows; --limit 0 for all, --out FILE to keep them")
        else:
            written = write_results(rows, row.extra_columns, kind=kind, out=out)
            if out is not None:
                say(f"{number(written)} rows in {out}")


def _kind(kind: str | None, out: Path | None, json: bool) -> str:
    from textmill.producer.export import kind_of

    if kind is not None:
        return kind
    if out is not None:
        return kind_of(out)
    return "jsonl" if json or not sys.stdout.isatty() else "table"
