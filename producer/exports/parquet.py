"""Parquet, compressed with zstd, in row groups that bound the memory of who writes and reads."""

from __future__ import annotations

from typing import IO

from textmill.producer.exports.export import Export

GROUP_ROWS = 1 << 15
GROUP_BYTES = 16 << 20  # before compression


def write(export: Export, file: IO[bytes]) -> int:
    """Write every row; returns their number."""
    import pyarrow.parquet as pq

    count = 0
    with (
        export.tables(GROUP_ROWS, GROUP_BYTES) as tables,
        pq.ParquetWriter(file, export.schema(), compression="zstd") as writer,
    ):
        for table in tables:
            writer.write_table(table, row_group_size=len(table))
            count += len(table)
    return count
