"""``textmill results``: the rows of a job, filtered, on the terminal or into a file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from textmill.producer.cli import options as o
from textmill.producer.cli.context import Context, open_context
from textmill.producer.terminal import number, say

if TYPE_CHECKING:
    from sqlalchemy import Row

    from textmill.db.filters import ResultFilter

SHOWN_ROWS = 20

Label = Annotated[
    str | None, typer.Option(help="Only records with this label.", show_default=False)
]
MinScore = Annotated[
    float | None, typer.Option(help="Only scores from here on.", show_default=False)
]
MaxScore = Annotated[float | None, typer.Option(help="Only scores up to here.", show_default=False)]
Search = Annotated[
    str | None,
    typer.Option(
        help='Only texts and outputs with these words: free -call "urgent reply" '
        "(win OR prize) congrat*",
        show_default=False,
    ),
]
ErrorCode = Annotated[
    str | None, typer.Option(help="Only error rows of this code.", show_default=False)
]
Where = Annotated[
    list[str] | None,
    typer.Option(
        metavar="COLUMN=VALUE",
        help="Only records with this in another column of the input; quick where it was declared "
        "with `submit --index-column`. Several must all hold.",
        show_default=False,
    ),
]
After = Annotated[
    str | None,
    typer.Option(help="Go on where an earlier page ended, as it said.", show_default=False),
]
Errors = Annotated[bool, typer.Option("--errors", help="Only error rows.")]
RecordId = Annotated[
    str | None, typer.Option(help="Only the record of this id.", show_default=False)
]
Order = Annotated[
    str, typer.Option(help="input, score (the highest first), or fastest: as they come.")
]
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
        help="table, csv, tsv or jsonl.",
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
    error_code: ErrorCode = None,
    record_id: RecordId = None,
    where: Where = None,
    order: Order = "input",
    after: After = None,
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
      textmill results last --search 'free "urgent reply"' --where country=DE
      textmill results 06h0hkxf --errors --format jsonl
      textmill results last --out spam.csv
    """
    from textmill.db.filters import ResultFilter
    from textmill.db.queries import is_streamed, iter_results
    from textmill.producer.export import write_results

    kind = _kind(kind, out, json)
    wanted = ResultFilter(
        label=label,
        min_score=min_score,
        max_score=max_score,
        search=search,
        errors=True if errors else None,
        error_code=error_code,
        record_id=record_id,
        where=_pairs(where or ()),
        order=cast(Any, order),  # ResultFilter checks it
        after=after,
        limit=limit or None,
    )
    with open_context() as context:
        row = context.job(job)
        if reason := is_streamed(context.database, row, wanted):
            say(f"note: {reason}; looking at every row")
        if search is not None and row.store_text != "full":
            say(f"note: only outputs are searched: the job has --store-text {row.store_text}")
        if kind == "table":
            _show(context, row, wanted, limit)
            return
        written = write_results(
            iter_results(context.database, row, wanted), row.extra_columns, kind=kind, out=out
        )
        if out is not None:
            say(f"{number(written)} rows in {out}")


def _show(context: Context, job: Row[Any], wanted: ResultFilter, limit: int | None) -> None:
    """A page as a table, how many more there are, and how to go on."""
    from textmill.db.queries import count_results, iter_results, read_page
    from textmill.producer.cli.results_table import print_results

    if limit == 0:
        print_results(iter_results(context.database, job, wanted))
        return
    page = read_page(context.database, job, replace(wanted, limit=None), limit or SHOWN_ROWS)
    shown = print_results(page.rows)
    if page.after is None:
        return
    with context.database.read() as connection:
        total = count_results(connection, job, wanted)
    of = "rows, and there are more" if total is None else f"of {number(total)} rows"
    to_go_on = f"--after {page.after} for the next, --limit 0 for all, --out FILE to keep them"
    say(f"{shown} {of}; {to_go_on}")


def _pairs(where: Sequence[str]) -> dict[str, str]:
    """``country=DE`` as a column and its value; raises InvalidJobError."""
    from textmill.core.errors import InvalidJobError

    pairs: dict[str, str] = {}
    for given in where:
        column, equals, value = given.partition("=")
        if not equals or not column:
            raise InvalidJobError(f"--where {given!r}; expected COLUMN=VALUE, such as country=DE")
        if column in pairs:
            raise InvalidJobError(
                f"--where names {column!r} twice, {pairs[column]!r} and {value!r}; a record has one"
            )
        pairs[column] = value
    return pairs


def _kind(kind: str | None, out: Path | None, json: bool) -> str:
    from textmill.producer.export import kind_of

    if kind is not None:
        return kind
    if out is not None:
        return kind_of(out)
    return "jsonl" if json or not sys.stdout.isatty() else "table"
