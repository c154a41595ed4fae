"""An Arrow IPC file, not compressed: other programs map it into memory and read it in place."""

from __future__ import annotations

from typing import IO

from textmill.producer.exports.export import Export


def write(export: Export, file: IO[bytes]) -> int:
    """Write every row, a record batch a page; returns the number of rows."""
    import pyarrow as pa

    count = 0
    with export.batches() as batches, pa.ipc.new_file(file, export.schema()) as writer:
        for batch in batches:
            writer.write_batch(batch)
            count += batch.num_rows
    return count
