"""Which results are wanted: the filter, and each of its conditions in SQL."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from sqlalchemy import ColumnElement, Row, and_, func, literal, or_, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.types import BigInteger

from textmill.core.errors import InvalidJobError
from textmill.core.search import Search, parse_search
from textmill.core.storable import require_storable
from textmill.core.tasks import nearest
from textmill.db.extra_values import WantedValue
from textmill.db.indexing import FURTHER_LABEL, ROW_BITS, value_text
from textmill.db.models import result_values, results

Order = Literal["input", "score", "fastest"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultFilter:
    """Which rows of a job are wanted, and in which order; every condition must hold.

    ``search`` has the syntax of ``core.search``; ``where`` compares columns of ``extra``, see
    ``extra_values``. ``order`` "score" is the highest first, of the rows that have one. ``after``
    is where an earlier page ended. Raises InvalidJobError for what cannot be meant.
    """

    label: str | None = None
    min_score: float | None = None
    max_score: float | None = None
    search: str | None = None
    errors: bool | None = None  # True: error rows only; False: outputs only
    error_code: str | None = None
    record_id: str | None = None
    where: Mapping[str, str | float] = field(default_factory=dict)
    limit: int | None = None
    order: Order = "input"
    after: str | None = None

    def __post_init__(self) -> None:
        if self.order not in get_args(Order):
            expected = ", ".join(get_args(Order))
            raise InvalidJobError(f"order is {self.order!r}; expected one of {expected}")
        self._check_types()
        if self.limit is not None and self.limit < 0:
            raise InvalidJobError(f"limit is {self.limit}; expected 0 or more rows")
        self._check_scores()
        self._check_rows()
        for name, value in self._texts():
            require_storable(name, value)
        if self.after is not None:
            self.position()
        if self.search is not None:
            parse_search(self.search)

    def _check_types(self) -> None:
        """From Python anything may come; texts are checked by themselves."""
        kinds: dict[str, tuple[Any, str]] = {
            "min_score": (int | float | None, "a number"),
            "max_score": (int | float | None, "a number"),
            "errors": (bool | None, "True or False"),
            "where": (Mapping, "columns with their values, such as {'country': 'DE'}"),
            "limit": (int | None, "a number of rows"),
            "after": (str | None, "what an earlier page ended with"),
        }
        for name, (kind, expected) in kinds.items():
            if not isinstance(value := getattr(self, name), kind):
                raise InvalidJobError(f"{name} is {value!r}; expected {expected}")
        for column in self.where:
            if not isinstance(column, str):
                raise InvalidJobError(
                    f"where has the column {column!r}; expected its name as text, "
                    "such as {'country': 'DE'}"
                )

    def _check_scores(self) -> None:
        least = _as_score("min_score", self.min_score)
        most = _as_score("max_score", self.max_score)
        if least is not None and most is not None and least > most:
            raise InvalidJobError(
                f"min_score is {least} and max_score {most}, which no score fulfils; "
                "expected a lower and an upper bound"
            )
        object.__setattr__(self, "min_score", least)
        object.__setattr__(self, "max_score", most)

    def _check_rows(self) -> None:
        """A row is an error or an output, and only outputs have labels and scores."""
        of_errors = {"errors": self.errors or None, "error_code": self.error_code}
        of_outputs = {
            "label": self.label,
            "min_score": self.min_score,
            "max_score": self.max_score,
            "errors": None if self.errors is None or self.errors else False,
        }
        ours, theirs = _given(of_errors), _given(of_outputs)
        if ours and theirs:
            raise InvalidJobError(
                f"{ours} and {theirs}, which no row fulfils: an error row has no label and no "
                "score; leave one of them out"
            )

    def _texts(self) -> Iterator[tuple[str, Any]]:
        for name in ("label", "search", "error_code", "record_id"):
            if (value := getattr(self, name)) is not None:
                yield name, value
        for column, value in self.wanted_values.items():
            yield f"where {column!r}", value

    @property
    def wanted_values(self) -> dict[str, str]:
        """Of each column of ``where`` the text that its value is compared with."""
        values = {name: _where_text(name, value) for name, value in self.where.items()}
        for name, value in values.items():
            if value is None:
                given = self.where[name]
                raise InvalidJobError(f"where {name!r} is {given!r}; expected a text or a number")
        return {name: value for name, value in values.items() if value is not None}

    @property
    def wanted_words(self) -> Search | None:
        """What ``search`` means."""
        return None if self.search is None else parse_search(self.search)

    def position(self) -> tuple[float, int]:
        """Score and index of the row that ``after`` stands for; the score only in that order."""
        score, colon, index = (self.after or "").rpartition(":")
        try:
            place = (float(score) if colon else 0.0), int(index)
            known = math.isfinite(place[0]) and 0 <= place[1] < 1 << ROW_BITS
            if known and bool(colon) == (self.order == "score"):
                return place
        except ValueError:
            pass
        raise InvalidJobError(
            f"after is {self.after!r}; expected what an earlier page of the same order ended with"
        )


def _given(conditions: Mapping[str, Any]) -> str | None:
    """The first condition that is asked for, in words."""
    given = (f"{name} is {value!r}" for name, value in conditions.items() if value is not None)
    return next(given, None)


def _where_text(name: str, value: Any) -> str | None:
    try:
        return value_text(value)
    except ValueError:  # Python writes no whole number of more than 4,300 digits
        raise InvalidJobError(
            f"where {name!r} is a whole number of too many digits; expected it as text"
        ) from None


def _as_score(name: str, score: float | None) -> float | None:
    """The score as databases take it, which have no whole numbers of any size."""
    try:
        found = None if score is None else float(score)
    except OverflowError:
        raise InvalidJobError(
            f"{name} is a whole number of over 300 digits; expected a score, such as 0.5"
        ) from None
    if found is not None and math.isnan(found):
        raise InvalidJobError(f"{name} is {score}; expected a number")
    return found


def place_after(wanted: ResultFilter, record_index: int, score: float | None) -> str:
    """What ``after`` is for the rows behind this one."""
    return f"{score!r}:{record_index}" if wanted.order == "score" else str(record_index)


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
        conditions.append(
            or_(row.label == wanted.label, _has_further_label(job, wanted.label, sqlite=sqlite))
        )
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
    for name, value in wanted.wanted_values.items():
        conditions += _has_value(job, name, value, sqlite=sqlite)
    if wanted.order == "score":
        conditions.append(row.score.is_not(None))
    return conditions


def _has_further_label(job: Row[Any], label: str, *, sqlite: bool) -> ColumnElement[bool]:
    """A record of several labels (multi-label models) is found by each of them."""
    entry = _has_entry(job, FURTHER_LABEL, [label], sqlite=sqlite)
    return and_(results.c.label.is_not(None), entry)


def _has_value(
    job: Row[Any], name: str, value: str, *, sqlite: bool
) -> Iterator[ColumnElement[bool]]:
    """Of a declared column the entry says it, but for what has no entry of its own."""
    wanted = WantedValue(value)
    declared = name in (job.index_columns or ())
    if declared:
        yield _has_entry(job, name, wanted.entries, sqlite=sqlite)
    if not declared or not wanted.is_its_entry:
        yield wanted.in_column(name, sqlite=sqlite)


def _has_entry(
    job: Row[Any], name: str, values: Sequence[str], *, sqlite: bool
) -> ColumnElement[bool]:
    entry = result_values.c
    query = select(literal(1)).where(
        entry.job_id == job.id,
        entry.name == name,
        entry.value == values[0] if len(values) == 1 else entry.value.in_(values),
        entry.record_index == results.c.record_index,
    )
    # An offset keeps PostgreSQL from a join, for which it would, until ANALYZE, read all entries of
    # the value for each row.
    return query.exists() if sqlite else query.offset(0).exists()


def among(column: ColumnElement[int], indexes: Sequence[int], *, sqlite: bool) -> Any:
    """``column IN (…)`` with one parameter, however many indexes there are."""
    if sqlite:
        each = func.json_each(str(list(indexes))).table_valued("value")
        return column.in_(select(each.c.value))
    return column == func.any(literal(list(indexes), ARRAY(BigInteger)))
