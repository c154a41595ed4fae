"""Questions to the results: filters, pages by key, counts by label.

A page is one short read; the next page continues after the last row's key, so a long export holds
no transaction open and a page costs the same at the start and at the end of ten million rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from sqlalchemy import (
    Connection,
    Row,
    Select,
    and_,
    cast,
    func,
    literal,
    or_,
    select,
    true,
)
from sqlalchemy.dialects.postgresql import JSONB

from textmill.core.errors import InvalidJobError
from textmill.db.models import label_counts, results
from textmill.db.session import Database

PAGE_ROWS = 2000
OUTPUT_HEAD = 400  # characters of an output that stands as an example

Order = Literal["input", "score"]


@dataclass(frozen=True, slots=True)
class Result:
    """One result row: the output of a record, or its error."""

    record_index: int
    record_id: str
    text: str | None
    label: str | None
    score: float | None
    output: str | None
    vector: bytes | None  # float32, little endian
    detail: dict[str, Any] | None
    error_code: str | None
    error_message: str | None
    extra: dict[str, Any] | None
    input_tokens: int | None
    output_tokens: int | None


SELECTED = [results.c[field.name] for field in fields(Result)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultFilter:
    """Which rows of a job are wanted; every condition must hold."""

    label: str | None = None
    min_score: float | None = None
    max_score: float | None = None
    search: str | None = None  # a part of the text, in any case
    errors: bool | None = None  # True: error rows only; False: outputs only
    error_code: str | None = None
    record_id: str | None = None
    limit: int | None = None
    order: Order = "input"  # "score": the highest first

    def __post_init__(self) -> None:
        if self.order not in get_args(Order):
            expected = " or ".join(get_args(Order))
            raise InvalidJobError(f"order is {self.order!r}; expected {expected}")


def iter_results(
    database: Database, job: Row[Any], wanted: ResultFilter, *, page_rows: int = PAGE_ROWS
) -> Iterator[Result]:
    """Every matching row of the job, read page by page."""
    query = _filtered(job, wanted, sqlite=database.is_sqlite)
    last: Result | None = None
    left = wanted.limit
    while left is None or left > 0:
        size = page_rows if left is None else min(page_rows, left)
        with database.read() as connection:
            page = [
                Result(*row)
                for row in connection.execute(_page(query, wanted.order, last).limit(size))
            ]
        yield from page
        if len(page) < size:
            return
        last = page[-1]
        left = None if left is None else left - size


def iter_vectors(
    database: Database, job_id: str, *, page_rows: int = PAGE_ROWS
) -> Iterator[tuple[int, str, bytes]]:
    """Index, id and vector of each record of the job that has one, read page by page."""
    index, vector = results.c.record_index, results.c.vector
    query = (
        select(index, results.c.record_id, vector)
        .where(results.c.job_id == job_id, vector.is_not(None))
        .order_by(index)
        .limit(page_rows)
    )
    last = -1
    while True:
        with database.read() as connection:
            page = connection.execute(query.where(index > last)).all()
        for row in page:
            yield tuple(row)
        if len(page) < page_rows:
            return
        last = page[-1][0]


def count_results(connection: Connection, job: Row[Any], wanted: ResultFilter) -> int:
    """How many rows match, the limit left aside."""
    sqlite = connection.dialect.name == "sqlite"
    rows = _filtered(job, wanted, sqlite=sqlite).subquery()
    return connection.scalar(select(func.count()).select_from(rows)) or 0


def _filtered(job: Row[Any], wanted: ResultFilter, *, sqlite: bool) -> Select[Any]:
    conditions: list[Any] = [results.c.job_id == job.id]
    if wanted.label is not None:
        conditions.append(_has_label(job, wanted.label, sqlite=sqlite))
    if wanted.min_score is not None:
        conditions.append(results.c.score >= wanted.min_score)
    if wanted.max_score is not None:
        conditions.append(results.c.score <= wanted.max_score)
    if wanted.search is not None:
        conditions.append(results.c.text.icontains(wanted.search, autoescape=True))
    if wanted.errors is not None:
        has_error = results.c.error_code.is_not(None)
        conditions.append(has_error if wanted.errors else ~has_error)
    if wanted.error_code is not None:
        conditions.append(results.c.error_code == wanted.error_code)
    if wanted.record_id is not None:
        conditions.append(results.c.record_id == wanted.record_id)
    if wanted.order == "score":
        conditions.append(results.c.score.is_not(None))
    return select(*SELECTED).where(*conditions)


def _has_label(job: Row[Any], label: str, *, sqlite: bool) -> Any:
    """A record of several labels (multi-label models) is found by each of them."""
    among: Any
    if sqlite:
        each = func.json_each(results.c.detail, "$.labels").table_valued("value")
        among = select(literal(1)).select_from(each).where(each.c.value == label).exists()
    else:
        among = results.c.detail.op("->")("labels").op("@>")(cast([label], JSONB))
    return or_(results.c.label == label, and_(results.c.label.is_not(None), among))


def _page(query: Select[Any], order: Order, last: Result | None) -> Select[Any]:
    """The rows after ``last`` in this order."""
    index, score = results.c.record_index, results.c.score
    if order == "input":
        return query.where(index > last.record_index if last else true()).order_by(index)
    after = (
        or_(score < last.score, and_(score == last.score, index > last.record_index))
        if last
        else true()
    )
    return query.where(after).order_by(score.desc(), index)


@dataclass(frozen=True, slots=True)
class LabelCount:
    """How many records have a label."""

    label: str
    records: int


def count_labels(connection: Connection, job_id: str) -> list[LabelCount]:
    """Counts by label, kept at completion of each chunk; the most frequent first."""
    rows = connection.execute(
        select(label_counts.c.label, label_counts.c.records)
        .where(label_counts.c.job_id == job_id, label_counts.c.records > 0)
        .order_by(label_counts.c.records.desc(), label_counts.c.label)
    )
    return [LabelCount(*row) for row in rows]


def count_errors(connection: Connection, job_id: str) -> list[tuple[str, int, str]]:
    """Each error code of the job with its number of records and one message as an example."""
    rows = connection.execute(
        select(results.c.error_code, func.count(), func.min(results.c.error_message))
        .where(results.c.job_id == job_id, results.c.error_code.is_not(None))
        .group_by(results.c.error_code)
        .order_by(func.count().desc())
    )
    return [(code, number, message) for code, number, message in rows]


def first_outputs(connection: Connection, job_id: str, count: int) -> list[tuple[str, str]]:
    """Record ids and what the outputs begin with, of at most ``count`` of the job's first records.

    Looks at ten times as many, so that it costs the same for a job of any size and any errors.
    """
    first = (
        select(results.c.record_id, func.substr(results.c.output, 1, OUTPUT_HEAD))
        .where(results.c.job_id == job_id)
        .order_by(results.c.record_index)
        .limit(10 * count)
    )
    found = [(record_id, output) for record_id, output in connection.execute(first)]
    return [(record_id, output) for record_id, output in found if output][:count]
