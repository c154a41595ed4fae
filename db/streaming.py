"""A cursor of PostgreSQL that takes rows as the server sends them, in binary, texts as bytes.

An ordinary one holds all rows of a query before it gives the first.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from itertools import chain, islice
from typing import Any, Self, cast

import psycopg
from psycopg import capabilities
from psycopg.types.string import ByteaBinaryLoader

STREAMED_ROWS = 64  # that come in one piece


def _nothing() -> Generator[Any, None, None]:
    yield from ()


class StreamingCursor(psycopg.Cursor[Any]):
    """``execute`` starts a stream, ``fetchmany`` reads on, ``close`` ends it wherever it is.

    Nothing else may be asked of the connection before that.
    """

    _stream: Generator[Any, None, None] = _nothing()
    _rows: Iterator[Any] = _stream

    def __init__(self, connection: psycopg.Connection[Any], **options: Any) -> None:
        super().__init__(connection, **options)
        if connection.info.encoding == "utf-8":
            self.adapters.register_loader("text", ByteaBinaryLoader)

    def execute(self, query: Any, params: Any = None, **options: Any) -> Self:
        """Start the query; an error in it is raised here, with its first row."""
        size = STREAMED_ROWS if capabilities.has_stream_chunked() else 1
        self._stream = cast("Any", self.stream(query, params, binary=True, size=size))
        first = list(islice(self._stream, 1))
        self._rows = chain(first, self._stream)
        return self

    def fetchmany(self, size: int = 1) -> list[Any]:
        """At most so many of the following rows; fewer at the end only."""
        return list(islice(self._rows, size))

    def close(self) -> None:
        """End the stream: the server is told to stop."""
        self._stream.close()
        super().close()
