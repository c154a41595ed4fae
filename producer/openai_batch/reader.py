"""Reading a batch as a stream of records, in bounded memory: one pass, also over a pipe."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from textmill.core.errors import InputError
from textmill.core.jobs import BadRecord, Record
from textmill.core.params import OPENAI_COLUMN
from textmill.producer.openai_batch.census import Census
from textmill.producer.openai_batch.endpoints import (
    ENDPOINTS,
    KEYS,
    Endpoint,
    find_endpoint,
    is_request,
)
from textmill.producer.openai_batch.lines import LineBuilder
from textmill.producer.openai_batch.options import JobOptions
from textmill.producer.openai_batch.records import expand_line
from textmill.producer.readers import IdCheck, ReadOptions
from textmill.producer.readers.formats import check_one_family, format_of, open_source
from textmill.producer.readers.objects import ObjectSource
from textmill.producer.readers.options import OPENAI_BATCH, Source
from textmill.producer.readers.reader import Opener, first_with_rows, is_pipe, opener


class BatchReader:
    """The records of a batch, once; ``plan_batch`` says for which model and with what options.

    ``endpoint`` is that of the first line, ``samples`` are the bodies of the first lines.
    """

    id_column = None  # the ids are of lines, and checked here

    def __init__(self, openers: Sequence[Opener], options: ReadOptions) -> None:
        self._options = options
        self._current, self._later = first_with_rows(openers)
        self._starts: list[tuple[int, LineBuilder]] = []  # by the number of their first line
        self._started = False
        try:
            rows = self._first_rows()
            self.endpoint: Endpoint = self._read_endpoint(rows[0])
        except InputError:
            self.close()
            raise
        self.name = self._current.name
        self.samples = [row["body"] for row in rows if isinstance(row.get("body"), dict)]
        self.census = Census(self.name, self.endpoint)
        self._job = JobOptions(self.endpoint)

    @property
    def fields(self) -> Mapping[str, str]:
        """Where the texts are."""
        return {self.endpoint.field: f"body.{self.endpoint.field}"}

    @property
    def extra_columns(self) -> tuple[str, ...]:
        """What is kept of a line beside its texts."""
        taken = {*KEYS, OPENAI_COLUMN}
        return (OPENAI_COLUMN, *(name for name in self._current.columns if name not in taken))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the input that is open."""
        self._current.close()

    def use(self, job: JobOptions) -> None:
        """Say what the job's options are; before any line."""
        self._job = job

    def __iter__(self) -> Iterator[Record | BadRecord]:
        """All records; raises InputError at the end if the lines cannot be one job."""
        if self._started:
            raise RuntimeError("a BatchReader is read once; open the inputs again")
        self._started = True
        return self._records()

    def _records(self) -> Iterator[Record | BadRecord]:
        index = 0
        with IdCheck() as ids:
            for number, line in islice(self._lines(), self._options.limit):
                if isinstance(line, BadRecord):
                    yield _numbered(line, index)
                    index += 1
                    continue
                ids.add(line.record_id, number)
                name = line.inputs["body"].get("model")
                known = name if isinstance(name, str) and name else None
                if not self.census.add(line.inputs["url"], known, line.inputs["line"]):
                    continue  # it cannot become a job: the rest is only counted
                place = self._starts[-1][1].place(line.inputs["line"])
                for record in expand_line(line, index, self._job, place):
                    yield record
                    index += 1
            self.census.check()
            self._check_ids(ids)

    def _lines(self) -> Iterator[tuple[int, Record | BadRecord]]:
        """Every line with its number, counted over all inputs."""
        start = 0
        try:
            for source in self._sources():
                builder = self._builder(source)
                self._starts.append((start, builder))
                number = start
                for line in source.records(builder, 0):
                    if isinstance(line, Record):
                        number = start + line.inputs["line"]
                    yield number, line
                start = number + 1
        finally:
            self.close()  # also where a limit or an error ends the reading

    def _sources(self) -> Iterator[Source]:
        yield self._current
        for open_next in self._later:
            self.close()
            self._current = open_next()
            yield self._current

    def _builder(self, source: Source) -> LineBuilder:
        return LineBuilder(
            source.name,
            source.unit,
            skip_bad=self._options.skip_bad,
            store_text=self._job.store_text,
        )

    def _first_rows(self) -> Sequence[Mapping[str, Any]]:
        rows = self._current.sample()
        if rows:
            return rows
        next(self._current.records(self._builder(self._current), 0))  # says what is wrong
        raise InputError(f"{self._current.name}: its first rows are all bad")

    def _read_endpoint(self, row: Mapping[str, Any]) -> Endpoint:
        """The endpoint of the first line; raises InputError where that is none."""
        if not is_request(row):
            raise InputError(
                f"{self._current.name}: the first line is no line of an OpenAI batch; expected an "
                f"object with {', '.join(KEYS)}"
            )
        found = find_endpoint(row["url"])
        if found is None:
            raise InputError(
                f"{self._current.name} is an OpenAI batch file for {row['url']}, which is not "
                f"supported; expected one of: {', '.join(ENDPOINTS)}; or pass --format jsonl to "
                "read it as rows of ordinary columns"
            )
        return found

    def _check_ids(self, ids: IdCheck) -> None:
        if duplicate := ids.find():
            second, first, custom_id = duplicate
            raise InputError(
                f"{self._place(second)}: the custom_id {custom_id!r} is that of another line too, "
                f"{self._place(first)}; expected each id once"
            )

    def _place(self, number: int) -> str:
        at = bisect_right(self._starts, number, key=lambda start: start[0]) - 1
        start, builder = self._starts[at]
        return builder.place(number - start)


def _numbered(bad: BadRecord, index: int) -> BadRecord:
    """With the record's index; a line without an id is called after it."""
    has_id = bad.extra is not None and OPENAI_COLUMN in bad.extra
    return replace(bad, index=index, record_id=bad.record_id if has_id else str(index))


def open_batch(inputs: Sequence[str | Path], options: ReadOptions) -> BatchReader | None:
    """Open files as a batch if the first one's first line is a request, else None.

    With the format ``openai-batch`` they are one or InputError is raised. Pipes are not looked
    into without it: what was read of them is gone.
    """
    if not inputs or (options.format != OPENAI_BATCH and not _holds_requests(inputs[0], options)):
        return None
    check_one_family(inputs, options)
    return BatchReader([opener(path, options) for path in inputs], options)


def _holds_requests(path: str | Path, options: ReadOptions) -> bool:
    try:
        if is_pipe(path) or format_of(path, options) != "jsonl" or options.format is not None:
            return False
        source = open_source(path, options)
    except InputError:
        return False  # whoever opens it next says so
    try:
        rows = source.sample()
        return bool(rows) and is_request(rows[0])
    finally:
        source.close()


def open_batch_objects(
    objects: Iterable[Any], options: ReadOptions
) -> tuple[BatchReader | None, Iterable[Any]]:
    """A batch of the lines as mappings, if the first is a request; else None and the objects."""
    iterator = iter(objects)
    first = list(islice(iterator, 1))
    whole = chain(first, iterator)
    is_batch = bool(first) and isinstance(first[0], Mapping) and is_request(first[0])
    if options.format != OPENAI_BATCH and (not is_batch or options.format is not None):
        return None, whole
    return BatchReader([lambda: ObjectSource(whole, None)], options), ()
