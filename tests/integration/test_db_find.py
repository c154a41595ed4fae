"""Finding the job a person means, listing jobs, and what a key and an id belong to."""

from __future__ import annotations

import pytest
from sqlalchemy.exc import IntegrityError

from textmill.core.errors import InvalidJobError, JobNotFoundError
from textmill.core.jobs import JobStatus
from textmill.db import loading as loading_db
from textmill.db.jobs import find_job, list_jobs
from textmill.db.loading import create_job, is_key_conflict
from textmill.db.models import jobs
from textmill.db.session import Database

from .. import builders
from ..builders import (
    count,
    make_job,
    put,
    put_job,
    spec,
)

# Fixtures; imported by name, they would be redefined by every test's parameter.
tables_url = builders.tables_url
postgresql = builders.postgresql
database = builders.database


def named(database: Database, *ids: str, **fields: str) -> None:
    for job_id in ids:
        made = make_job(database, **fields)
        put(database, jobs, jobs.c.id == made, id=job_id)


@pytest.fixture
def several(database: Database) -> Database:
    named(database, "06aa00000000000x", "06ab00000000000x", "06b000000000000x")
    named(database, "06c000000000000x", key="06a")
    return database


@pytest.mark.parametrize(
    ("reference", "found"),
    [
        ("06aa00000000000x", "06aa00000000000x"),  # its id
        ("06b", "06b000000000000x"),  # a unique start
        ("06ab", "06ab00000000000x"),
        ("06a", "06c000000000000x"),  # a key, although several ids start like it
        ("last", "06c000000000000x"),
    ],
)
def test_a_job_is_found_by_id_unique_start_key_and_last(
    several: Database, reference: str, found: str
) -> None:
    with several.read() as connection:
        assert find_job(connection, reference).id == found


def test_a_start_of_several_ids_names_them(several: Database) -> None:
    with several.read() as connection, pytest.raises(JobNotFoundError) as caught:
        find_job(connection, "06")
    message = str(caught.value)
    assert "several jobs" in message
    assert message.count("000x") == 3


@pytest.mark.parametrize("reference", ["zzz", "", "%", "06%", "_6b", "06b_", "\\", "/", "LAST"])
def test_an_unknown_reference_offers_the_latest_jobs(several: Database, reference: str) -> None:
    with several.read() as connection, pytest.raises(JobNotFoundError) as caught:
        find_job(connection, reference)
    latest = "06c000000000000x, 06b000000000000x, 06ab00000000000x"
    assert str(caught.value) == f"no job {reference!r}; the latest are {latest}"


@pytest.mark.parametrize("reference", ["a\udcffb", "06\0", "\ud800"])
def test_what_no_database_takes_is_no_reference(several: Database, reference: str) -> None:
    with several.read() as connection, pytest.raises(InvalidJobError) as caught:
        find_job(connection, reference)
    assert str(caught.value) == (
        f"the job is {reference!r}; expected its id, the start of its id, its key, or 'last', "
        "without NUL and bytes that are not UTF-8"
    )


@pytest.mark.parametrize(
    ("reference", "offered"),
    [
        ("06b000000000000y", "06b000000000000x"),  # one letter, and the nearest first
        ("nightly-26-11-28", "nightly-2026-11-28"),  # a key
        ("coments.csv", "06aa00000000000x (comments.csv)"),
        ("comments.csv", "06aa00000000000x (comments.csv)"),
    ],
)
def test_a_mistyped_reference_offers_what_is_nearest(
    database: Database, reference: str, offered: str
) -> None:
    named(database, "06a000000000000x", name="comments.csv")
    named(database, "06aa00000000000x", name="comments.csv")
    named(database, "06b000000000000x", key="nightly-2026-11-28")
    with database.read() as connection, pytest.raises(JobNotFoundError) as caught:
        find_job(connection, reference)
    start = f"no job {reference!r}; did you mean {offered}"
    assert str(caught.value).startswith(start)
    assert str(caught.value).endswith("?")


def test_without_jobs_there_is_nothing_to_offer(database: Database) -> None:
    for reference in ("last", "06a"):
        nothing = pytest.raises(JobNotFoundError, match="there are no jobs yet")
        with database.read() as connection, nothing:
            find_job(connection, reference)


def test_jobs_are_listed_latest_first(several: Database) -> None:
    put_job(several, "06ab00000000000x", JobStatus.CANCELLED)
    with several.read() as connection:
        assert [row.id[:4] for row in list_jobs(connection, limit=3)] == ["06c0", "06b0", "06ab"]
        assert [row.id[:4] for row in list_jobs(connection, status="cancelled")] == ["06ab"]


def test_a_key_belongs_to_one_job(database: Database) -> None:
    make_job(database, key="k")
    with pytest.raises(IntegrityError) as caught:
        database.transact(create_job, spec(key="k"), load_seconds=60)
    assert is_key_conflict(caught.value)
    assert count(database, jobs) == 1


def test_any_number_of_jobs_has_no_key(database: Database) -> None:
    for _ in range(3):
        make_job(database)
    assert count(database, jobs, jobs.c.key.is_(None)) == 3


def test_a_doubled_id_is_not_taken_for_a_doubled_key(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading_db, "new_job_id", lambda: "06aa00000000000x")
    make_job(database, key="one")
    with pytest.raises(IntegrityError) as caught:
        database.transact(create_job, spec(key="two"), load_seconds=60)
    assert not is_key_conflict(caught.value)
