"""Parquet, compressed with zstd, in row groups that bound the memory of who writes and reads."""

from __future__ import annotations

from typing import IO, Any

from textmill.producer.exports.export import Export

GROUP_ROWS = 1 << 16
GROUP_BYTES = 32 << 20  # before compression


def write(export: Export, file: IO[bytes]) -> int:
    """Write every row; returns their number."""
    import pyarrow.parquet as pq

    schema = export.schema()
    count = 0
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        group: list[Any] = []
        for batch in export.batches():
            group.append(batch)
            count += batch.num_rows
            if _is_full(group):
                _write_group(writer, group)
        if group:
            _write_group(writer, group)
    return count


def _is_full(group: list[Any]) -> bool:
    rows = sum(batch.num_rows for batch in group)
    held: int = sum(batch.nbytes for batch in group)
    return rows >= GROUP_ROWS or held >= GROUP_BYTES


def _write_group(writer: Any, group: list[Any]) -> None:
    import pyarrow as pa

    table = pa.Table.from_batches(group)
    writer.write_table(table, row_group_size=len(table))
    group.clear()
