"""Claims and leases: one worker at a time holds a chunk, and one that lost it writes nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Row, delete, select

from textmill.core.errors import RetryableError
from textmill.core.jobs import ChunkStatus, JobStatus
from textmill.core.messages import ChunkMessage
from textmill.db.chunks import (
    MAX_FAILURES,
    Claim,
    LeaseLostError,
    give_back,
    give_back_chunk,
    renew_leases,
)
from textmill.db.clock import now
from textmill.db.jobs import pause_job, resume_job
from textmill.db.model_failures import report_load_failure
from textmill.db.models import chunks, payloads
from textmill.db.retry import retry_job
from textmill.db.session import Database
from textmill.db.sweep import release_stalled
from textmill.db.workers import WorkerInfo, register_worker

from .. import builders
from ..builders import (
    LEASE,
    at_once,
    claim,
    claim_all,
    complete,
    dispatch,
    job_of,
    make_job,
    put,
    put_job,
    record,
    snapshot,
    statuses,
)

# Fixtures; imported by name, they would be redefined by every test's parameter.
tables_url = builders.tables_url
postgresql = builders.postgresql
database = builders.database


def chunk_of(database: Database, chunk_id: int) -> Row[Any]:
    with database.read() as connection:
        query = select(chunks, (chunks.c.lease_expires_at - now()).label("left"))
        return connection.execute(query.where(chunks.c.id == chunk_id)).one()


def renew(database: Database, worker: str, *held: Claim) -> set[tuple[int, int]]:
    keys = [(one.chunk_id, one.attempt) for one in held]
    return database.transact(renew_leases, worker, keys, lease_seconds=LEASE)


def test_a_claim_brings_the_records_and_takes_the_chunk_for_a_lease(database: Database) -> None:
    job_id = make_job(database, (2,))
    (message,) = dispatch(database, job_id)
    claimed = claim(database, message, "w7")
    assert claimed is not None
    assert claimed.records == [record(0), record(1)]
    assert (claimed.attempt, claimed.crashes, claimed.worker_id) == (1, 0, "w7")
    chunk = chunk_of(database, claimed.chunk_id)
    assert (chunk.status, chunk.lease_owner, chunk.attempt) == ("running", "w7", 1)
    assert LEASE - 10 < chunk.left <= LEASE


def test_a_doubled_message_is_claimed_once(database: Database) -> None:
    (message,) = dispatch(database, make_job(database))
    assert claim(database, message, "w1") is not None
    before = snapshot(database)
    assert claim(database, message, "w2") is None
    assert snapshot(database) == before


def test_of_many_workers_with_the_same_message_one_claims(database: Database) -> None:
    for message in dispatch(database, make_job(database, [1] * 10)):
        calls = [lambda n=n, it=message: claim(database, it, f"w{n}") for n in range(6)]
        claims = at_once(*calls)
        assert len([one for one in claims if isinstance(one, Claim)]) == 1
        assert claims.count(None) == 5
        assert chunk_of(database, message.chunk_id).attempt == 1


def test_a_late_message_of_an_overtaken_attempt_claims_nothing(database: Database) -> None:
    job_id = make_job(database)
    (late,) = dispatch(database, job_id)
    claim(database, late, lease=-1)
    database.transact(release_stalled)
    assert claim(database, late) is None  # pending: nobody has dispatched it again
    (message,) = dispatch(database, job_id)
    assert (message.chunk_id, message.attempt) == (late.chunk_id, 1)
    assert claim(database, late) is None
    claimed = claim(database, message)
    assert claimed is not None
    assert claimed.attempt == 2


@pytest.mark.parametrize("status", sorted(set(JobStatus) - {JobStatus.QUEUED, JobStatus.RUNNING}))
def test_no_chunk_of_a_job_that_is_held_or_ended_is_claimed(
    database: Database, status: JobStatus
) -> None:
    job_id = make_job(database)
    (message,) = dispatch(database, job_id)
    put_job(database, job_id, status)
    before = snapshot(database)
    assert claim(database, message) is None
    assert snapshot(database) == before


def test_the_first_claim_starts_the_job_and_no_later_one_changes_when(database: Database) -> None:
    job_id = make_job(database, (1, 1, 1))
    first, second, third = dispatch(database, job_id)
    assert job_of(database, job_id).started_at is None
    claim(database, first)
    job = job_of(database, job_id)
    assert job.status == "running"
    assert job.created_at <= job.queued_at <= job.started_at
    claim(database, second)
    assert job_of(database, job_id) == job
    put_job(database, job_id, JobStatus.QUEUED)  # as after a retry
    claim(database, third)
    assert job_of(database, job_id) == job


def test_a_claim_without_payload_is_undone(database: Database) -> None:
    job_id = make_job(database)
    (message,) = dispatch(database, job_id)
    with database.write() as connection:
        connection.execute(delete(payloads))
    before = snapshot(database)
    with pytest.raises(RetryableError, match=f"{job_id} has no payload"):
        claim(database, message)
    assert snapshot(database) == before


def test_a_worker_renews_all_its_leases_and_no_other(database: Database) -> None:
    job_id = make_job(database, (1, 1, 1))
    first, second, third = dispatch(database, job_id)
    given = [(first, "w1"), (second, "w1"), (third, "w2")]
    claims = [claim(database, message, worker, 5) for message, worker in given]
    mine = [one for one in claims if one is not None and one.worker_id == "w1"]
    assert renew(database, "w1", *mine) == {(first.chunk_id, 1), (second.chunk_id, 1)}
    assert chunk_of(database, first.chunk_id).left > 50
    assert chunk_of(database, second.chunk_id).left > 50
    assert chunk_of(database, third.chunk_id).left <= 5


def test_a_renewal_does_not_name_what_was_taken_finished_or_cancelled(database: Database) -> None:
    job_id = make_job(database, (1, 1, 1, 1))
    keeps, done, taken, cancelled = claim_all(database, job_id)
    complete(database, done)
    at = chunks.c.id
    put(database, chunks, at == taken.chunk_id, lease_owner="w2", attempt=2)
    put(database, chunks, at == cancelled.chunk_id, status=ChunkStatus.CANCELLED.value)
    assert renew(database, "w1", keeps, done, taken, cancelled) == {(keeps.chunk_id, 1)}
    assert renew(database, "w2", replace(taken, attempt=2)) == {(taken.chunk_id, 2)}
    assert renew(database, "w3", keeps) == set()
    assert renew(database, "w1") == set()


def test_a_claim_that_its_worker_never_heard_of_is_not_renewed(database: Database) -> None:
    """Its commit arrived and the answer did not: nobody works on it, so its lease must end."""
    job_id = make_job(database, (1, 1))
    known, unheard_of = dispatch(database, job_id)
    held = claim(database, known, "w1", lease=1)
    claim(database, unheard_of, "w1", lease=-1)
    assert held is not None
    assert renew(database, "w1", held) == {(known.chunk_id, 1)}
    assert database.transact(release_stalled) == 1
    assert statuses(database, job_id) == ["running", "pending"]


def test_only_chunks_whose_lease_has_ended_are_released(database: Database) -> None:
    job_id = make_job(database, (1, 1))
    stalled, alive = dispatch(database, job_id)
    claim(database, stalled, lease=-0.001)
    claim(database, alive, lease=LEASE)
    assert database.transact(release_stalled) == 1
    assert statuses(database, job_id) == ["pending", "running"]
    assert database.transact(release_stalled) == 0


def test_a_renewal_in_time_keeps_the_chunk(database: Database) -> None:
    (one,) = claim_all(database, make_job(database), lease=-1)
    renew(database, "w1", one)
    assert database.transact(release_stalled) == 0


def test_a_lease_is_the_databases_time_whatever_the_clock_of_the_process_says(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time", lambda: 5e9)
    (one,) = claim_all(database, make_job(database))
    assert database.transact(release_stalled) == 0
    assert LEASE - 10 < chunk_of(database, one.chunk_id).left <= LEASE


def release(database: Database, job_id: str) -> None:
    assert database.transact(release_stalled) == 1


def release_and_dispatch(database: Database, job_id: str) -> None:
    release(database, job_id)
    dispatch(database, job_id)


def release_and_claim(database: Database, job_id: str) -> None:
    release(database, job_id)
    assert len(claim_all(database, job_id, "w2")) == 1


def release_and_complete(database: Database, job_id: str) -> None:
    release(database, job_id)
    (other,) = claim_all(database, job_id, "w2")
    complete(database, other)


@pytest.mark.parametrize(
    "meanwhile", [release, release_and_dispatch, release_and_claim, release_and_complete]
)
def test_a_worker_that_lost_its_lease_writes_nothing(
    database: Database, meanwhile: Callable[[Database, str], None]
) -> None:
    job_id = make_job(database, (3,))
    (lost,) = claim_all(database, job_id, lease=-1)
    meanwhile(database, job_id)
    before = snapshot(database)
    with pytest.raises(LeaseLostError):
        complete(database, lost, {1})
    assert snapshot(database) == before


def test_a_lease_that_ended_unnoticed_still_lets_its_worker_complete(database: Database) -> None:
    job_id = make_job(database)
    (late,) = claim_all(database, job_id, lease=-1)
    complete(database, late)
    assert job_of(database, job_id).status == "completed"


def test_a_stopped_worker_gives_back_its_chunks_and_a_dead_one_counts_a_crash(
    database: Database,
) -> None:
    job_id = make_job(database, (1, 1, 1))
    first, second, third = dispatch(database, job_id)
    for message, worker in ((first, "w1"), (second, "w2"), (third, "w3")):
        claim(database, message, worker)
    assert database.transact(give_back, "w1", crashed=False) == 1
    assert database.transact(give_back, "w2", crashed=True) == 1
    found = [chunk_of(database, message.chunk_id) for message in (first, second, third)]
    assert [(row.status, row.crashes) for row in found] == [
        ("pending", 0),
        ("pending", 1),
        ("running", 0),
    ]
    assert database.transact(give_back, "w2", crashed=True) == 0


def test_a_paused_jobs_chunk_is_claimed_only_by_the_message_after_its_resumption(
    database: Database,
) -> None:
    job_id = make_job(database)
    (old,) = dispatch(database, job_id)
    database.transact(pause_job, job_id)
    assert claim(database, old) is None
    database.transact(resume_job, job_id)
    assert claim(database, old) is None  # it is pending: its place in the window may be another's
    (new,) = dispatch(database, job_id)
    assert claim(database, new) is not None


def fail_system(database: Database, message: ChunkMessage, *, failed: bool) -> str | None:
    claimed = claim(database, message)
    assert claimed is not None
    return database.transact(give_back_chunk, claimed, "no memory", failed=failed)


def test_a_chunk_that_fails_again_and_again_fails_its_job(database: Database) -> None:
    job_id = make_job(database, (1, 1))
    for failed in [False] * MAX_FAILURES + [True] * (MAX_FAILURES - 1):
        message, *_ = dispatch(database, job_id)
        assert fail_system(database, message, failed=failed) is None
        assert job_of(database, job_id).status == "running"
    (message,) = dispatch(database, job_id)
    assert fail_system(database, message, failed=True) == job_id
    job = job_of(database, job_id)
    assert job.status == "failed"
    assert f"failed {MAX_FAILURES} times, the last time with: no memory" in job.error
    assert statuses(database, job_id) == ["failed", "failed"]
    # After retry its failures count from nought.
    database.transact(retry_job, job_id)
    message, _ = dispatch(database, job_id)
    assert fail_system(database, message, failed=True) is None


def test_what_a_worker_says_of_a_chunk_it_lost_counts_no_failure(database: Database) -> None:
    job_id = make_job(database)
    (lost,) = claim_all(database, job_id, lease=-1)
    database.transact(release_stalled)
    before = snapshot(database)
    assert database.transact(give_back_chunk, lost, "no memory", failed=True) is None
    assert snapshot(database) == before


def worker(database: Database, name: str, host: str, device: str = "cpu") -> None:
    database.transact(register_worker, WorkerInfo(name, host, 1, device, 4, ("default",)))


def load_failure(database: Database, message: ChunkMessage, place: str) -> bool:
    claimed = claim(database, message)
    assert claimed is not None
    return database.transact(report_load_failure, claimed, "no such file", place=place)


def test_a_model_that_loads_nowhere_fails_the_job_at_its_second_host(database: Database) -> None:
    for name, host in (("w1", "a"), ("w2", "b"), ("w3", "c")):
        worker(database, name, host)
    job_id = make_job(database, (1, 1))
    first, second = dispatch(database, job_id)
    assert not load_failure(database, first, "a cpu")
    (again,) = dispatch(database, job_id)
    assert not load_failure(database, again, "a cpu")  # the same place says nothing new
    assert job_of(database, job_id).status == "running"
    assert load_failure(database, second, "b cpu")
    job = job_of(database, job_id)
    assert (job.status, job.error) == ("failed", "no such file")
    assert statuses(database, job_id) == ["failed", "failed"]


def test_one_host_with_a_wrong_path_fails_no_job_however_many_devices_it_has(
    database: Database,
) -> None:
    for name, host, device in (("w1", "a", "cuda:0"), ("w2", "a", "cuda:1"), ("w3", "b", "cuda:0")):
        worker(database, name, host, device)
    job_id = make_job(database, (1, 1, 1))
    first, second, third = dispatch(database, job_id)
    assert not load_failure(database, first, "a cuda:0")
    assert not load_failure(database, second, "a cuda:1")
    assert load_failure(database, third, "b cuda:0")


def test_a_model_that_does_not_load_on_the_only_live_place_fails_the_job(
    database: Database,
) -> None:
    worker(database, "w1", "a")
    job_id = make_job(database)
    (message,) = dispatch(database, job_id)
    assert load_failure(database, message, "a cpu")
    assert job_of(database, job_id).status == "failed"


def test_an_overtaken_worker_cannot_fail_a_job_for_its_model(database: Database) -> None:
    job_id = make_job(database)
    (lost,) = claim_all(database, job_id, lease=-1)
    database.transact(release_stalled)
    claim_all(database, job_id, "w2")
    before = snapshot(database)
    for place in ("a cpu", "b cpu"):
        assert not database.transact(report_load_failure, lost, "no such file", place=place)
    assert snapshot(database) == before


def test_a_load_failure_right_after_an_outage_does_not_fail_the_job(database: Database) -> None:
    """No worker could say that it is live: that the reporter is the only one is not known."""
    job_id = make_job(database)
    (claimed,) = claim_all(database, job_id)
    assert not database.transact(report_load_failure, claimed, "no such file", place="a cpu")
    assert (job_of(database, job_id).status, statuses(database, job_id)) == ("running", ["pending"])


def test_the_payload_of_a_released_chunk_is_kept(database: Database) -> None:
    job_id = make_job(database)
    claim_all(database, job_id, lease=-1)
    database.transact(release_stalled)
    (again,) = claim_all(database, job_id)
    assert again.records == [record(0)]
