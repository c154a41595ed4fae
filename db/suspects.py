"""Chunks whose worker died: found guilty or innocent by running alone, and halved down to a record.

A crash does not say which of a worker's chunks caused it, so a chunk with one crash runs alone
in its worker. One that crashes alone is halved, and a record is condemned only after it crashed
alone, as a chunk of one, twice.
"""

from __future__ import annotations

from sqlalchemy import Connection, delete, select, update

from textmill.core.errors import RecordError
from textmill.core.jobs import ChunkStatus
from textmill.db.chunks import Claim, still_ours
from textmill.db.loading import NewChunk, insert_chunks
from textmill.db.models import chunks, payloads
from textmill.db.payloads import encode_payload

ALONE_CRASHES = 2  # the first may have been another chunk's fault, the second was its own
CONDEMNING_CRASHES = 3  # for a chunk of one: the second and the third happened alone


def is_suspect(connection: Connection, chunk_id: int, attempt: int) -> bool:
    """True if a message is for a chunk that has to run alone."""
    crashes = connection.scalar(
        select(chunks.c.crashes).where(
            chunks.c.id == chunk_id,
            chunks.c.attempt == attempt,
            chunks.c.status == ChunkStatus.DISPATCHED.value,
        )
    )
    return bool(crashes)


def must_split(claim: Claim) -> bool:
    """True if the chunk crashed alone and has more than one record."""
    return claim.crashes >= ALONE_CRASHES and len(claim.records) > 1


def split_chunk(connection: Connection, claim: Claim) -> None:
    """Replace a claimed chunk by its two halves, which run alone too; nothing if it was lost."""
    split = connection.execute(
        update(chunks)
        .where(*still_ours(claim))
        .values(status=ChunkStatus.SPLIT.value, lease_owner=None, lease_expires_at=None)
    )
    if split.rowcount != 1:
        return
    records = claim.records
    middle = len(records) // 2
    halves = [records[:middle], records[middle:]]
    new = [NewChunk(len(half), encode_payload(half)) for half in halves]
    ids = insert_chunks(connection, claim.job.id, new)
    connection.execute(update(chunks).where(chunks.c.id.in_(ids)).values(crashes=1))
    connection.execute(delete(payloads).where(payloads.c.chunk_id == claim.chunk_id))


def condemn(claim: Claim) -> RecordError | None:
    """The error of a record that has killed its worker often enough; None if it may run again."""
    if claim.crashes < CONDEMNING_CRASHES or len(claim.records) > 1:
        return None
    return RecordError(
        "worker_crashed",
        f"its worker died {claim.crashes} times while it ran, the last times it ran alone",
    )
