"""How a chunk's records lie in SQL: JSON lines, one a record, compressed with Zstandard.

A line is ``[index, record_id, inputs, params, extra]``. It carries the record's own index, so that
nothing is ever computed from a chunk's position.
"""

from __future__ import annotations

from collections.abc import Iterable

import orjson
import zstandard

from textmill.core.jobs import Record

LEVEL = 1  # the fastest: payloads live for minutes, and the producer's time is the bottleneck


def encode_record(record: Record) -> bytes:
    """One line, without its newline; the same record always gives the same bytes."""
    return orjson.dumps(
        (record.index, record.record_id, record.inputs, record.params, record.extra)
    )


def compress(lines: Iterable[bytes]) -> bytes:
    """The payload of encoded records."""
    return zstandard.ZstdCompressor(level=LEVEL).compress(b"\n".join(lines))


def encode_payload(records: Iterable[Record]) -> bytes:
    """The payload of these records."""
    return compress(encode_record(record) for record in records)


def decode_payload(data: bytes) -> list[Record]:
    """The records of a payload, in the order they were written."""
    lines = zstandard.ZstdDecompressor().decompress(data)
    # JSON escapes newlines inside strings, so every newline separates two records.
    return [Record(*row) for row in orjson.loads(b"[" + lines.replace(b"\n", b",") + b"]")]
