"""What travels through Redis: a chunk id and the attempt it was dispatched for, never a text."""

from __future__ import annotations

from dataclasses import dataclass

TASK_NAME = "textmill.process_chunk"


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


def queue_name(queue: str, priority: str) -> str:
    """The Celery queue of one named queue at one priority."""
    return f"textmill.{queue}.{priority}"
