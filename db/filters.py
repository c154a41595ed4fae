"""Which results are wanted: the filter, and each of its conditions in SQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from sqlalchemy import ColumnElement, Row, Text, and_, case, cast, func, literal, or_, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.types import BigInteger

from textmill.core.errors import InvalidJobError
from textmill.core.search import Search, parse_search
from textmill.core.tasks import nearest
from textmill.db.indexing import FURTHER_LABEL
from textmill.db.models import result_values, results

Order = Literal["input", "score", "fastest"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultFilter:
    """Which rows of a job are wanted, and in which order; every condition must hold.

    ``search`` has the syntax of ``core.search``; ``where`` compares columns of ``extra``, each as
    text. ``order`` "score" is the highest first, of the rows that have one. ``after`` is where an
    earlier page ended. Raises InvalidJobError for an unknown order, a broken search or ``after``.
    """

    label: str | None = None
    min_score: float | None = None
    max_score: float | None = None
    search: str | None = None
    errors: bool | None = None  # True: error rows only; False: outputs only
    error_code: str | None = None
    record_id: str | None = None
    where: Mapping[str, str] = field(default_factory=dict)
    limit: int | None = None
    order: Order = "input"
    after: str | None = None

    def __post_init__(self) -> None:
        if self.order not in get_args(Order):
            expected = ", ".join(get_args(Order))
            raise InvalidJobError(f"order is {self.order!r}; expected one of {expected}")
        if self.after is not None:
            self.position()
        if self.search is not None:
            parse_search(self.search)

    @property
    def wanted_words(self) -> Search | None:
        """What ``search`` means."""
        return None if self.search is None else parse_search(self.search)

    def position(self) -> tuple[float, int]:
        """Score and index of the row that ``after`` stands for; the score only in that order."""
        score, _, index = (self.after or "").rpartition(":")
        try:
            if bool(score) == (self.order == "score"):
                return (float(score) if score else 0.0), int(index)
        except ValueError:
            pass
        raise InvalidJobError(
            f"after is {self.after!r}; expected what an earlier page of the same order ended with"
        )


def check_columns(job: Row[Any], wanted: ResultFilter) -> None:
    """Raise InvalidJobError for a column that the job's records do not have."""
    known = list(job.extra_columns)
    for name in wanted.where:
        if name not in known:
            has = f"the job keeps {', '.join(known)}" if known else "the job keeps no other columns"
            raise InvalidJobError(f"no column {name!r}; {has}{nearest(name, known)}")


def undeclared(job: Row[Any], wanted: ResultFilter) -> list[str]:
    """The columns of ``where`` that no index knows."""
    return [name for name in wanted.where if name not in (job.index_columns or ())]


def conditions_of(job: Row[Any], wanted: ResultFilter, *, sqlite: bool) -> list[Any]:
    """Every condition but the words, for rows of ``results``."""
    row = results.c
    conditions: list[Any] = [row.job_id == job.id]
    if wanted.label is not None:
        conditions.append(or_(row.label == wanted.label, _has_further_label(job, wanted.label)))
    if wanted.min_score is not None:
        conditions.append(row.score >= wanted.min_score)
    if wanted.max_score is not None:
        conditions.append(row.score <= wanted.max_score)
    if wanted.errors is not None:
        has_error = row.error_code.is_not(None)
        conditions.append(has_error if wanted.errors else ~has_error)
    if wanted.error_code is not None:
        conditions.append(row.error_code == wanted.error_code)
    if wanted.record_id is not None:
        conditions.append(row.record_id == wanted.record_id)
    conditions += [extra_text(name, sqlite=sqlite) == value for name, value in wanted.where.items()]
    if wanted.order == "score":
        conditions.append(row.score.is_not(None))
    return conditions


def _has_further_label(job: Row[Any], label: str) -> ColumnElement[bool]:
    """A record of several labels (multi-label models) is found by each of them."""
    value = result_values.c
    return and_(
        results.c.label.is_not(None),
        select(literal(1))
        .where(
            value.job_id == job.id,
            value.name == FURTHER_LABEL,
            value.value == label,
            value.record_index == results.c.record_index,
        )
        .exists(),
    )


def extra_text(name: str, *, sqlite: bool) -> ColumnElement[str]:
    """A column of ``extra`` as text, as ``indexing.value_text`` writes it; NULL for what is none.

    (Numbers that JSON writes in several ways are compared as the database writes them.)
    """
    if not sqlite:
        return results.c.extra.op("->>")(name).cast(Text)
    # Not json_extract, in whose paths some names cannot be written.
    each = func.json_each(results.c.extra).table_valued("key", "value", "type")
    kind = each.c.type
    as_text = case((kind.in_(["true", "false"]), kind), else_=cast(each.c.value, Text))
    return select(as_text).where(each.c.key == name).scalar_subquery()


def among(column: ColumnElement[int], indexes: Sequence[int], *, sqlite: bool) -> Any:
    """``column IN (…)`` with one parameter, however many indexes there are."""
    if sqlite:
        each = func.json_each(str(list(indexes))).table_valued("value")
        return column.in_(select(each.c.value))
    return column == func.any(literal(list(indexes), ARRAY(BigInteger)))
