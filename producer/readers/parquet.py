"""Parquet files, a batch of rows at a time; pyarrow is imported only when one is opened."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from textmill.core.errors import InputError
from textmill.core.jobs import BadRecord, Record
from textmill.core.storable import REPLACEMENT, is_utf8
from textmill.producer.readers.builder import RecordBuilder
from textmill.producer.readers.jsonable import to_jsonable
from textmill.producer.readers.options import SAMPLE_ROWS
from textmill.producer.readers.streams import STDIN, open_bytes

BATCH_ROWS = 1024
BUFFER_BYTES = 1024 * 1024
_MAGIC = b"PAR1"


class ParquetSource:
    """One Parquet file; rows are counted from 1."""

    unit = "row"

    def __init__(self, path: str | Path) -> None:
        self.name = str(path)
        _check_magic(path)
        import pyarrow.parquet

        with _named_errors(self.name):
            # Without pre_buffer and with a buffer a row group is never held as a whole.
            self._file = pyarrow.parquet.ParquetFile(
                self.name, pre_buffer=False, buffer_size=BUFFER_BYTES
            )
        self._schema = self._file.schema_arrow
        self.columns: tuple[str, ...] = tuple(self._schema.names)

    def close(self) -> None:
        self._file.close()

    def has_rows(self) -> bool:
        return bool(self._file.metadata.num_rows)

    def sample(self) -> Sequence[Mapping[str, Any]]:
        texts = [_is_text(kind) for kind in self._schema.types]
        _, rows = next(self._batches(SAMPLE_ROWS))
        # A date or bytes become a string when read but are no text: 0 stands for what is no text.
        return [
            {
                name: value if text else 0
                for name, value, text in zip(self.columns, row, texts, strict=True)
            }
            for row in rows
        ]

    def records(
        self, builder: RecordBuilder, index: int
    ) -> Generator[Record | BadRecord, None, int]:
        self._require_texts(builder.text_columns)
        build = builder.row_builder(self.columns)
        before = index - 1
        for suspect, rows in self._batches(BATCH_ROWS):
            for row in rows:
                if suspect and not all(map(is_utf8, filter(_is_str, row))):
                    yield builder.bad(index, index - before, "bad_encoding", "a cell is not UTF-8")
                else:
                    yield build(index, index - before, row)
                index += 1
        return index

    def _require_texts(self, columns: Sequence[str]) -> None:
        for column in columns:
            kind = self._schema.field(column).type
            if not _is_text(kind):
                raise InputError(f"{self.name}: column {column!r} holds {kind}; expected strings")

    def _batches(self, batch_rows: int) -> Iterator[tuple[bool, Iterator[tuple[Any, ...]]]]:
        """Batches as rows, each with whether some string in it is not UTF-8."""
        with _named_errors(self.name):
            for batch in self._file.iter_batches(batch_rows):
                columns = [_python_values(column) for column in batch.columns]
                suspect = any(suspect for suspect, _ in columns)
                yield suspect, zip(*(values for _, values in columns), strict=True)


def _check_magic(path: str | Path) -> None:
    if str(path) == STDIN:
        raise InputError("Parquet cannot be read from stdin; give the file's name")
    if Path(path).exists() and not Path(path).is_file() and not Path(path).is_dir():
        raise InputError(f"{path}: Parquet cannot be read from a pipe; give a file's name")
    with open_bytes(path) as stream:
        if stream.peek(len(_MAGIC))[: len(_MAGIC)] == _MAGIC:
            if Path(path).suffix in (".gz", ".zst"):
                raise InputError(f"{path}: Parquet is compressed inside; unpack the file")
            return
    if Path(path).stat().st_size == 0:
        raise InputError(f"{path}: is empty")
    raise InputError(f"{path}: is not a Parquet file: it does not begin with {_MAGIC.decode()}")


@contextmanager
def _named_errors(name: str) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        first_line = str(error).partition("\n")[0]
        raise InputError(f"{name}: damaged or unreadable Parquet: {first_line}") from None


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _is_str(value: object) -> bool:
    return isinstance(value, str)


def _python_values(column: Any) -> tuple[bool, list[Any]]:
    """A column's values as JSON can hold them, and whether some are not UTF-8."""
    from pyarrow import types

    kind = column.type
    if _is_text(kind):
        return _strings(column)
    if types.is_integer(kind) or types.is_boolean(kind):
        return False, column.to_pylist()
    values = _without_nanoseconds(column).to_pylist()
    return False, [to_jsonable(value) for value in values]


def _strings(column: Any) -> tuple[bool, list[Any]]:
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    suspect = False
    try:
        values = column.to_pylist()
    except UnicodeDecodeError:
        suspect = True
        raw = column.cast(pa.large_string()).view(pa.large_binary()).to_pylist()
        values = [cell and cell.decode(errors="surrogateescape") for cell in raw]
    return suspect, [
        cell.replace("\0", REPLACEMENT) if cell and "\0" in cell else cell for cell in values
    ]


def _without_nanoseconds(column: Any) -> Any:
    """Times in microseconds: Python's datetime knows no smaller unit."""
    import pyarrow as pa
    from pyarrow import types

    kind = column.type
    if types.is_timestamp(kind) and kind.unit == "ns":
        return column.cast(pa.timestamp("us", kind.tz), safe=False)
    if types.is_time64(kind) and kind.unit == "ns":
        return column.cast(pa.time64("us"), safe=False)
    if types.is_duration(kind) and kind.unit == "ns":
        return column.cast(pa.duration("us"), safe=False)
    return column
