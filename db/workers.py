"""The table of live workers: who is there, with which device and slots, for which queues."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from textmill.db.clock import now
from textmill.db.models import workers

LIVE_SECONDS = 30  # a worker not seen for longer is not counted on
FORGET_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """What a worker tells about itself when it starts."""

    id: str
    host: str
    pid: int
    device: str
    slots: int
    queues: tuple[str, ...]


def register_worker(connection: Connection, info: WorkerInfo) -> None:
    """Add the worker; its id is new at every start, and is there already only if it asks again."""
    forget_worker(connection, info.id)  # it was committed, and the answer was lost
    connection.execute(
        insert(workers).values(
            id=info.id,
            host=info.host,
            pid=info.pid,
            device=info.device,
            slots=info.slots,
            queues=list(info.queues),
            models=[],
            started_at=now(),
            last_seen=now(),
        )
    )


def report_alive(
    connection: Connection, worker_id: str, *, device: str, models: Sequence[str]
) -> bool:
    """Renew the worker's place in the table; False if it has none any more."""
    renewed = connection.execute(
        update(workers)
        .where(workers.c.id == worker_id)
        .values(last_seen=now(), device=device, models=list(models))
    )
    return renewed.rowcount == 1


def forget_worker(connection: Connection, worker_id: str) -> None:
    """Remove a worker that has ended."""
    connection.execute(delete(workers).where(workers.c.id == worker_id))


def forget_lost_workers(connection: Connection) -> None:
    """Remove the rows of workers that vanished without a word long ago."""
    connection.execute(delete(workers).where(workers.c.last_seen < now() - FORGET_SECONDS))


def live_workers(connection: Connection, queue: str | None = None) -> list[Row[Any]]:
    """Workers seen in the last ``LIVE_SECONDS``, of one queue or of all; with their ``age``."""
    rows = connection.execute(
        select(workers, (now() - workers.c.last_seen).label("age"))
        .where(workers.c.last_seen > now() - LIVE_SECONDS)
        .order_by(workers.c.started_at)
    )
    return [row for row in rows if queue is None or queue in row.queues]


def place_of(worker: Row[Any]) -> str:
    """Host and device of a worker: what stays the same when its process is replaced."""
    return f"{worker.host} {worker.device}"


def live_slots(connection: Connection, queue: str) -> int:
    """How many chunks the live workers of this queue hold at once."""
    return sum(row.slots for row in live_workers(connection, queue))
