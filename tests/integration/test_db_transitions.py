"""Every state change is made from exactly the statuses that core/jobs.py declares."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import Connection, case, delete, select, update

from textmill.core.errors import JobConflictError
from textmill.core.jobs import (
    CHUNK_TRANSITIONS,
    JOB_TRANSITIONS,
    ChunkStatus,
    JobStatus,
    sources_of,
)
from textmill.core.messages import ChunkMessage
from textmill.db.chunks import (
    Claim,
    LeaseLostError,
    give_back,
    give_back_chunk,
)
from textmill.db.dispatch import fill_window
from textmill.db.jobs import cancel_job, fail_job, get_job, pause_job, resume_job
from textmill.db.loading import finish_loading
from textmill.db.models import chunks, jobs, label_counts, payloads, results
from textmill.db.rerun import rerun_job
from textmill.db.retry import retry_job
from textmill.db.session import Database
from textmill.db.sweep import release_stalled, tidy_ended_jobs

from .. import builders
from ..builders import (
    LEASE,
    claim,
    claim_all,
    complete,
    job_of,
    make_job,
    put_job,
    snapshot,
)

J, C = JobStatus, ChunkStatus


# Fixtures; imported by name, they would be redefined by every test's parameter.
tables_url = builders.tables_url
postgresql = builders.postgresql
database = builders.database


def finish(connection: Connection, job_id: str) -> None:
    finish_loading(connection, job_id, total=9, errors=0, input_hash=b"hash")


def fail(connection: Connection, job_id: str) -> None:
    if not fail_job(connection, job_id, "no model"):
        raise JobConflictError(f"still {get_job(connection, job_id).status}")


@pytest.mark.parametrize(
    ("change", "target", "sources"),
    [
        (cancel_job, {J.CANCELLED}, set(sources_of(J.CANCELLED))),
        (pause_job, {J.PAUSED}, set(sources_of(J.PAUSED))),
        (fail, {J.FAILED}, set(sources_of(J.FAILED))),
        (resume_job, {J.QUEUED, J.RUNNING}, {J.PAUSED}),
        (retry_job, {J.QUEUED}, {J.FAILED, J.COMPLETED_WITH_ERRORS}),
        (rerun_job, {J.QUEUED}, {J.FAILED, J.COMPLETED_WITH_ERRORS, J.COMPLETED}),
        (finish, {J.QUEUED}, {J.LOADING}),
    ],
    ids=["cancel", "pause", "fail", "resume", "retry", "retry_all", "finish_loading"],
)
def test_a_job_changes_only_from_the_declared_statuses(
    database: Database,
    change: Callable[[Connection, str], object],
    target: set[JobStatus],
    sources: set[JobStatus],
) -> None:
    for status in JobStatus:
        job_id = make_job(database, (2, 1))
        first, _ = claim_all(database, job_id)
        complete(database, first, {0})
        put_job(database, job_id, status)
        before = snapshot(database)
        if status in sources:
            database.transact(change, job_id)
            after = JobStatus(job_of(database, job_id).status)
            assert after in target & JOB_TRANSITIONS[status]
            continue
        names_status = "" if change is finish else status.value
        with pytest.raises(JobConflictError, match=rf"\b{names_status}\b"):
            database.transact(change, job_id)
        assert snapshot(database) == before


def messages(database: Database, ids: Iterable[int], attempt: int) -> list[ChunkMessage]:
    return [ChunkMessage(chunk_id, attempt, "default", "normal") for chunk_id in ids]


def claim_each(database: Database, job_id: str, ids: list[int]) -> None:
    for message in messages(database, ids, 1):
        claim(database, message)


def claims_of(database: Database, job_id: str, ids: list[int], attempt: int = 1) -> list[Claim]:
    """What workers hold in their hands, whatever became of the chunks meanwhile."""
    job = job_of(database, job_id)
    with database.read() as connection:
        data = {row.chunk_id: row.data for row in connection.execute(select(payloads))}
    return [Claim(chunk_id, attempt, "w1", 0, job, data[chunk_id]) for chunk_id in ids]


def complete_each(database: Database, job_id: str, ids: list[int]) -> None:
    for claimed in claims_of(database, job_id, ids):
        with suppress(LeaseLostError):
            complete(database, claimed, window=0)


def overtaken_complete_each(database: Database, job_id: str, ids: list[int]) -> None:
    for claimed in claims_of(database, job_id, ids, attempt=0):
        with pytest.raises(LeaseLostError):
            complete(database, claimed, window=0)


def give_back_each(database: Database, job_id: str, ids: list[int]) -> None:
    for claimed in claims_of(database, job_id, ids):
        database.transact(give_back_chunk, claimed, "memory", failed=True)


def overtaken_give_back_each(database: Database, job_id: str, ids: list[int]) -> None:
    for claimed in claims_of(database, job_id, ids, attempt=0):
        database.transact(give_back_chunk, claimed, "memory", failed=True)


def of_job(change: Callable[..., object], *args: Any) -> Callable[[Database, str, list[int]], None]:
    def run(database: Database, job_id: str, ids: list[int]) -> None:
        database.transact(change, job_id, *args)

    return run


def of_all(change: Callable[..., object], *args: Any, **more: Any) -> Callable[..., None]:
    def run(database: Database, job_id: str, ids: list[int]) -> None:
        database.transact(change, *args, **more)

    return run


WAITING_CANCELLED = {C.PENDING: C.CANCELLED, C.DISPATCHED: C.CANCELLED}
WAITING_FAILED = {C.PENDING: C.FAILED, C.DISPATCHED: C.FAILED}

CHANGES: dict[str, tuple[JobStatus, Callable[..., None], dict[ChunkStatus, ChunkStatus]]] = {
    "fill_window": (J.RUNNING, of_job(fill_window, 10), {C.PENDING: C.DISPATCHED}),
    "fill_window_paused": (J.PAUSED, of_job(fill_window, 10), {}),
    "claim": (J.RUNNING, claim_each, {C.DISPATCHED: C.RUNNING}),
    "claim_queued": (J.QUEUED, claim_each, {C.DISPATCHED: C.RUNNING}),
    **{
        f"claim_{status}": (status, claim_each, {})
        for status in JobStatus
        if status not in (J.QUEUED, J.RUNNING)
    },
    "complete": (J.RUNNING, complete_each, {C.RUNNING: C.DONE}),
    "complete_paused": (J.PAUSED, complete_each, {C.RUNNING: C.DONE}),
    "complete_failed": (J.FAILED, complete_each, {C.RUNNING: C.DONE}),
    "complete_cancelled": (J.CANCELLED, complete_each, {}),
    "complete_overtaken": (J.RUNNING, overtaken_complete_each, {}),
    "give_back_chunk": (J.RUNNING, give_back_each, {C.RUNNING: C.PENDING}),
    "give_back_overtaken": (J.RUNNING, overtaken_give_back_each, {}),
    "give_back": (J.RUNNING, of_all(give_back, "w1", crashed=True), {C.RUNNING: C.PENDING}),
    "give_back_of_another": (J.RUNNING, of_all(give_back, "w2", crashed=True), {}),
    "release_stalled": (J.RUNNING, of_all(release_stalled), {C.RUNNING: C.PENDING}),
    "pause": (J.RUNNING, of_job(pause_job), {C.DISPATCHED: C.PENDING}),
    "resume": (J.PAUSED, of_job(resume_job), {}),
    "fail": (J.RUNNING, of_job(fail), WAITING_FAILED),
    "retry": (
        J.FAILED,
        of_job(retry_job),
        {C.FAILED: C.PENDING, C.DISPATCHED: C.PENDING},
    ),
    "cancel": (
        J.RUNNING,
        of_job(cancel_job),
        WAITING_CANCELLED | {C.RUNNING: C.CANCELLED, C.FAILED: C.CANCELLED},
    ),
    "tidy_failed": (J.FAILED, of_all(tidy_ended_jobs), WAITING_FAILED),
    "tidy_cancelled": (J.CANCELLED, of_all(tidy_ended_jobs), WAITING_CANCELLED),
    "tidy_running": (J.RUNNING, of_all(tidy_ended_jobs), {}),
    "tidy_paused": (J.PAUSED, of_all(tidy_ended_jobs), {}),
}


def test_a_chunk_changes_only_from_the_declared_statuses(
    database: Database, subtests: pytest.Subtests
) -> None:
    for name, (job_status, change, expected) in CHANGES.items():
        with subtests.test(name):
            check_changes(database, job_status, change, expected)
        with database.write() as connection:
            for table in (jobs, chunks, payloads, results, label_counts):
                connection.execute(delete(table))


def check_changes(
    database: Database,
    job_status: JobStatus,
    change: Callable[..., None],
    expected: dict[ChunkStatus, ChunkStatus],
) -> None:
    job_id = make_job(database, [1] * (len(ChunkStatus) + 1))
    other = make_job(database)
    with database.write() as connection:
        ids = list(connection.scalars(select(chunks.c.id).where(chunks.c.job_id == job_id)))
        # One chunk in every status, each as if claimed once by w1, for a lease that has ended. (The
        # last, of a crash, is only there so that completing the others leaves the job open.)
        status_of = dict(zip(ids, [*ChunkStatus, C.SPLIT], strict=True))
        connection.execute(
            update(chunks)
            .where(chunks.c.job_id == job_id)
            .values(
                status=case(
                    {id_: status.value for id_, status in status_of.items()}, value=chunks.c.id
                ),
                attempt=1,
                lease_owner="w1",
                lease_expires_at=1.0,
            )
        )
    put_job(database, job_id, job_status)

    change(database, job_id, ids)

    with database.read() as connection:
        rows = connection.execute(select(chunks.c.id, chunks.c.status).where(chunks.c.id.in_(ids)))
        changed = {
            status_of[id_]: ChunkStatus(status) for id_, status in rows if status_of[id_] != status
        }
        # Another job's chunk is never touched.
        assert (
            connection.scalar(select(chunks.c.status).where(chunks.c.job_id == other)) == C.PENDING
        )
    assert changed == expected
    for before, after in changed.items():
        assert after in CHUNK_TRANSITIONS[before]


def test_the_lease_of_a_chunk_that_is_given_back_or_released_is_gone(database: Database) -> None:
    for change in (
        of_all(give_back, "w1", crashed=False),
        of_all(release_stalled),
        give_back_each,
        of_job(cancel_job),
    ):
        job_id = make_job(database)
        (held,) = claim_all(database, job_id, lease=-LEASE)
        change(database, job_id, [held.chunk_id])
        with database.read() as connection:
            row = connection.execute(select(chunks).where(chunks.c.id == held.chunk_id)).one()
        assert (row.lease_owner, row.lease_expires_at, row.attempt) == (None, None, 1)
