"""Finding duplicate record ids exactly, in bounded memory, however many there are."""

from __future__ import annotations

import marshal
import tempfile
from collections.abc import Iterable
from types import TracebackType
from typing import IO, Any

from textmill.core.errors import InputError

BUCKETS = 256
BUFFER_BYTES = 16 * 1024 * 1024
_OVERHEAD_BYTES = 110  # of a str, an int and their places in two lists

_MARSHAL_VERSION = 2  # later ones look for shared objects, which takes time and finds none

Segment = tuple[list[str], list[int]]
Place = tuple[int, int]
"""Offset and length of a marshalled list in the temporary file."""
Duplicate = tuple[int, int, str]
"""The number of an id's second record, of its first, and the id."""


class IdCheck:
    """Remembers every id and says at the end whether one came twice; use as a context manager.

    Ids are compared as they are, never by a digest. Beyond ``buffer_bytes`` they go to an unnamed
    temporary file, split by hash into buckets that are checked one at a time; the system deletes
    that file even when the process is killed.
    """

    def __init__(self, buffer_bytes: int = BUFFER_BYTES) -> None:
        self._buffer_bytes = buffer_bytes
        self._ids: list[str] = []
        self._numbers: list[int] = []
        self._size = 0
        self._file: IO[bytes] | None = None
        self._places: list[list[list[Place]]] = [[] for _ in range(BUCKETS)]

    def __enter__(self) -> IdCheck:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def add(self, record_id: str, line_or_index: int) -> None:
        """Remember one id; numbers must rise."""
        self._ids.append(record_id)
        self._numbers.append(line_or_index)
        self._size += len(record_id) + _OVERHEAD_BYTES
        if self._size > self._buffer_bytes:
            self._spill()

    def finish(self) -> None:
        """Raise InputError for the duplicate whose second occurrence comes first, if any."""
        if duplicate := self.find():
            second, first, record_id = duplicate
            raise InputError(
                f"the id {record_id!r} occurs twice, in records {first} and {second}; "
                "expected each id once. Choose another --id-column, or none to number the records"
            )

    def find(self) -> Duplicate | None:
        """The duplicate whose second occurrence comes first, if any."""
        if self._file is None:
            found = [_first_duplicate([(self._ids, self._numbers)])]
        else:
            self._spill()
            found = [_check_bucket(self._file, places) for places in self._places]
        return min((duplicate for duplicate in found if duplicate is not None), default=None)

    def close(self) -> None:
        """Forget all ids and delete the temporary file."""
        self._ids, self._numbers, self._size = [], [], 0
        if self._file is not None:
            self._file.close()
            self._file = None

    def _spill(self) -> None:
        buckets: list[Segment] = [([], []) for _ in range(BUCKETS)]
        for record_id, number in zip(self._ids, self._numbers, strict=True):
            ids, numbers = buckets[hash(record_id) % BUCKETS]
            ids.append(record_id)
            numbers.append(number)
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="textmill-ids-")  # noqa: SIM115
        for places, segment in zip(self._places, buckets, strict=True):
            if segment[0]:
                places.append([_write(self._file, part) for part in segment])
        self._ids, self._numbers, self._size = [], [], 0


def _write(file: IO[bytes], part: list[str] | list[int]) -> Place:
    offset = file.tell()
    return offset, file.write(marshal.dumps(part, _MARSHAL_VERSION))


def _read(file: IO[bytes], place: Place) -> Any:
    file.seek(place[0])
    return marshal.loads(file.read(place[1]))


def _check_bucket(file: IO[bytes], places: list[list[Place]]) -> Duplicate | None:
    """Look for a duplicate by ids alone; the numbers are read only if there is one."""
    seen: set[str] = set()
    added = 0
    for ids_place, _ in places:
        ids = _read(file, ids_place)
        seen.update(ids)
        added += len(ids)
        if len(seen) < added:
            return _first_duplicate((_read(file, a), _read(file, b)) for a, b in places)
    return None


def _first_duplicate(segments: Iterable[Segment]) -> Duplicate | None:
    seen: dict[str, int] = {}
    for ids, numbers in segments:
        for record_id, number in zip(ids, numbers, strict=True):
            first = seen.setdefault(record_id, number)
            if first != number:
                return number, first, record_id
    return None
