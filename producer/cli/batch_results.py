"""``textmill results --format openai-batch``: the two files, and what is not in them yet."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textmill.core.errors import InvalidJobError
from textmill.producer.terminal import number, plural, say

if TYPE_CHECKING:
    from sqlalchemy import Row

    from textmill.db.result_rows import Result


def export_batch(rows: Iterable[Result], job: Row[Any], out: Path | None, *, whole: bool) -> None:
    """Write the answers of a batch; ``whole`` says that no row is filtered out."""
    from textmill.producer.openai_batch.writer import endpoint_of, write_openai_batch

    endpoint_of(job)
    if out is None:
        raise InvalidJobError(
            "openai-batch is two files, answers and errors; pass --out answers.jsonl, and errors "
            "are in answers.errors.jsonl"
        )
    if not whole:
        raise InvalidJobError(
            "openai-batch has every line of the file in its order; leave out filters, --order and "
            "--limit"
        )
    counts = write_openai_batch(rows, job, out)
    say(f"{plural(counts.answers, 'answer')} in {out}")
    if counts.errors:
        say(f"{plural(counts.errors, 'error')} in {counts.errors_out}")
    if counts.purged:
        left_out = plural(counts.purged, "record")
        say(f"note: {left_out} {'was' if counts.purged == 1 else 'were'} purged and left out")
    missing = job.total_records - job.done_records - job.error_records
    if missing or counts.unfinished:
        say(f"note: the job is {job.status}; {number(missing)} of its records have no result")
