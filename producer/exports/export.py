"""What is exported: the rows of a job, the columns they have, and how they are to be written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row

from textmill.db.columns import field_type
from textmill.producer.exports.reading import read_ahead

COLUMNS = (
    "record_index",
    "record_id",
    "text",
    "label",
    "score",
    "output",
    "vector",
    "detail",
    "error_code",
    "error_message",
    "input_tokens",
    "output_tokens",
    "reused_from",
)

ReadBatches = Callable[[Sequence[str], Sequence[str]], Iterator[Any]]
"""Of names of columns of ``results``, and of the input's own columns: record batches of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """The rows of a job, and how they are to be written.

    ``read`` gives them: see ``db.batches.iter_batches``. ``spreadsheet_safe`` is for CSV and TSV.
    """

    job: Row[Any]
    read: ReadBatches
    format: str
    spreadsheet_safe: bool = False

    def batches(self) -> AbstractContextManager[Iterator[Any]]:
        """The rows as record batches of all columns, named and typed as ``schema`` says."""
        return read_ahead(self._pages())

    def tables(self, rows: int, size: int) -> AbstractContextManager[Iterator[Any]]:
        """The same as tables, each ended as soon as it has so many rows or bytes."""
        return read_ahead(_gathered(self._pages(), rows, size))

    def _pages(self) -> Iterator[Any]:
        import pyarrow as pa

        schema = self.schema()
        for page in self.read(COLUMNS, self.job.extra_columns):
            yield pa.RecordBatch.from_arrays(page.columns, schema=schema)

    def schema(self) -> Any:
        """Names and Arrow types of the columns, with the job in the metadata."""
        return make_schema(self.job.extra_columns).with_metadata(self._metadata())

    def _metadata(self) -> dict[str, str]:
        job = self.job
        described = {
            "textmill.job_id": job.id,
            "textmill.task": job.task,
            "textmill.model": job.model,
            "textmill.model_version": job.model_version,
        }
        return {key: value for key, value in described.items() if value is not None}


def _gathered(pages: Iterator[Any], rows: int, size: int) -> Iterator[Any]:
    import pyarrow as pa

    held: list[Any] = []
    for page in pages:
        held.append(page)
        if sum(one.num_rows for one in held) >= rows or sum(one.nbytes for one in held) >= size:
            yield pa.Table.from_batches(held)
            held = []
    if held:
        yield pa.Table.from_batches(held)


def make_schema(extra_columns: Sequence[str]) -> Any:
    """Names and Arrow types of a row's columns, then of the input's own."""
    import pyarrow as pa

    own = [(name, field_type(name)) for name in COLUMNS]
    return pa.schema([*own, *((name, pa.string()) for name in extra_names(extra_columns))])


def extra_names(columns: Sequence[str]) -> list[str]:
    """Names in the export of the input's own columns; ``input_label`` where there is a ``label``.

    Each name is given once: ``input_`` comes before it as often as it takes.
    """
    taken = {*COLUMNS, *columns}
    names = []
    for column in columns:
        name = column
        if column in COLUMNS:
            while name in taken:
                name = f"input_{name}"
            taken.add(name)
        names.append(name)
    return names
