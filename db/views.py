"""Views for people with a client of their own: jobs, results by task, labels with their scores.

They hold nothing, so they are no migration's: ``schema.upgrade`` makes those of this version behind
the tables. Names and columns are the same on both databases; docs/schema.md says what each shows.
DuckDB reads a SQLite file's views too, but by compiling their text itself: what is written for
SQLite has to mean the same there. So JSON comes with arrows in brackets, and no whole numbers are
divided with a rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, inspect
from sqlalchemy.exc import DBAPIError

from textmill.core.errors import ServiceUnavailableError

DEPENDENT_SQLSTATE = "2BP01"
QUANTILES = {"p10": 10, "p25": 25, "median": 50, "p75": 75, "p90": 90}  # in percent

# JSON null is NULL, as a key that is not there.
AS_JSON = "CASE WHEN (results.detail ->> '{0}') IS NOT NULL THEN (results.detail -> '{0}') END"
LABELS = {
    "text": "results.text",
    "label": "results.label",
    "score": "results.score",
    "scores": AS_JSON.format("scores"),
    "labels": AS_JSON.format("labels"),
}
FINISH = {"finish_reason": "(results.detail ->> 'finish_reason')"}
TASKS: Mapping[str, Mapping[str, str]] = {
    "classification": LABELS,
    "zero-shot-classification": LABELS,
    "question-answering": {
        "question": "(results.detail ->> 'question')",
        "context": "coalesce((jobs.params ->> 'context'), results.text)",
        "answer": "results.output",
        "score": "results.score",
        "answer_start": "CAST((results.detail ->> 'start') AS INTEGER)",
        "answer_end": "CAST((results.detail ->> 'end') AS INTEGER)",
        "answers": AS_JSON.format("answers"),
    },
    "translation": {
        "text": "results.text",
        "translation": "results.output",
        "source_lang": "(jobs.params ->> 'source_lang')",
        "target_lang": "(jobs.params ->> 'target_lang')",
        **FINISH,
    },
    "summarization": {"text": "results.text", "summary": "results.output", **FINISH},
    "generation": {
        "prompt": "results.text",
        "output": "results.output",
        "json": AS_JSON.format("json"),
        **FINISH,
    },
    "embeddings": {
        "text": "results.text",
        "vector": "results.vector",
        "dimensions": "{dimensions}",
    },
}
"""What the view of each task shows between the record and its errors: names, and where they are."""

RESULTS = """
SELECT results.job_id, jobs.name AS job_name, jobs.model, results.record_index, results.record_id,
  {columns},
  results.error_code, results.error_message, results.extra,
  results.input_tokens, results.output_tokens
FROM results JOIN jobs ON jobs.id = results.job_id
WHERE jobs.task = '{task}'
"""

LABEL_SCORES = """
SELECT labels.job_id, jobs.name AS job_name, jobs.model, labels.label, labels.records,
  labels.score_mean, labels.score_min,
  {quantiles},
  labels.score_max
FROM (
  SELECT job_id, label, COUNT(*) AS records, AVG(score) AS score_mean, MIN(score) AS score_min,
    {aggregates}MAX(score) AS score_max
  FROM results
  WHERE label IS NOT NULL AND score IS NOT NULL
  GROUP BY job_id, label
) AS labels
JOIN jobs ON jobs.id = labels.job_id
WHERE jobs.task IN ('classification', 'zero-shot-classification')
"""

# SQLite has no percentiles: the scores of the label are put in order and counted up to the rank.
RANKED = """(
    SELECT score FROM (
      SELECT score, ROW_NUMBER() OVER (ORDER BY score) AS place FROM results AS one
      WHERE one.job_id = labels.job_id AND one.label = labels.label AND one.score IS NOT NULL
    ) AS ranked
    WHERE place = {place} LIMIT 1
  )"""
RANK = "(labels.records * {0} + (100 - (labels.records * {0}) % 100) % 100) / 100"  # rounded up
PERCENTILE = "percentile_disc({share}) WITHIN GROUP (ORDER BY score) AS score_{name},\n    "

OVERVIEW = """
SELECT id AS job_id, name AS job_name, task, model, model_version, status, error,
  total_records, done_records, error_records,
  100.0 * (done_records + error_records) / NULLIF(total_records, 0){float} AS percent,
  input_tokens, output_tokens,
  {times},
  finished_at - started_at AS run_seconds,
  (done_records + error_records) / NULLIF(finished_at - started_at, 0) AS records_per_second
FROM jobs
"""


def drop_views(connection: Connection) -> None:
    """Drop ours, whichever version made them: tables can be changed then.

    Raises ServiceUnavailableError where a view of somebody's own reads one of them.
    """
    there = set(inspect(connection).get_view_names())
    for name in _queries(sqlite=True):
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
        connection.exec_driver_sql(f"CREATE VIEW {name} AS{query.rstrip()}")


def view_name(task: str) -> str:
    """The view of a task's results: ``question_answering_results`` of ``question-answering``."""
    return f"{task.replace('-', '_')}_results"


def _queries(*, sqlite: bool) -> dict[str, str]:
    return {
        "job_overview": _overview(sqlite=sqlite),
        **{view_name(task): _results(task, own, sqlite=sqlite) for task, own in TASKS.items()},
        "classification_labels": _label_scores(sqlite=sqlite),
    }


def _overview(*, sqlite: bool) -> str:
    time = "datetime({0}, 'unixepoch') AS {0}" if sqlite else "to_timestamp({0}) AS {0}"
    times = (time.format(name) for name in ("created_at", "started_at", "finished_at"))
    return OVERVIEW.format(times=", ".join(times), float="" if sqlite else "::double precision")


def _results(task: str, own: Mapping[str, str], *, sqlite: bool) -> str:
    """All rows of a task's jobs, errors too; with ``job_id = …`` the indexes of results serve."""
    columns = ",\n  ".join(f"{where} AS {name}" for name, where in own.items())
    size = "CAST(length(hex(results.vector)) / 8 AS INTEGER)"
    columns = columns.replace("{dimensions}", size if sqlite else "length(results.vector) / 4")
    return RESULTS.format(columns=columns, task=task)


def _label_scores(*, sqlite: bool) -> str:
    """For each job and label, of the records whose best label it is: how many, and their scores.

    A quantile is that of the nearest rank, so one of the scores.
    """
    quantiles, aggregates = [], ""
    for name, percent in QUANTILES.items():
        if sqlite:
            rank = RANKED.format(place=RANK.format(percent))
            quantiles.append(f"{rank} AS score_{name}")
        else:
            quantiles.append(f"labels.score_{name}")
            aggregates += PERCENTILE.format(share=percent / 100, name=name)
    return LABEL_SCORES.format(quantiles=",\n  ".join(quantiles), aggregates=aggregates)
