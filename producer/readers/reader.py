"""Opening inputs and reading them one after another as one stream of records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

from textmill.core.errors import InputError
from textmill.core.jobs import BadRecord, Record
from textmill.producer.readers.builder import RecordBuilder
from textmill.producer.readers.columns import choose_columns, require_column
from textmill.producer.readers.formats import check_one_family, open_source
from textmill.producer.readers.objects import ObjectSource
from textmill.producer.readers.options import ReadOptions, Source
from textmill.producer.readers.rules import RecordRules
from textmill.producer.readers.streams import STDIN

Opener = Callable[[], Source]


class RecordReader:
    """The records of all inputs, once, with indexes consecutive from 0, bad rows included.

    ``fields`` says which column serves each input field, ``columns`` are all columns of the first
    input with rows (for JSONL, of its first rows). A context manager.
    """

    def __init__(
        self,
        openers: Sequence[Opener],
        fields: Sequence[str],
        options: ReadOptions,
        rules: RecordRules | None = None,
    ) -> None:
        self._options = options
        self._rules = rules
        self._current, self._later = first_with_rows(openers)
        self._started = False
        try:
            self.fields: Mapping[str, str] = self._choose(self._current, fields)
        except InputError:
            self.close()
            raise
        self.columns: tuple[str, ...] = self._current.columns

    @property
    def id_column(self) -> str | None:
        """The column of the record ids; None if a record's id is its index."""
        return self._options.id_column

    @property
    def extra_columns(self) -> tuple[str, ...]:
        """The columns that are kept in ``Record.extra``."""
        kept = self._rules is not None and self._rules.keep_columns
        used = {self._options.id_column} | (set() if kept else set(self.fields.values()))
        if self._rules is not None and not self._rules.keep_texts:
            used |= set(self._own_columns())
        return tuple(column for column in self.columns if column not in used)

    def __enter__(self) -> RecordReader:
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

    def __iter__(self) -> Iterator[Record | BadRecord]:
        """All records, up to the limit; raises InputError for a bad row unless ``skip_bad``."""
        if self._started:
            raise RuntimeError("a RecordReader is read once; open the inputs again")
        self._started = True
        return islice(self._records(), self._options.limit)

    def _records(self) -> Iterator[Record | BadRecord]:
        try:
            index = yield from self._current.records(self._builder(self._current), 0)
            for open_next in self._later:
                self.close()
                self._current = open_next()
                self.check_fits(self._current)
                if self._current.has_rows():
                    index = yield from self._current.records(self._builder(self._current), index)
        finally:
            self.close()  # also where a limit or an error ends the reading

    def check_fits(self, source: Source) -> None:
        """Raise InputError unless a further input has the columns that are needed."""
        if not source.columns:
            return  # empty, or JSONL whose first rows are all bad: its rows are checked one by one
        needed = [*self.fields.values(), self._options.id_column, *self._own_columns()]
        for column in needed:
            if column is not None:
                require_column(source.name, source.columns, column)

    def _builder(self, source: Source, fields: Mapping[str, str] | None = None) -> RecordBuilder:
        return RecordBuilder(
            source.name,
            self.fields if fields is None else fields,
            self._options.id_column,
            self._options.skip_bad,
            source.unit,
            self._rules,
        )

    def _own_columns(self) -> Sequence[str]:
        """The columns of the records' own options."""
        return () if self._rules is None else tuple(self._rules.own_columns.values())

    def _choose(self, source: Source, fields: Sequence[str]) -> dict[str, str]:
        asked, id_column = self._options.columns, self._options.id_column
        if not source.columns:
            return self._choose_blindly(source, fields)
        self._check_own_columns(source)
        if self._rules is not None and self._rules.by_name:
            # Fields that are named by the person are columns by their exact names.
            asked = {field: field for field in fields} | dict(asked)
            if id_column in asked.values():
                id_column = None  # a template may name the id too
        own = () if self._rules is None else self._rules.task.params.OWN
        try:
            chosen = choose_columns(
                source.name, source.columns, source.sample(), fields, asked, id_column, own
            )
        except InputError as error:
            advice = "" if self._rules is None else self._rules.params.advise(source.columns)
            raise InputError(f"{error}; {advice}" if advice else str(error)) from None
        self._check_apart(chosen)
        return chosen

    def _check_own_columns(self, source: Source) -> None:
        for column in self._own_columns():
            require_column(source.name, source.columns, column)

    def _check_apart(self, chosen: Mapping[str, str]) -> None:
        """A record's own options are read from what stays in ``extra``, and again by a rerun."""
        kept = self._rules is not None and self._rules.by_name
        taken = {self._options.id_column} | (set() if kept else set(chosen.values()))
        for column in self._own_columns():
            if column in taken:
                raise InputError(
                    f"the column {column!r} is used twice; a record's own option needs a column "
                    "beside the id and the text"
                )

    def _choose_blindly(self, source: Source, fields: Sequence[str]) -> dict[str, str]:
        """Columns for an input whose first rows are all bad: what is wrong with them is told."""
        chosen = {field: self._options.columns.get(field, field) for field in fields}
        if not self._options.skip_bad:
            next(source.records(self._builder(source, chosen), 0))
        if set(fields) <= set(self._options.columns):
            return chosen
        options = " ".join(f"--{field}-column" for field in fields)
        raise InputError(f"{source.name}: its first rows are all bad, so pass {options}")


def open_records(
    inputs: Sequence[str | Path],
    fields: Sequence[str],
    options: ReadOptions,
    rules: RecordRules | None = None,
) -> RecordReader:
    """Open files (``-`` is stdin) whose records serve a task's ``fields``.

    Raises InputError where an input cannot be read, is of another format, has no rows, or lacks
    a column that is needed. Files after the first are looked into now and read when reached.
    """
    check_one_family(inputs, options)
    reader = RecordReader([opener(path, options) for path in inputs], fields, options, rules)
    try:
        for path in inputs[1:]:
            if not is_pipe(path):
                _look_into(path, reader, options)
    except InputError:
        reader.close()
        raise
    return reader


def records_from_objects(
    objects: Iterable[str | Mapping[str, Any]],
    fields: Sequence[str],
    options: ReadOptions,
    rules: RecordRules | None = None,
) -> RecordReader:
    """Read Python objects like rows: mappings with columns, or strings for a task of one field."""
    text_column = options.columns.get(fields[0], fields[0]) if len(fields) == 1 else None
    return RecordReader([lambda: ObjectSource(objects, text_column)], fields, options, rules)


def opener(path: str | Path, options: ReadOptions) -> Opener:
    """Opens an input when its turn comes."""
    return lambda: open_source(path, options)


def is_pipe(path: str | Path) -> bool:
    """Whether an input can be opened only once, so that it is checked when it is reached."""
    given = Path(path)
    return str(path) == STDIN or (given.exists() and not given.is_file() and not given.is_dir())


def _look_into(path: str | Path, reader: RecordReader, options: ReadOptions) -> None:
    source = open_source(path, options)
    try:
        reader.check_fits(source)
    finally:
        source.close()


def first_with_rows(openers: Sequence[Opener]) -> tuple[Source, Sequence[Opener]]:
    """The first input that has rows, opened, and those after it."""
    empty: list[str] = []
    for at, open_one in enumerate(openers):
        source = open_one()
        if source.has_rows():
            return source, openers[at + 1 :]
        kind = "has a header but no rows" if source.columns else "is empty"
        empty.append(f"{source.name}: {kind}")
        source.close()
    raise InputError("; ".join(empty))
