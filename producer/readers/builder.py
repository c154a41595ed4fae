"""From a row's values to a Record, or to a BadRecord or InputError that says what is wrong.

The one place that decides which rows are bad; formats only find rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from textmill.core.errors import InputError, RecordError
from textmill.core.jobs import BadRecord, Record
from textmill.core.stored_texts import StoreText, kept_message
from textmill.producer.readers.rules import RecordRules

HOW_TO_GO_ON = "Mend it, or pass --skip-bad to record such rows as error rows and go on."

# A frozen dataclass sets each field through object.__setattr__: 1.4 µs a record, more than parsing
# the row. Setting the slots directly takes half of that.
_new = object.__new__
_set_index, _set_record_id, _set_inputs, _set_params, _set_extra = (
    getattr(Record, name).__set__ for name in ("index", "record_id", "inputs", "params", "extra")
)


RowBuilder = Callable[[int, int, Sequence[Any]], Record | BadRecord]


class RecordBuilder:
    """Turns the rows of one input into records.

    ``unit`` is what the input's rows are counted in, for messages; ``fields`` maps each
    input field of the task to the column that serves it; ``rules`` say what becomes of the
    fields where they are not simply the texts of a record.
    """

    def __init__(
        self,
        name: str,
        fields: Mapping[str, str],
        id_column: str | None,
        skip_bad: bool,
        unit: str,
        rules: RecordRules | None = None,
    ) -> None:
        self.name = name
        self.unit = unit
        self.skip_bad = skip_bad
        self._fields = tuple(fields.items())
        self._field, self._column = self._fields[0]
        self._single = len(self._fields) == 1
        self._id_column = id_column
        self._rules = None if rules is None or rules.are_plain else rules
        self._store_text = StoreText.FULL if rules is None else rules.store_text
        self._id_is_named = id_column in fields.values()  # by a template
        self._composition = rules.params.composition() if rules is not None else None
        self._expected = self._composition.expected if self._composition else "a text"

    @property
    def text_columns(self) -> list[str]:
        """The columns whose every value has to be a text."""
        return [] if self._composition is not None else [column for _, column in self._fields]

    def build(self, index: int, line: int, values: dict[str, Any]) -> Record | BadRecord:
        """The record of one row; ``values`` is used up: what remains of it is ``extra``."""
        if self._id_column is None:
            record_id = str(index)
        else:
            take = values.get if self._id_is_named else values.pop
            given = take(self._id_column, None)
            if type(given) is str and given:
                record_id = given
            elif type(given) is int or type(given) is float:
                record_id = str(given)
            else:
                return self._bad_id(index, line, given, values)
        if self._rules is not None:
            return self._build_by_rules(self._rules, index, record_id, line, values)
        if not self._single:
            return self._build_several(index, record_id, line, values)
        text = values.pop(self._column, None)
        if type(text) is not str or not text or text.isspace():
            return self._bad_text(index, record_id, line, self._column, text, values)
        record = _new(Record)
        _set_index(record, index)
        _set_record_id(record, record_id)
        _set_inputs(record, {self._field: text})
        _set_params(record, None)
        _set_extra(record, values or None)
        return record

    def row_builder(self, columns: Sequence[str]) -> RowBuilder:
        """A faster ``build`` for rows whose cells are in the order of ``columns``.

        Text columns must hold str or None only. Making a dict of every row would cost as much as
        parsing it, so that is left to rows in which something is wrong.
        """
        if not self._single or self._rules is not None:
            return lambda index, line, row: self.build(index, line, _as_dict(columns, row))
        field, build = self._field, self.build
        text_at = columns.index(self._column)
        id_at = None if self._id_column is None else columns.index(self._id_column)
        extras = [(name, at) for at, name in enumerate(columns) if at not in (text_at, id_at)]

        def build_row(index: int, line: int, row: Sequence[Any]) -> Record | BadRecord:
            text = row[text_at]
            record_id = str(index) if id_at is None else row[id_at]
            if not text or text.isspace() or not record_id or type(record_id) is not str:
                return build(index, line, _as_dict(columns, row))
            extra = {}
            for name, at in extras:
                extra[name] = row[at]
            record = _new(Record)
            _set_index(record, index)
            _set_record_id(record, record_id)
            _set_inputs(record, {field: text})
            _set_params(record, None)
            _set_extra(record, extra or None)
            return record

        return build_row

    def _build_several(
        self, index: int, record_id: str, line: int, values: dict[str, Any]
    ) -> Record | BadRecord:
        inputs = {field: values.pop(column, None) for field, column in self._fields}
        for field, column in self._fields:
            text = inputs[field]
            if type(text) is not str or not text or text.isspace():
                return self._bad_text(index, record_id, line, column, text, values)
        return Record(index, record_id, inputs, None, values or None)

    def _build_by_rules(
        self,
        rules: RecordRules,
        index: int,
        record_id: str,
        line: int,
        values: dict[str, Any],
    ) -> Record | BadRecord:
        """A record with options of its own, or with inputs made of its columns, or both."""
        take = values.get if rules.keep_columns else values.pop
        inputs = {field: take(column, None) for field, column in self._fields}
        if self._id_is_named and self._id_column is not None:
            del values[self._id_column]
        composition = self._composition
        for field, column in self._fields:
            given = inputs[field]
            wrong_kind = composition is None and type(given) is not str
            if given is None or wrong_kind or (type(given) is str and not given.strip()):
                return self._bad_text(index, record_id, line, column, given, values)
        try:
            params = rules.read_params(values)
            made = inputs if composition is None else composition.compose(inputs)
        except RecordError as error:
            return self.bad(
                index,
                line,
                error.code,
                error.message,
                record_id=record_id,
                extra=rules.kept(values),
                unquoting=kept_message(rules.store_text, error.code, error.message),
            )
        return Record(index, record_id, made, params, rules.kept(values))

    def _bad_id(self, index: int, line: int, given: Any, values: dict[str, Any]) -> BadRecord:
        for _, column in self._fields:
            values.pop(column, None)
        what, expected = f"the id column {self._id_column!r}", "a string or a number"
        extra = self._kept(values)
        if given in (None, ""):
            problem = f"{what} is missing or empty; expected {expected}"
            return self.bad(index, line, "bad_row", problem, extra=extra)
        return self._wrong_kind(index, line, what, given, expected, extra=extra)

    def _bad_text(
        self,
        index: int,
        record_id: str,
        line: int,
        column: str,
        text: Any,
        values: dict[str, Any],
    ) -> BadRecord:
        extra = self._kept(values)
        if isinstance(text, str):
            # An empty text is data, not a broken file: it is an error row and never aborts.
            message = f"{self._place(line)}: column {column!r} is empty; expected {self._expected}"
            return BadRecord(index, record_id, "empty_text", message, extra)
        if text is None:
            problem = f"column {column!r} is missing; expected {self._expected}"
            return self.bad(index, line, "missing_text", problem, record_id=record_id, extra=extra)
        what = f"column {column!r}"
        return self._wrong_kind(
            index, line, what, text, "a string", record_id=record_id, extra=extra
        )

    def _wrong_kind(
        self, index: int, line: int, what: str, value: Any, expected: str, **about: Any
    ) -> BadRecord:
        problem = f"{what} is {_kind(value)} ({_start(value)}); expected {expected}"
        unquoting = f"{what} is {_kind(value)}; expected {expected}"
        return self.bad(index, line, "bad_row", problem, unquoting=unquoting, **about)

    def _kept(self, values: dict[str, Any]) -> dict[str, Any] | None:
        """What of a row's other columns is kept as ``extra``."""
        return (values if self._rules is None else self._rules.kept(values)) or None

    def bad(
        self,
        index: int,
        line: int,
        code: str,
        problem: str,
        *,
        record_id: str | None = None,
        extra: dict[str, Any] | None = None,
        hint: str = "",
        unquoting: str | None = None,
    ) -> BadRecord:
        """The BadRecord of a bad row; raises InputError unless bad rows are to be skipped.

        ``unquoting`` is what the row says of a problem that quotes texts, where none are kept.
        """
        place = self._place(line)
        if not self.skip_bad:
            hint = f"{hint} " if hint else ""
            raise InputError(f"{place}: {problem}. {hint}{HOW_TO_GO_ON}")
        may_quote = unquoting is None or self._store_text == StoreText.FULL
        message = f"{place}: {problem if may_quote else unquoting}"
        return BadRecord(index, record_id or str(index), code, message, extra)

    def _place(self, line: int) -> str:
        return f"{self.name}, {self.unit} {line}"


def _as_dict(columns: Sequence[str], row: Sequence[Any]) -> dict[str, Any]:
    return dict(zip(columns, row, strict=True))


def _kind(value: Any) -> str:
    """A value's kind as JSON names it."""
    kinds = {
        bool: "a boolean",
        int: "a number",
        float: "a number",
        list: "a list",
        dict: "an object",
    }
    return kinds.get(type(value), type(value).__name__)


def _start(value: Any) -> str:
    """The start of a value, for a message."""
    text = repr(value)
    return f"{text[:40]}{'…' * (len(text) > 40)}"
