"""Loads that nobody finishes: keys free and producers stopped at once, rows deleted in parts."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select

from textmill.core.errors import JobConflictError
from textmill.core.jobs import JobStatus
from textmill.db import dead_loads
from textmill.db.clock import now
from textmill.db.dead_loads import abandon_load, remove_dead_loads
from textmill.db.loading import NewChunk, add_chunks, finish_loading
from textmill.db.models import chunks, jobs, payloads, results
from textmill.db.payloads import encode_payload
from textmill.db.session import Database

from .. import builders
from ..builders import count, job_of, make_job, put, put_job, record, snapshot
from ..submissions import nothing_in

# Fixtures; imported by name, they would be redefined by every test's parameter.
tables_url = builders.tables_url
postgresql = builders.postgresql
database = builders.database


def make_load(database: Database, *sizes: int, **fields: Any) -> str:
    return make_job(database, sizes, finish=False, **fields)


def test_a_dead_load_is_removed_with_all_it_wrote_and_its_key_is_free(database: Database) -> None:
    dead = make_load(database, 1, 2, bad=1, load_seconds=-1, key="k")
    alive = make_load(database, 1, bad=1, key="other")
    assert remove_dead_loads(database) == [dead]
    for table in (jobs, chunks, payloads, results):
        assert count(database, table) == 1
    assert job_of(database, alive).status == "loading"
    make_job(database, key="k")


@pytest.mark.parametrize("status", sorted(set(JobStatus) - {JobStatus.LOADING}))
def test_a_job_that_is_past_loading_is_never_removed(database: Database, status: JobStatus) -> None:
    job_id = make_load(database, 1, bad=1, load_seconds=-1)
    put_job(database, job_id, status)
    before = snapshot(database)
    assert remove_dead_loads(database) == []
    abandon_load(database, job_id)
    assert snapshot(database) == before


def test_a_load_is_removed_in_parts_until_nothing_is_left(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_loads, "PART_CHUNKS", 2)
    monkeypatch.setattr(dead_loads, "PART_ROWS", 3)
    dead = make_load(database, *[1] * 7, bad=4, load_seconds=-1, key="k")
    assert remove_dead_loads(database, seconds=-1) == []
    assert (count(database, chunks), count(database, payloads)) == (5, 5)
    assert count(database, results) == 1
    assert job_of(database, dead).key is None

    assert remove_dead_loads(database) == [dead]
    assert nothing_in(database)


def test_a_producer_that_wakes_after_its_load_was_given_up_writes_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_loads, "PART_CHUNKS", 1)
    job_id = make_load(database, 1, 1, 1, load_seconds=-1)
    remove_dead_loads(database, seconds=-1)
    before = snapshot(database)
    more = [NewChunk(1, encode_payload([record(9)]))]
    with pytest.raises(JobConflictError, match="was given up"):
        database.transact(add_chunks, job_id, more, load_seconds=60)
    with pytest.raises(JobConflictError, match="was given up"):
        database.transact(finish_loading, job_id, total=4, errors=0, input_hash=b"hash")
    assert snapshot(database) == before
    assert remove_dead_loads(database) == [job_id]
    assert nothing_in(database)


def test_a_producer_that_wakes_in_time_keeps_its_load(database: Database) -> None:
    job_id = make_load(database, 1, load_seconds=-1)
    database.transact(add_chunks, job_id, [], load_seconds=60)
    assert remove_dead_loads(database) == []
    assert job_of(database, job_id).status == "loading"


def test_a_load_that_its_producer_holds_at_this_moment_is_passed_over(
    postgresql: Database,
) -> None:
    """It may stand still for long, and sweep must not wait for it."""
    job_id = make_load(postgresql, 1, load_seconds=-1)
    with postgresql.write() as producer:
        producer.execute(select(jobs).where(jobs.c.id == job_id).with_for_update())
        assert remove_dead_loads(postgresql) == []
    assert remove_dead_loads(postgresql) == [job_id]


def test_an_abandoned_load_is_removed_whatever_its_lease_and_no_other(database: Database) -> None:
    mine, other = make_load(database, 1, 2), make_load(database, 1, load_seconds=-1)
    abandon_load(database, mine)
    assert count(database, jobs, jobs.c.id == mine) == 0
    put(database, jobs, jobs.c.id == other, load_expires_at=now() + 60)
    assert remove_dead_loads(database) == []
