"""What travels through Redis: a chunk id and the attempt it was dispatched for, never a text."""

from __future__ import annotations

import re
from dataclasses import dataclass

from textmill.core.errors import InvalidJobError

TASK_NAME = "textmill.process_chunk"
QUEUE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True, slots=True)
class ChunkMessage:
    """One chunk to process. ``queue`` and ``priority`` pick the list; only the rest is sent."""

    chunk_id: int
    attempt: int
    queue: str
    priority: str

    @property
    def routing_queue(self) -> str:
        """The Redis list (= Celery queue) that this message goes to."""
        return queue_name(self.queue, self.priority)


def require_queue(name: str) -> None:
    """Raise InvalidJobError for what no queue can be called."""
    if not QUEUE_NAME.fullmatch(name):
        raise InvalidJobError(
            f"queue {name!r} is no name: expected letters, digits, '-' and '_', at most 64"
        )


def queue_name(queue: str, priority: str) -> str:
    """The Celery queue of one named queue at one priority."""
    return f"textmill.{queue}.{priority}"
