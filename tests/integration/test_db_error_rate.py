"""The share of errors above which a job fails."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from textmill.db.models import payloads
from textmill.db.session import Database

from .. import builders
from ..builders import (
    claim,
    claim_all,
    complete,
    count,
    counts,
    dispatch,
    job_of,
    make_job,
    statuses,
)

# Fixtures; imported by name, they would be redefined by every test's parameter.
tables_url = builders.tables_url
postgresql = builders.postgresql
database = builders.database


def complete_in_turn(database: Database, job_id: str, errors: Collection[int]) -> list[str]:
    """Complete the chunks one by one until the job ends; its status after each."""
    seen = []
    for message in dispatch(database, job_id):
        claimed = claim(database, message)
        if claimed is None:
            break
        complete(database, claimed, errors)
        seen.append(job_of(database, job_id).status)
    return seen


@pytest.mark.parametrize(
    ("rate", "errors", "status"),
    [
        (0.05, 10, "running"),  # exactly at the limit: 10 of 200
        (0.05, 11, "failed"),
        (0.29, 58, "running"),  # 0.29 * 200 is less than 58 in floating point
        (0.29, 59, "failed"),
        (0.0, 0, "running"),
        (0.0, 1, "failed"),
        (1.0, 200, "running"),
        (None, 200, "running"),
    ],
)
def test_a_job_fails_above_its_error_rate_and_not_at_it(
    database: Database, rate: float | None, errors: int, status: str
) -> None:
    job_id = make_job(database, (200, 1), max_error_rate=rate)
    assert complete_in_turn(database, job_id, range(errors))[0] == status


def test_the_rate_is_taken_over_at_least_100_records(database: Database) -> None:
    job_id = make_job(database, (10, 80, 1, 109), max_error_rate=0.05)
    first, second, third, _ = claim_all(database, job_id)
    complete(database, first, range(5))  # half of them, but only 5 of the first 100
    assert job_of(database, job_id).status == "running"
    complete(database, second)
    assert job_of(database, job_id).status == "running"
    complete(database, third, {90})
    job = job_of(database, job_id)
    assert job.status == "failed"
    assert "6 of the first 91 records are errors, over the limit of 5.0%" in job.error


def test_a_job_smaller_than_the_sample_is_measured_by_its_own_size(database: Database) -> None:
    for errors, status in ((2, "running"), (3, "failed")):
        job_id = make_job(database, (10, 10), max_error_rate=0.1)
        assert complete_in_turn(database, job_id, range(errors))[0] == status


@pytest.mark.parametrize(("errors", "status"), [(1, "completed_with_errors"), (2, "failed")])
def test_the_rate_holds_for_a_jobs_last_chunk_too(
    database: Database, errors: int, status: str
) -> None:
    job_id = make_job(database, (10,), max_error_rate=0.1)
    assert complete_in_turn(database, job_id, range(errors)) == [status]
    assert counts(database, job_id) == (status, 10 - errors, errors)


def test_rows_that_could_not_be_read_count_towards_the_rate(database: Database) -> None:
    job_id = make_job(database, (6, 1), bad=3, max_error_rate=0.2)
    assert complete_in_turn(database, job_id, ()) == ["failed"]


def test_a_job_that_fails_by_its_rate_keeps_what_retry_needs(database: Database) -> None:
    job_id = make_job(database, (2, 1, 1), max_error_rate=0.0)
    first, _ = [claim(database, message) for message in dispatch(database, job_id, 2)]
    assert first is not None
    assert complete(database, first, {0}) == []
    assert statuses(database, job_id) == ["done", "running", "failed"]
    assert count(database, payloads) == 3
