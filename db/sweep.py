"""Sweep: repairs what crashed or vanished, from what SQL says. Runs in every worker on a timer.

All workers try; a guarded UPDATE on one row lets one of them do the work of each round.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sqlalchemy import Connection, case, or_, select, text, update

from textmill.core.broker import Publisher, queue_lengths
from textmill.core.errors import ServiceUnavailableError
from textmill.core.jobs import ChunkStatus, JobStatus
from textmill.core.messages import ChunkMessage, queue_name
from textmill.core.settings import Settings
from textmill.db.clock import now
from textmill.db.dead_loads import remove_dead_loads
from textmill.db.dispatch import DISPATCHABLE, fill_window, publish, window_size
from textmill.db.jobs import close_if_complete
from textmill.db.models import chunks, jobs, sweeps
from textmill.db.postgresql import WORKER_NAME
from textmill.db.session import Database
from textmill.db.workers import forget_lost_workers

MAX_CHUNKS = 1000  # changed by one round, so that its transaction stays short
MAX_DOUBLINGS = 10
REMOVAL_SECONDS = 2.0  # of a round, for what dead loads have left
END_STUCK_SESSIONS = text(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = :name "
    "AND datname = current_database() AND usename = current_user AND pid <> pg_backend_pid() "
    "AND xact_start < clock_timestamp() - make_interval(secs => :seconds)"
)


@dataclass(slots=True)
class SweepReport:
    """What one round repaired, and the messages to publish after its commit."""

    stalled: int = 0
    tidied: int = 0
    republished: int = 0
    dead_loads: list[str] = field(default_factory=list)
    messages: list[ChunkMessage] = field(default_factory=list)
    unpublished: str | None = None  # why the broker could not be told


def take_turn(connection: Connection, interval_seconds: float) -> bool:
    """True for one caller per interval, of all workers that ask."""
    # A turn in the future was taken before the database's clock was set back.
    due = or_(sweeps.c.swept_at < now() - interval_seconds, sweeps.c.swept_at > now())
    taken = connection.execute(
        update(sweeps).where(sweeps.c.name == "sweep", due).values(swept_at=now())
    )
    return taken.rowcount == 1


def sweep_once(
    database: Database,
    report: SweepReport,
    *,
    idle_queues: set[tuple[str, str]],
    grace_seconds: float,
) -> None:
    """One round in short transactions, noted in ``report``; the caller publishes its ``messages``.

    ``idle_queues`` holds the (queue, priority) pairs whose Redis list was empty just now: a chunk
    dispatched to one of them longer ago than ``grace_seconds`` has lost its message.
    """
    report.stalled = database.transact(release_stalled)
    report.tidied = database.transact(tidy_ended_jobs)
    for job_id, queue in database.transact(_open_jobs):
        report.messages += database.transact(_refill, job_id, queue)
    lost = database.transact(redispatch_lost, idle_queues, grace_seconds)
    report.republished = len(lost)
    report.messages += lost
    database.transact(forget_lost_workers)


def end_stuck_sessions(connection: Connection, seconds: float) -> None:
    """On PostgreSQL, end the sessions of workers whose transaction is older than ``seconds``.

    A worker bounds its own transactions to half its lease, but no time limit of the server reaches
    a COPY that waits for the next row of a client which stands still, with its host, say.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(END_STUCK_SESSIONS, {"name": WORKER_NAME, "seconds": seconds})


def release_stalled(connection: Connection) -> int:
    """Chunks whose lease has ended go back to pending."""
    # Two statements: PostgreSQL may run a sub-select with a LIMIT again for each row it updates.
    stalled = connection.scalars(
        select(chunks.c.id)
        .where(
            chunks.c.status == ChunkStatus.RUNNING.value,
            chunks.c.lease_expires_at < now(),
        )
        .order_by(chunks.c.id)
        .limit(MAX_CHUNKS)
        .with_for_update(skip_locked=True)
    ).all()
    return connection.execute(
        update(chunks)
        .where(chunks.c.id.in_(stalled))
        .values(
            status=ChunkStatus.PENDING.value,
            lease_owner=None,
            lease_expires_at=None,
            error="its worker's lease ended",
        )
    ).rowcount


def tidy_ended_jobs(connection: Connection) -> int:
    """Waiting chunks of a failed or cancelled job take its status; they slipped past its end."""
    ended = {
        JobStatus.FAILED.value: ChunkStatus.FAILED.value,
        JobStatus.CANCELLED.value: ChunkStatus.CANCELLED.value,
    }
    left = connection.execute(
        select(chunks.c.id, jobs.c.status)
        .join(jobs, jobs.c.id == chunks.c.job_id)
        .where(
            chunks.c.status.in_([ChunkStatus.PENDING.value, ChunkStatus.DISPATCHED.value]),
            jobs.c.status.in_(list(ended)),
        )
        .order_by(chunks.c.id)
        .limit(MAX_CHUNKS)
        .with_for_update(skip_locked=True)  # the job too: a retry may be about to revive it
    ).all()
    for job_status, chunk_status in ended.items():
        ids = [row.id for row in left if row.status == job_status]
        connection.execute(update(chunks).where(chunks.c.id.in_(ids)).values(status=chunk_status))
    return len(left)


def _open_jobs(connection: Connection) -> list[tuple[str, str]]:
    rows = connection.execute(
        select(jobs.c.id, jobs.c.queue).where(jobs.c.status.in_(DISPATCHABLE)).order_by(jobs.c.id)
    )
    return [(row.id, row.queue) for row in rows]


def _refill(connection: Connection, job_id: str, queue: str) -> list[ChunkMessage]:
    own = select(jobs.c.id).where(jobs.c.id == job_id).with_for_update(skip_locked=True)
    if connection.scalar(own) is None:
        return []  # somebody changes it now; the other jobs must not wait for that
    close_if_complete(connection, job_id)
    return fill_window(connection, job_id, window_size(connection, queue))


def redispatch_lost(
    connection: Connection, idle_queues: set[tuple[str, str]], grace_seconds: float
) -> list[ChunkMessage]:
    """Publish dispatched chunks again: soon where their queue is empty, else ever more rarely.

    Messages that wait for hours behind a higher priority have not vanished, so the interval
    doubles with each dispatch. A doubled message does no harm: its claim finds the chunk taken.
    """
    age = now() - chunks.c.dispatched_at
    doubled = case(
        *[(chunks.c.dispatches == n, 60.0 * 2**n) for n in range(MAX_DOUBLINGS)],
        else_=60.0 * 2**MAX_DOUBLINGS,
    )
    empty = [
        (jobs.c.queue == queue) & (jobs.c.priority == priority) & (age > grace_seconds)
        for queue, priority in sorted(idle_queues)
    ]
    lost = (
        select(chunks.c.id, chunks.c.attempt, jobs.c.queue, jobs.c.priority)
        .join(jobs, jobs.c.id == chunks.c.job_id)
        .where(
            chunks.c.status == ChunkStatus.DISPATCHED.value,
            jobs.c.status.in_(DISPATCHABLE),
            or_(age > doubled, *empty),
        )
        .order_by(chunks.c.id)
        .limit(MAX_CHUNKS)
        .with_for_update(skip_locked=True, of=chunks)
    )
    rows = connection.execute(lost).all()
    connection.execute(
        update(chunks)
        .where(chunks.c.id.in_([row.id for row in rows]))
        .values(dispatched_at=now(), dispatches=chunks.c.dispatches + 1)
    )
    return [ChunkMessage(*row) for row in rows]


def dispatched_queues(connection: Connection) -> set[tuple[str, str]]:
    """The (queue, priority) pairs that dispatched chunks wait in; sweep asks Redis about these."""
    rows = connection.execute(
        select(jobs.c.queue, jobs.c.priority)
        .join(chunks, chunks.c.job_id == jobs.c.id)
        .where(chunks.c.status == ChunkStatus.DISPATCHED.value)
        .distinct()
    )
    return {(row.queue, row.priority) for row in rows}


def sweep_and_publish(database: Database, settings: Settings, publisher: Publisher) -> SweepReport:
    """One round of repairs and the messages it asks for. A broker that is away is no obstacle."""
    database.transact(end_stuck_sessions, settings.lease_seconds)  # first: they may hold locks
    with database.read() as connection:
        waiting = sorted(dispatched_queues(connection))
    try:
        lengths = queue_lengths(settings, [queue_name(*pair) for pair in waiting])
    except ServiceUnavailableError:
        lengths = {}  # nothing can be said about any queue: only old dispatches are repeated
    idle = {pair for pair in waiting if lengths.get(queue_name(*pair)) == 0}
    report = SweepReport()
    try:
        grace = settings.dispatch_grace_seconds
        sweep_once(database, report, idle_queues=idle, grace_seconds=grace)
    finally:  # what a round that fails half-way has marked as dispatched would wait for another
        try:
            publish(database, publisher, report.messages)
        except ServiceUnavailableError as error:
            report.unpublished = str(error)
    report.dead_loads = remove_dead_loads(database, seconds=REMOVAL_SECONDS)
    return report
