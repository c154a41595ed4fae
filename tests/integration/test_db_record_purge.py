"""Purge of single records of a failed job, whose workers still write what they have in hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import event, select

from textmill.core.errors import JobConflictError
from textmill.db.chunks import Claim
from textmill.db.jobs import fail_job
from textmill.db.models import chunks, payloads
from textmill.db.record_purge import find_records, purge_records
from textmill.db.session import Database
from textmill.db.suspects import split_chunk

from .. import builders
from ..builders import counts, job_of, put
from ..canaries import canary, finish, payload_bytes, private_job, rows_of

tables_url = builders.tables_url
postgresql = builders.postgresql
database = builders.database

ASKED = {"by": "test"}


def failed_job(database: Database, **about: Any) -> str:
    """A job that has failed while workers had both of its chunks in hand."""
    job_id = private_job(database, run=0, **about)
    database.transact(fail_job, job_id, "no model")
    return job_id


def claims_of(database: Database, job_id: str) -> list[Claim]:
    """What the job's workers have in hand, as they were given it."""
    job = job_of(database, job_id)
    query = (
        select(chunks, payloads.c.data)
        .join(payloads, payloads.c.chunk_id == chunks.c.id)
        .where(chunks.c.job_id == job_id)
        .order_by(chunks.c.id)
    )
    with database.read() as connection:
        rows = connection.execute(query).all()
    return [Claim(row.id, row.attempt, row.lease_owner, 0, job, row.data) for row in rows]


@pytest.mark.parametrize("errors", [(), (4,)], ids=["output", "error"])
def test_a_record_whose_chunk_is_completed_once_it_was_found_goes(
    database: Database, errors: tuple[int, ...]
) -> None:
    job_id = failed_job(database)
    ids = {canary("id", 4)}
    (found,) = find_records(database, ids)
    assert found.records == 1
    finish(database, claims_of(database, job_id)[1], errors)

    assert purge_records(database, found, ids, ASKED) == 1

    assert [row.record_index for row in rows_of(database, job_id) if row.record_id == ""] == [4]
    assert find_records(database, ids) == []
    assert len(payload_bytes(database, job_id)) == 1  # of the chunk that is still in hand


def test_a_record_whose_chunk_is_split_once_it_was_found_goes(database: Database) -> None:
    job_id = failed_job(database)
    ids = {canary("id", 4)}
    (found,) = find_records(database, ids)
    database.transact(split_chunk, claims_of(database, job_id)[1])

    assert purge_records(database, found, ids, ASKED) == 1

    assert [(row.record_index, row.error_code) for row in rows_of(database, job_id)] == [
        (4, "purged")
    ]
    assert find_records(database, ids) == []
    assert counts(database, job_id) == ("failed", 0, 1)


def in_the_middle(database: Database, action: Callable[[], None]) -> None:
    """Act once, after the first statement that looks for a job's records."""
    todo = [action]

    @event.listens_for(database.engine, "after_cursor_execute")
    def _act(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if todo and ("FROM results" in statement or "FROM payloads" in statement):
            todo.pop()()


def test_a_record_whose_chunk_is_completed_while_it_is_looked_for_is_found(
    database: Database,
) -> None:
    job_id = failed_job(database)
    claimed = claims_of(database, job_id)[1]
    in_the_middle(database, lambda: finish(database, claimed, ()))
    (found,) = find_records(database, {canary("id", 4)})
    assert found.records == 1
    assert purge_records(database, found, {canary("id", 4)}, ASKED) == 1


def test_a_record_that_is_still_in_hand_is_refused_as_long_as_it_is(database: Database) -> None:
    job_id = failed_job(database)
    ids = {canary("id", 4)}
    (found,) = find_records(database, ids)
    with pytest.raises(JobConflictError, match=r"a worker has the record .* in hand"):
        purge_records(database, found, ids, ASKED)
    finish(database, claims_of(database, job_id)[1], ())
    assert purge_records(database, found, ids, ASKED) == 1


def test_what_is_said_to_go_counts_records_that_have_no_row_yet(database: Database) -> None:
    """Beside rows, and once where an error row's input is kept as well."""
    ids = {canary("id", index) for index in (0, 1, 4)}
    job_id = private_job(database, run=1)
    database.transact(fail_job, job_id, "no model")
    put(database, chunks, chunks.c.status == "running", status="failed")
    (found,) = find_records(database, ids)
    assert len(found.waiting) == 2
    assert found.records == 3
    assert purge_records(database, found, ids, ASKED) == 3
