"""Views for people with a client of their own: jobs, results by task, labels with their scores.

They hold nothing, so they are no migration's: ``schema.upgrade`` makes those of this version behind
the tables. Names and columns are the same on both databases; docs/schema.md says what each shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Float,
    Integer,
    Select,
    Subquery,
    case,
    cast,
    func,
    inspect,
    select,
)
from sqlalchemy.exc import DBAPIError

from textmill.core.errors import ServiceUnavailableError
from textmill.db.models import jobs, results

DEPENDENT_SQLSTATE = "2BP01"
QUANTILES = {"p10": 10, "p25": 25, "median": 50, "p75": 75, "p90": 90}  # in percent

Columns = Mapping[str, ColumnElement[Any]]


def drop_views(connection: Connection) -> None:
    """Drop ours, whichever version made them: tables can be changed then.

    Raises ServiceUnavailableError where a view of somebody's own reads one of them.
    """
    there = set(inspect(connection).get_view_names())
    for name in ["job_overview", "classification_labels", *map(view_name, _TASKS)]:
        if name in there:
            _drop_view(connection, name)


def _drop_view(connection: Connection, name: str) -> None:
    try:
        connection.exec_driver_sql(f"DROP VIEW {name}")
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != DEPENDENT_SQLSTATE:
            raise
        diagnosis: Any = error.orig
        raise ServiceUnavailableError(
            f"the view {name} cannot be made anew ({diagnosis.diag.message_detail}); drop what "
            "depends on it, upgrade, and make that again"
        ) from error


def make_views(connection: Connection) -> None:
    """Create all of them; they must not be there."""
    for name, query in _queries(sqlite=connection.dialect.name == "sqlite").items():
        literal = query.compile(connection, compile_kwargs={"literal_binds": True})
        connection.exec_driver_sql(f"CREATE VIEW {name} AS {literal}".replace("%%", "%"))


def view_name(task: str) -> str:
    """The view of a task's results: ``question_answering_results`` of ``question-answering``."""
    return f"{task.replace('-', '_')}_results"


def _queries(*, sqlite: bool) -> dict[str, Select[Any]]:
    return {
        "job_overview": _job_overview(sqlite=sqlite),
        **{view_name(task): _results_of(task, shown) for task, shown in _TASKS.items()},
        "classification_labels": _labels(sqlite=sqlite),
    }


def _text(column: ColumnElement[Any], key: str) -> ColumnElement[Any]:
    found: ColumnElement[Any] = column[key].as_string()
    return found


def _json(column: ColumnElement[Any], key: str) -> ColumnElement[Any]:
    """As JSON, and NULL where there is none: SQLite would quote it as ``null``."""
    return case((_text(column, key).is_not(None), column[key]))


_ROW, _DETAIL, _PARAMS = results.c, results.c.detail, jobs.c.params
_LABELS: Columns = {
    "text": _ROW.text,
    "label": _ROW.label,
    "score": _ROW.score,
    "scores": _json(_DETAIL, "scores"),
    "labels": _json(_DETAIL, "labels"),
}
_FINISH: Columns = {"finish_reason": _text(_DETAIL, "finish_reason")}
_TASKS: Mapping[str, Columns] = {
    "classification": _LABELS,
    "zero-shot-classification": _LABELS,
    "question-answering": {
        "question": _text(_DETAIL, "question"),
        "context": func.coalesce(_text(_PARAMS, "context"), _ROW.text),
        "answer": _ROW.output,
        "score": _ROW.score,
        "answer_start": cast(_text(_DETAIL, "start"), Integer),
        "answer_end": cast(_text(_DETAIL, "end"), Integer),
        "answers": _json(_DETAIL, "answers"),
    },
    "translation": {
        "text": _ROW.text,
        "translation": _ROW.output,
        "source_lang": _text(_PARAMS, "source_lang"),
        "target_lang": _text(_PARAMS, "target_lang"),
        **_FINISH,
    },
    "summarization": {"text": _ROW.text, "summary": _ROW.output, **_FINISH},
    "generation": {
        "prompt": _ROW.text,
        "output": _ROW.output,
        "json": _json(_DETAIL, "json"),
        **_FINISH,
    },
    "embeddings": {
        "text": _ROW.text,
        "vector": _ROW.vector,
        "dimensions": func.length(_ROW.vector) // 4,
    },
}


def _results_of(task: str, shown: Columns) -> Select[Any]:
    """All rows of a task's jobs, errors too; with ``job_id = …`` the indexes of results serve."""
    return (
        select(
            _ROW.job_id,
            jobs.c.name.label("job_name"),
            jobs.c.model,
            _ROW.record_index,
            _ROW.record_id,
            *(column.label(name) for name, column in shown.items()),
            _ROW.error_code,
            _ROW.error_message,
            _ROW.extra,
            _ROW.input_tokens,
            _ROW.output_tokens,
        )
        .join_from(results, jobs, jobs.c.id == _ROW.job_id)
        .where(jobs.c.task == task)
    )


def _labels(*, sqlite: bool) -> Select[Any]:
    """For each job and label, of the records whose best label it is: how many, and their scores.

    A quantile is the nearest rank, so one of the scores.
    """
    row = results.c
    counted = (
        select(
            row.job_id,
            row.label,
            func.count().label("records"),
            func.avg(row.score).label("score_mean"),
            func.min(row.score).label("score_min"),
            func.max(row.score).label("score_max"),
            *([] if sqlite else map(_percentile, QUANTILES)),
        )
        .where(row.label.is_not(None), row.score.is_not(None))
        .group_by(row.job_id, row.label)
        .subquery("counted")
    )
    labels = counted.c
    quantiles = [
        _ranked(counted, percent).label(f"score_{name}") if sqlite else labels[f"score_{name}"]
        for name, percent in QUANTILES.items()
    ]
    return (
        select(
            labels.job_id,
            jobs.c.name.label("job_name"),
            jobs.c.model,
            labels.label,
            labels.records,
            labels.score_mean,
            labels.score_min,
            *quantiles,
            labels.score_max,
        )
        .join_from(counted, jobs, jobs.c.id == labels.job_id)
        .where(jobs.c.task.in_(["classification", "zero-shot-classification"]))
    )


def _percentile(name: str) -> ColumnElement[Any]:
    share = QUANTILES[name] / 100
    return func.percentile_disc(share).within_group(results.c.score).label(f"score_{name}")


def _ranked(counted: Subquery, percent: int) -> ColumnElement[Any]:
    """SQLite has no percentiles: the score at that place of ix_results_score, from the nearer end.

    Stops there: no other way does without keeping all scores, or a sort.
    """
    row, label = results.alias().c, counted.c
    upper = percent > 50
    rank = (label.records * percent + 99) // 100  # rounded up
    place = label.records - rank + 1 if upper else rank
    order = row.score.desc() if upper else row.score
    ranked = (
        select(row.score, func.row_number().over(order_by=order).label("place"))
        .where(row.job_id == label.job_id, row.label == label.label, row.score.is_not(None))
        .correlate(counted)
        .subquery()
    )
    return select(ranked.c.score).where(ranked.c.place == place).limit(1).scalar_subquery()


def _job_overview(*, sqlite: bool) -> Select[Any]:
    """Jobs with times that a person can read, in UTC, and what they make of them."""
    job = jobs.c
    done = cast(job.done_records + job.error_records, Float)
    seconds = job.finished_at - job.started_at
    return select(
        job.id.label("job_id"),
        job.name.label("job_name"),
        job.task,
        job.model,
        job.model_version,
        job.status,
        job.error,
        job.total_records,
        job.done_records,
        job.error_records,
        (done / func.nullif(cast(job.total_records, Float), 0) * 100).label("percent"),
        job.input_tokens,
        job.output_tokens,
        *(
            _time(job[f"{name}_at"], sqlite=sqlite).label(f"{name}_at")
            for name in ("created", "started", "finished")
        ),
        seconds.label("run_seconds"),
        (done / func.nullif(seconds, 0)).label("records_per_second"),
    )


def _time(column: ColumnElement[Any], *, sqlite: bool) -> ColumnElement[Any]:
    return func.datetime(column, "unixepoch") if sqlite else func.to_timestamp(column)
