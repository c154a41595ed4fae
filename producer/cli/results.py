"""``textmill results``: the rows of a job, filtered, on the terminal or into a file."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from textmill.core.errors import InvalidJobError
from textmill.producer.cli import options as o
from textmill.producer.cli import result_options as r
from textmill.producer.cli.context import Context, open_context
from textmill.producer.terminal import number, plural, say

if TYPE_CHECKING:
    from sqlalchemy import Row

    from textmill.db.filters import ResultFilter

OPENAI = "openai-batch"


def results(
    job: o.JobRef,
    label: r.Label = None,
    min_score: r.MinScore = None,
    max_score: r.MaxScore = None,
    search: r.Search = None,
    errors: r.Errors = False,
    error_code: r.ErrorCode = None,
    record_id: r.RecordId = None,
    where: r.Where = None,
    order: r.Order = "input",
    after: r.After = None,
    limit: r.Rows = None,
    kind: r.Kind = None,
    out: r.Out = None,
    force: r.Force = False,
    spreadsheet_safe: r.SpreadsheetSafe = False,
    json: o.Json = False,
) -> None:
    """Print or export the results of a job, also while it runs.

    \b
    Examples:
      textmill results last --label spam --min-score 0.9
      textmill results last --order score --limit 3
      textmill results last --search 'free "urgent reply"' --where country=DE
      textmill results 06h0hkxf --errors --format jsonl
      textmill results last --out all.parquet
      textmill results last --label spam --out spam.csv.gz --spreadsheet-safe
      textmill results last --format datasets --out results-for-training
      textmill results last --format openai-batch --out answers.jsonl
    """
    from textmill.db.filters import ResultFilter

    if json:
        _check_json(kind, out)
    to_table = _is_table(kind, out, json, force, spreadsheet_safe)
    wanted = ResultFilter(
        label=label,
        min_score=min_score,
        max_score=max_score,
        search=search,
        errors=True if errors else None,
        error_code=error_code,
        record_id=record_id,
        order=cast(Any, order),  # ResultFilter checks it
        after=after,
        limit=limit or None,
    )
    with open_context() as context:
        row = context.job(job)
        wanted = replace(wanted, where=_pairs(where or (), row.extra_columns))
        if kind == OPENAI:
            _export_batch(context, row, wanted, out, force=force)
            return
        _note(context, row, wanted)
        if to_table:
            _show(context, row, wanted, limit)
        else:
            _export(context, row, wanted, kind, out, force, spreadsheet_safe)


def _note(context: Context, job: Row[Any], wanted: ResultFilter) -> None:
    """Say what a search misses, and what takes long."""
    from textmill.db.queries import is_streamed

    if reason := is_streamed(context.database, job, wanted):
        say(f"note: {reason}; looking at every row")
    if wanted.search is not None and job.store_text != "full":
        say(f"note: only outputs are searched: the job has --store-text {job.store_text}")


def _show(context: Context, job: Row[Any], wanted: ResultFilter, limit: int | None) -> None:
    """A page as a table, how many more there are, and how to go on."""
    from textmill.db.queries import count_results, iter_results, read_page
    from textmill.producer.cli.results_table import print_results

    if limit == 0:
        print_results(iter_results(context.database, job, wanted))
        return
    rows = limit or r.SHOWN_ROWS
    page = read_page(context.database, job, replace(wanted, limit=None), rows)
    shown = print_results(page.rows)
    if page.after is None:
        return
    with context.database.read() as connection:
        total = count_results(connection, job, wanted)
    of = "rows, and there are more" if total is None else f"of {number(total)} rows"
    to_go_on = f"--after {page.after} for the next, --limit 0 for all, --out FILE to keep them"
    say(f"{shown} {of}; {to_go_on}")


def _pairs(where: Sequence[str], columns: Sequence[str]) -> dict[str, str]:
    """``country=DE`` as a column and its value; raises InvalidJobError.

    A name may be empty or hold ``=``: of the job's columns the longest that fits is meant.
    """
    pairs: dict[str, str] = {}
    for given in where:
        fitting = [name for name in columns if given.startswith(f"{name}=")]
        column = max(fitting, key=len, default=given.partition("=")[0])
        value = given[len(column) + 1 :]
        if "=" not in given or not (column or fitting):
            raise InvalidJobError(f"--where {given!r}; expected COLUMN=VALUE, such as country=DE")
        if column in pairs:
            raise InvalidJobError(
                f"--where names {column!r} twice, {pairs[column]!r} and {value!r}; a record has one"
            )
        pairs[column] = value
    return pairs


def _check_json(kind: str | None, out: Path | None) -> None:
    """Raise InvalidJobError where --json and another option name two formats."""
    if kind not in (None, "jsonl"):
        raise InvalidJobError(
            f"--json and --format {kind} contradict each other; --json is --format jsonl: leave "
            "one of them out"
        )
    if kind is None and out is not None:
        from textmill.producer.exports.registry import find_format

        if (found := find_format(None, out).name) != "jsonl":
            raise InvalidJobError(
                f"--json and --out {out} contradict each other: the file's name asks for {found}; "
                "leave --json out, or pass --format jsonl"
            )


def _is_table(
    kind: str | None, out: Path | None, json: bool, force: bool, spreadsheet_safe: bool
) -> bool:
    """Whether a person reads the rows; raises InvalidJobError for options of the other case."""
    to_table = kind == "table" or (not kind and not out and not json and sys.stdout.isatty())
    if to_table and out is not None:
        raise InvalidJobError("a table is for the terminal; leave --format table or --out out")
    if to_table and spreadsheet_safe:
        raise InvalidJobError("--spreadsheet-safe is for files; pass --out FILE.csv")
    if kind == OPENAI and spreadsheet_safe:
        raise InvalidJobError(f"--spreadsheet-safe is for csv and tsv; the format is {OPENAI}")
    if force and out is None:
        raise InvalidJobError("--force replaces what --out names; pass --out too")
    return to_table


def _export(
    context: Context,
    job: Row[Any],
    wanted: ResultFilter,
    kind: str | None,
    out: Path | None,
    force: bool,
    spreadsheet_safe: bool,
) -> None:
    import pyarrow as pa

    from textmill.db.batches import LimitedBatches
    from textmill.producer.exports import Export, find_format, write_export

    pa.set_memory_pool(pa.system_memory_pool())  # Arrow's own keeps 12 MB more
    batches = LimitedBatches(context.database, job, wanted)
    export = Export(
        job=job,
        read=batches.read,
        format=find_format(kind, out).name,
        spreadsheet_safe=spreadsheet_safe,
    )
    with _ended_by_signals():
        written = write_export(export, out, force=force)
    if out is not None:
        say(f"{plural(written, 'row')} in {out}")
    elif not written:
        say(r.NO_ROWS)
    if batches.after is not None:
        say(f"there are more; --after {batches.after} for the next, --limit 0 for all")


def _export_batch(
    context: Context, job: Row[Any], wanted: ResultFilter, out: Path | None, *, force: bool
) -> None:
    from textmill.db.filters import ResultFilter
    from textmill.db.queries import iter_results
    from textmill.producer.cli.batch_results import export_batch

    if force:
        raise InvalidJobError(f"--force replaces one file, and {OPENAI} is two; remove them first")
    rows = iter_results(context.database, job, wanted)
    with _ended_by_signals():
        export_batch(rows, job, out, whole=wanted == ResultFilter())


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
