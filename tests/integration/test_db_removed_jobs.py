"""A job that was removed by the SQL of docs/schema.md: what its words do to the jobs after it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from sqlalchemy import delete, text, update
from sqlalchemy.exc import IntegrityError

from textmill.db.filters import ResultFilter
from textmill.db.loading import create_job
from textmill.db.models import jobs
from textmill.db.queries import iter_results
from textmill.db.results import ResultRow
from textmill.db.session import Database

from .. import builders
from ..builders import at_once, job_of, put, spec
from ..filled import filled_job

# Fixtures; imported by name, they would be redefined by every test's parameter.
tables_url = builders.tables_url
postgresql = builders.postgresql
database = builders.database

PAGE = Path(__file__).resolve().parents[2] / "docs" / "schema.md"


def job_with(database: Database, said: str) -> str:
    """A job of one record that has ended."""
    job_id: str = filled_job(database, [ResultRow(0, "r0", said)], full_text=True).id
    put(database, jobs, jobs.c.id == job_id, finished_at=1.0)
    return job_id


def remove(database: Database, job_id: str) -> None:
    deletion = re.search(r"```sql delete\n(.*?)```", PAGE.read_text("utf-8"), flags=re.DOTALL)
    assert deletion is not None
    with database.write() as connection:
        for statement in deletion[1].strip().split(";\n"):
            connection.execute(text(statement.rstrip(";")), {"job": job_id})


def finds(database: Database, job_id: str, search: str) -> bool:
    return bool(list(iter_results(database, job_of(database, job_id), ResultFilter(search=search))))


def test_words_that_a_removed_job_left_find_nothing_and_hide_nothing(database: Database) -> None:
    job_with(database, "an older job")
    remove(database, job_with(database, "call me"))
    job_id = job_with(database, "free offer")
    assert finds(database, job_id, "free -call")
    assert not finds(database, job_id, "call")


def test_a_number_is_not_given_again_when_every_job_is_gone(database: Database) -> None:
    numbers = []
    for _ in range(3):
        job_id = job_with(database, "call me")
        numbers.append(job_of(database, job_id).number)
        remove(database, job_id)
    assert numbers == sorted(set(numbers))


def test_jobs_of_many_submissions_have_numbers_of_their_own(database: Database) -> None:
    made = at_once(*[lambda: job_with(database, "call me")] * 5)
    numbers = {job_of(database, job_id).number for job_id in made}
    assert len(numbers) == 5


def test_a_submission_whose_key_is_taken_costs_sqlite_no_number(tmp_path: Path) -> None:
    for database in builders.with_tables(f"sqlite:///{tmp_path / 'textmill.db'}"):
        first = database.transact(create_job, spec(key="k"), load_seconds=60)
        with pytest.raises(IntegrityError):
            database.transact(create_job, spec(key="k"), load_seconds=60)
        second = database.transact(create_job, spec(), load_seconds=60)
        assert job_of(database, second).number == job_of(database, first).number + 1


def test_a_file_without_the_note_counts_from_its_largest_number(tmp_path: Path) -> None:
    """One of an older version, or made of a dump."""
    for database in builders.with_tables(f"sqlite:///{tmp_path / 'textmill.db'}"):
        first = job_with(database, "call me")
        with database.write() as connection:
            connection.execute(update(jobs).values(number=7))
            connection.exec_driver_sql("PRAGMA user_version = 0")
        second = job_with(database, "free offer")
        assert (job_of(database, first).number, job_of(database, second).number) == (7, 8)
        with database.write() as connection:
            connection.execute(delete(jobs).where(jobs.c.id == second))
        assert job_of(database, job_with(database, "free offer")).number == 9
