"""Earlier results get their keys when a job that could use them comes, on both databases."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import func, select, update

from textmill.core.jobs import Record
from textmill.db import reuse
from textmill.db.jobs import get_job
from textmill.db.models import jobs, reuse_keys
from textmill.db.results import ResultRow, to_json
from textmill.db.reuse import find_answers, job_scope, keep_answers, make_reusable
from textmill.db.session import Database

from .. import builders
from ..builders import spec
from ..filled import filled_job

# Fixtures; imported by name, they would be redefined by every test's parameter.
tables_url = builders.tables_url
postgresql = builders.postgresql
database = builders.database

ROWS = [
    ResultRow(n, f"r{n}", f"text {n % 5}", label="ab"[n % 2], score=n / 8, detail=to_json({"n": n}))
    for n in range(7)  # texts 0 and 1 twice
] + [ResultRow(7, "r7", "", error_code="empty_text")]


def earlier(database: Database, **values: Any) -> str:
    """A job of before, whose model is known by its commit."""
    job_id: str = filled_job(database, ROWS).id
    with database.write() as connection:
        own = {"model_version": "commit-1", **values}
        connection.execute(update(jobs).where(jobs.c.id == job_id).values(**own))
    return job_id


def wanted(**fields: Any) -> Any:
    return spec(model_version="commit-1", reuse=True, **fields)


def answers(database: Database, job_id: str, texts: list[str]) -> dict[str, Any]:
    """What is found for a record of each text, as a worker of a job like this one asks."""
    with database.read() as connection:
        scope = job_scope(get_job(connection, job_id), "commit-1", None)
        keys = {scope.key(Record(99, "new", {"text": text})): text for text in texts}
        found = find_answers(connection, list(keys))
    return {keys[key]: row for key, row in found.items()}


def count_keys(database: Database) -> int:
    with database.read() as connection:
        return connection.scalar(select(func.count()).select_from(reuse_keys)) or 0


def test_results_of_an_earlier_job_answer_once_they_have_their_keys(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reuse, "PAGE_ROWS", 3)
    job_id = earlier(database)
    assert answers(database, job_id, ["text 0"]) == {}
    told: list[int] = []
    assert make_reusable(database, wanted(), secret=None, progress=told.append) == 7
    assert told == [3, 6, 7]
    assert count_keys(database) == 5, "one for each text; an error answers nothing"
    found = answers(database, job_id, ["text 0", "text 3", "text 9", ""])
    assert set(found) == {"text 0", "text 3"}
    row = found["text 3"]
    assert (row.job_id, row.label, row.score, row.detail) == (job_id, "b", 3 / 8, {"n": 3})
    assert make_reusable(database, wanted(), secret=None) == 0, "they have been looked at"


@pytest.mark.parametrize(
    "values",
    [
        {"model_version": "commit-2"},
        {"model_version": None},
        {"dtype": "bf16"},
        {"params": {"top_k": 2}},
        {"store_text": "hash"},
        {"status": "running"},
        {"status": "cancelled"},
        {"purged_at": 1.0},
        {"task": "embeddings"},
    ],
)
def test_a_job_whose_results_could_not_answer_is_left_alone(
    database: Database, values: dict[str, Any]
) -> None:
    earlier(database, **values)
    assert make_reusable(database, wanted(), secret=None) == 0
    assert count_keys(database) == 0


def test_a_secret_makes_other_keys(database: Database) -> None:
    job_id = earlier(database)
    assert make_reusable(database, wanted(), secret=b"of the house") == 7
    assert answers(database, job_id, ["text 0"]) == {}


def test_a_key_that_two_jobs_have_answers_from_the_one_that_wrote_it_last(
    database: Database,
) -> None:
    first, second = earlier(database), earlier(database)
    assert make_reusable(database, wanted(), secret=None) == 14
    assert count_keys(database) == 5
    assert answers(database, first, ["text 2"])["text 2"].job_id == second
    with database.read() as connection:
        key = job_scope(get_job(connection, first), "commit-1", None).key(
            Record(0, "x", {"text": "text 2"})
        )
    database.transact(keep_answers, first, {key: 2})
    assert answers(database, first, ["text 2"])["text 2"].job_id == first
