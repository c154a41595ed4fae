"""Python objects as an input: strings, or mappings with the columns as keys."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from itertools import chain, islice
from typing import Any

from textmill.core.jobs import BadRecord, Record
from textmill.core.storable import is_utf8, iter_texts
from textmill.producer.readers.builder import RecordBuilder
from textmill.producer.readers.jsonable import TOO_DEEP, is_too_deep, to_jsonable
from textmill.producer.readers.options import SAMPLE_ROWS


class ObjectSource:
    """The objects that a Python program passes to ``submit``; rows are counted from 0."""

    name = "input"
    unit = "record"

    def __init__(self, objects: Iterable[str | Mapping[str, Any]], text_column: str | None) -> None:
        """``text_column`` is where a bare string belongs; None: the task has several fields."""
        self._text_column = text_column
        iterator = iter(objects)
        self._head = list(islice(iterator, SAMPLE_ROWS))
        self._objects = chain(self._head, iterator)
        self._sample = [row for row in map(self._as_dict, self._head) if row is not None]
        self.columns = tuple(dict.fromkeys(chain.from_iterable(self._sample)))

    def close(self) -> None:
        """Nothing to close: the iterable is the caller's."""

    def has_rows(self) -> bool:
        return bool(self._head)

    def sample(self) -> Sequence[Mapping[str, Any]]:
        return self._sample

    def records(
        self, builder: RecordBuilder, index: int
    ) -> Generator[Record | BadRecord, None, int]:
        for index, given in enumerate(self._objects, index):  # noqa: B020
            values = self._as_dict(given)
            if values is None:
                yield builder.bad(index, index, "bad_row", self._problem(given))
            elif not all(map(is_utf8, iter_texts(values))):
                problem = "a string holds half of a surrogate pair, which is not UTF-8"
                yield builder.bad(index, index, "bad_encoding", problem)
            else:
                yield builder.build(index, index, values)
        return index + 1

    def _as_dict(self, given: object) -> dict[str, Any] | None:
        if is_too_deep(given):
            return None
        if isinstance(given, Mapping):
            return {str(key): to_jsonable(value) for key, value in given.items()}
        if isinstance(given, str) and self._text_column is not None:
            return {self._text_column: to_jsonable(given)}
        return None

    def _problem(self, given: object) -> str:
        if is_too_deep(given):
            return TOO_DEEP
        expected = "a mapping" if self._text_column is None else "a string or a mapping"
        return f"it is of type {type(given).__name__}; expected {expected}"
