"""``textmill results``: the rows of a job, filtered, on the terminal or into a file."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from textmill.core.errors import InvalidJobError
from textmill.producer.cli import options as o
from textmill.producer.cli.context import open_context
from textmill.producer.terminal import number, say

if TYPE_CHECKING:
    from textmill.db.queries import ResultFilter

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
Order = Annotated[
    str,
    typer.Option(
        help="input, fastest: as is read with the least work, or score: the highest first."
    ),
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
        help="table, csv, tsv, jsonl, parquet, arrow or datasets: a folder for Hugging Face.",
        show_default="table on a terminal, else jsonl; by the name of --out",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        help="Write to this new file; .gz or .zst at the end of a text's name compresses it.",
        show_default=False,
    ),
]
Force = Annotated[
    bool, typer.Option("--force", help="Replace what --out names, once the new one is whole.")
]
SpreadsheetSafe = Annotated[
    bool,
    typer.Option(
        "--spreadsheet-safe", help="In csv and tsv: no text is a formula for a spreadsheet."
    ),
]


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
    force: Force = False,
    spreadsheet_safe: SpreadsheetSafe = False,
    json: o.Json = False,
) -> None:
    """Print or export the results of a job, also while it runs.

    \b
    Examples:
      textmill results last --label spam --min-score 0.9
      textmill results last --order score --limit 3
      textmill results 06h0hkxf --errors --format jsonl
      textmill results last --out all.parquet
      textmill results last --label spam --out spam.csv.gz --spreadsheet-safe
      textmill results last --format datasets --out results-for-training
    """
    from textmill.db.queries import ResultFilter

    to_table = _is_table(kind, out, json, force, spreadsheet_safe)
    wanted = ResultFilter(
        label=label,
        min_score=min_score,
        max_score=max_score,
        search=search,
        errors=True if errors else None,
        record_id=record_id,
        order=cast(Any, "input" if order == "fastest" else order),  # ResultFilter checks it
        limit=(limit or None) if limit is not None or not to_table else SHOWN_ROWS,
    )
    if to_table:
        _print(job, wanted)
    else:
        _export(job, wanted, kind, out, force=force, spreadsheet_safe=spreadsheet_safe)


def _is_table(
    kind: str | None, out: Path | None, json: bool, force: bool, spreadsheet_safe: bool
) -> bool:
    """Whether a person reads the rows; raises InvalidJobError for options of the other case."""
    to_table = kind == "table" or (not kind and not out and not json and sys.stdout.isatty())
    if to_table and out is not None:
        raise InvalidJobError("a table is for the terminal; leave --format table or --out out")
    if to_table and spreadsheet_safe:
        raise InvalidJobError("--spreadsheet-safe is for files; pass --out FILE.csv")
    if force and out is None:
        raise InvalidJobError("--force replaces what --out names; pass --out too")
    return to_table


def _print(job: str, wanted: ResultFilter) -> None:
    from textmill.db.queries import count_results, iter_results
    from textmill.producer.cli.results_table import print_results

    with open_context() as context:
        row = context.job(job)
        shown = print_results(iter_results(context.database, row, wanted))
        with context.database.read() as connection:
            total = count_results(connection, row, wanted)
        if total > shown:
            say(f"{shown} of {number(total)} rows; --limit 0 for all, --out FILE to keep them")


def _export(
    job: str,
    wanted: ResultFilter,
    kind: str | None,
    out: Path | None,
    *,
    force: bool,
    spreadsheet_safe: bool,
) -> None:
    import pyarrow as pa

    from textmill.db.batches import iter_matching
    from textmill.producer.exports import Export, find_format, write_export

    pa.set_memory_pool(pa.system_memory_pool())  # Arrow's own keeps 12 MB more
    wanted_format = find_format(kind, out)
    with open_context() as context, _ended_by_signals():
        row = context.job(job)
        export = Export(
            job=row,
            read=partial(iter_matching, context.database, row, wanted),
            format=wanted_format.name,
            spreadsheet_safe=spreadsheet_safe,
        )
        written = write_export(export, out, force=force)
    if out is not None:
        say(f"{number(written)} rows in {out}")


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Leave by an exception where a signal would end the process: what is half made is removed."""

    def stop(sign: int, frame: Any) -> None:
        signal.signal(sign, signal.SIG_IGN)  # while it is removed
        raise SystemExit(128 + sign)

    before = {sign: signal.getsignal(sign) for sign in (signal.SIGTERM, signal.SIGHUP)}
    for sign, handler in before.items():
        if handler != signal.SIG_IGN:  # of nohup
            signal.signal(sign, stop)
    try:
        yield
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)
