"""The window: how many chunks of a job are dispatched, however many fill it at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue

import pytest
from sqlalchemy import Connection, select, update

from textmill.core.broker import Publisher
from textmill.core.errors import ServiceUnavailableError
from textmill.core.jobs import Priority
from textmill.core.messages import ChunkMessage
from textmill.core.settings import Settings
from textmill.db.chunks import complete_chunk
from textmill.db.dispatch import MIN_WINDOW, fill_window, publish, take_back, window_size
from textmill.db.jobs import fail_job
from textmill.db.models import chunks, workers
from textmill.db.session import Database
from textmill.db.sweep import tidy_ended_jobs
from textmill.db.workers import LIVE_SECONDS, WorkerInfo, register_worker

from .. import builders
from ..builders import (
    at_once,
    claim,
    complete,
    count,
    counts,
    dispatch,
    make_job,
    open_database,
    outcome,
    put,
    statuses,
)
from ..servers import free_port

# Fixtures; imported by name, they would be redefined by every test's parameter.
tables_url = builders.tables_url
postgresql = builders.postgresql
database = builders.database


def test_the_window_holds_so_many_dispatched_chunks_and_each_completion_tops_it_up(
    database: Database,
) -> None:
    job_id = make_job(database, [1] * 6, queue="gpu", priority=Priority.HIGH)
    messages = dispatch(database, job_id, 2)
    with database.read() as connection:
        ids = connection.scalars(select(chunks.c.id).order_by(chunks.c.id)).all()
    assert messages == [ChunkMessage(one, 0, "gpu", "high") for one in ids[:2]]
    assert dispatch(database, job_id, 2) == []
    claimed = claim(database, messages[0])
    assert claimed is not None
    new = complete(database, claimed, window=2)
    assert new == [ChunkMessage(ids[2], 0, "gpu", "high")]
    dispatched = chunks.c.status == "dispatched"
    assert count(database, chunks, dispatched, chunks.c.dispatched_at.is_not(None)) == 2
    assert count(database, chunks, chunks.c.dispatches == 1) == 2


def test_top_ups_at_once_never_go_over_the_window(database: Database) -> None:
    for _ in range(5):
        job_id = make_job(database, [1] * 20)
        found = at_once(*[lambda it=job_id: dispatch(database, it, 4)] * 5)
        assert sum(map(len, found)) == 4
        assert statuses(database, job_id).count("dispatched") == 4


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
def test_a_window_over_a_small_analysed_table_is_not_exceeded(
    postgresql: Database, size: int
) -> None:
    """UPDATE … IN (SELECT … LIMIT … FOR UPDATE) must not run its subquery once per row."""
    for setting in ("enable_hashjoin", "enable_hashagg", "enable_sort"):
        job_id = make_job(postgresql, [1] * size)
        with postgresql.write() as connection:
            connection.exec_driver_sql("ANALYZE chunks")
            connection.exec_driver_sql(f"SET LOCAL {setting} = off")
            fill_window(connection, job_id, 1)
        assert statuses(postgresql, job_id).count("dispatched") == 1


def test_completers_at_once_keep_the_window_and_finish_the_job(database: Database) -> None:
    window, workers_there = 3, 4
    job_id = make_job(database, [1] * 24)
    queue: SimpleQueue[ChunkMessage | None] = SimpleQueue()
    most = []
    for message in dispatch(database, job_id, window):
        queue.put(message)

    def work() -> None:
        while (message := queue.get(timeout=30)) is not None:
            claimed = claim(database, message, threading.current_thread().name)
            assert claimed is not None
            new = complete(database, claimed, window=window)
            most.append(statuses(database, job_id).count("dispatched"))
            for one in new:
                queue.put(one)
            if len(most) == 24:
                for _ in range(workers_there):
                    queue.put(None)

    assert at_once(*[work] * workers_there) == [None] * workers_there
    assert max(most) <= window
    assert counts(database, job_id) == ("completed", 24, 0)


def test_a_top_up_passes_over_a_chunk_that_another_transaction_holds(
    postgresql: Database, tables_url: str
) -> None:
    job_id = make_job(postgresql, (1, 1, 1))
    claimed = claim(postgresql, dispatch(postgresql, job_id, 1)[0])
    assert claimed is not None
    with holding(postgresql, claimed.chunk_id + 1), impatient(tables_url) as connection:
        (message,) = complete_chunk(connection, claimed, outcome(claimed), window=1)
    assert message.chunk_id == claimed.chunk_id + 2


@contextmanager
def holding(database: Database, chunk_id: int) -> Iterator[None]:
    """An open transaction that has changed the chunk."""
    with database.write() as connection:
        connection.execute(update(chunks).where(chunks.c.id == chunk_id).values(error="held"))
        yield


@contextmanager
def impatient(url: str) -> Iterator[Connection]:
    """A write transaction that fails where it has to wait."""
    with open_database(url, transaction_seconds=2) as database, database.write() as connection:
        yield connection


def test_the_window_is_twice_the_live_slots_of_the_queue_and_at_least_four(
    database: Database,
) -> None:
    def size(queue: str) -> int:
        with database.read() as connection:
            return window_size(connection, queue)

    assert size("default") == MIN_WINDOW == 4
    for name, queues in (("a", ("default",)), ("b", ("default", "gpu")), ("c", ("gpu",))):
        database.transact(register_worker, WorkerInfo(name, "host", 1, "cpu", 3, queues))
    assert (size("default"), size("gpu"), size("other")) == (12, 12, 4)
    lost = workers.c.last_seen - LIVE_SECONDS - 1
    put(database, workers, workers.c.id == "b", last_seen=lost)
    assert (size("default"), size("gpu")) == (6, 6)


def test_failing_a_job_waits_for_no_chunk_that_another_holds_and_sweep_tidies_it(
    postgresql: Database, tables_url: str
) -> None:
    job_id = make_job(postgresql, (1, 1))
    first = dispatch(postgresql, job_id)[0].chunk_id
    with holding(postgresql, first), impatient(tables_url) as connection:
        assert fail_job(connection, job_id, "no model")
    assert statuses(postgresql, job_id) == ["dispatched", "failed"]
    assert claim(postgresql, ChunkMessage(first, 0, "default", "normal")) is None
    assert postgresql.transact(tidy_ended_jobs) == 1
    assert statuses(postgresql, job_id) == ["failed", "failed"]


def test_chunks_whose_messages_cannot_be_sent_are_pending_again_for_the_next_to_try(
    database: Database, settings: Callable[..., Settings]
) -> None:
    """A worker that is cut off from the broker must not keep its jobs' windows to itself."""
    job_id = make_job(database, (1, 1, 1))
    messages = dispatch(database, job_id)
    claim(database, messages[0])  # arrived, although its sender heard nothing
    cut_off = Publisher(settings(broker_url=f"redis://127.0.0.1:{free_port()}/0"))
    with pytest.raises(ServiceUnavailableError, match="cannot be reached"):
        publish(database, cut_off, messages)
    assert statuses(database, job_id) == ["running", "pending", "pending"]
    assert count(database, chunks, chunks.c.dispatches == 0) == 3  # no repetition is counted
    assert dispatch(database, job_id) == messages[1:]


def test_only_what_still_waits_for_its_message_is_taken_back(database: Database) -> None:
    """Whatever became of a chunk while its publish failed, it is left alone."""
    job_id = make_job(database, (1, 1, 1))
    cancelled, late, waiting = dispatch(database, job_id)
    put(database, chunks, chunks.c.id == cancelled.chunk_id, status="cancelled")
    put(database, chunks, chunks.c.id == late.chunk_id, attempt=3)  # it ran, and waits once more
    database.transact(take_back, [cancelled, late, waiting])
    assert statuses(database, job_id) == ["cancelled", "dispatched", "pending"]
