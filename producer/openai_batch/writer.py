"""Writing a job's rows as the output file and the error file of an OpenAI batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import IO, Any

import orjson
from sqlalchemy import Row

from textmill.core.errors import InvalidJobError
from textmill.core.params import OPENAI_COLUMN
from textmill.db.purge import PURGED_ID
from textmill.db.result_rows import Result
from textmill.producer.exports.atomic import new_text_file, refuse_existing
from textmill.producer.openai_batch.responses import Answers, about_line


@dataclass(frozen=True, slots=True)
class BatchCounts:
    """What was written, and where; ``errors_out`` is not there without errors."""

    answers: int
    errors: int
    unfinished: int  # lines of several answers of which one is not there yet
    errors_out: Path
    purged: int = 0  # records: how many of them were one line is purged too


def write_openai_batch(rows: Iterable[Result], job: Row[Any], out: Path) -> BatchCounts:
    """Write ``out`` and, if there are errors, ``out.errors.jsonl`` beside it, in input order.

    Lines whose records were purged are left out: what they asked, and their ids, are gone.
    ``rows`` are all rows of the job in input order. Raises InvalidJobError for a job that is no
    batch, or a file that exists; ServiceUnavailableError if the disk refuses. A file under its
    final name is whole.
    """
    answers = Answers(job, endpoint_of(job))
    errors_out = errors_beside(out)
    refuse_existing(errors_out)
    written = {False: 0, True: 0}
    unfinished = 0
    kept = _Unpurged(rows)
    with ExitStack() as stack:
        file = stack.enter_context(new_text_file(out))
        errors: IO[str] | None = None
        for group in group_lines(kept, job):
            if group is None:
                unfinished += 1
                continue
            line = answers.answer(group)
            failed = line["response"] is None or line["response"]["status_code"] != 200
            if failed and errors is None:
                errors = stack.enter_context(new_text_file(errors_out))
            written[failed] += 1
            target = errors if failed and errors is not None else file
            target.write(orjson.dumps(line).decode() + "\n")
    return BatchCounts(written[False], written[True], unfinished, errors_out, kept.purged)


class _Unpurged:
    """The rows whose records were not purged; ``purged`` counts the others."""

    def __init__(self, rows: Iterable[Result]) -> None:
        self._rows = rows
        self.purged = 0

    def __iter__(self) -> Iterator[Result]:
        for row in self._rows:
            if row.record_id == PURGED_ID:
                self.purged += 1
            else:
                yield row


def endpoint_of(job: Row[Any]) -> str:
    """The endpoint of a job's batch; raises InvalidJobError if it was none."""
    endpoint: str | None = job.params.get("openai_batch")
    if endpoint is None:
        raise InvalidJobError(
            f"job {job.id} was not submitted from an OpenAI batch file, so its rows have no "
            "requests to answer; pass --format jsonl or csv"
        )
    return endpoint


def errors_beside(out: Path) -> Path:
    """``answers.jsonl`` to ``answers.errors.jsonl``."""
    return out.with_name(f"{out.stem}.errors{out.suffix}")


def group_lines(rows: Iterable[Result], job: Row[Any]) -> Iterator[list[Result] | None]:
    """The rows of each line; None for a line of which some are not there yet."""

    def first_index(row: Result) -> int:
        return row.record_index - _place(row, job)[0]

    for _, found in groupby(rows, first_index):
        group = list(found)
        yield group if len(group) == _place(group[0], job)[1] else None


def _place(row: Result, job: Row[Any]) -> tuple[int, int]:
    """Which of how many rows of its line a row is."""
    about = about_line(row)
    if about is None and row.error_code is None:
        raise InvalidJobError(
            f"the row of record {row.record_id!r} of job {job.id} has lost what it kept of its "
            f"request; expected it in its extra, as {OPENAI_COLUMN!r}; pass --format jsonl or csv"
        )
    about = about or {}
    return about.get("part", 0), about.get("parts", 1)
