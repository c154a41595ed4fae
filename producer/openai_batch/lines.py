"""A row of JSON as a line of a batch: its id, URL and body, or what is wrong with its form."""

from __future__ import annotations

from typing import Any

from textmill.core.jobs import BadRecord, Record
from textmill.core.params import OPENAI_COLUMN
from textmill.core.stored_texts import StoreText
from textmill.producer.openai_batch.fields import shown
from textmill.producer.readers.builder import RecordBuilder

METHOD = "POST"


class LineBuilder(RecordBuilder):
    """Takes the four keys of a row; what else it has stays in ``extra``.

    The Record that it makes is not one of the job yet: its inputs are ``line``, ``url`` and
    ``body``, and its index is the line's own.
    """

    def __init__(self, name: str, unit: str, *, skip_bad: bool, store_text: StoreText) -> None:
        super().__init__(name, {"body": "body"}, "custom_id", skip_bad, unit)
        self._store_text = store_text

    def build(self, index: int, line: int, values: dict[str, Any]) -> Record | BadRecord:
        """The line of one row; ``values`` is used up."""
        custom_id = values.pop("custom_id", None)
        method, url = values.pop("method", None), values.pop("url", None)
        body = values.pop("body", None)
        if not isinstance(custom_id, str) or not custom_id:
            expected = "a text, another one in each line"
            return self._wrong(index, line, "custom_id", custom_id, expected)
        wrong = _find_wrong(method, url, body)
        taken = OPENAI_COLUMN in values
        if wrong is None and not taken:
            inputs = {"line": line, "url": url, "body": body}
            return Record(index, custom_id, inputs, None, values or None)
        model = body.get("model") if isinstance(body, dict) else None
        extra = values | {OPENAI_COLUMN: {"model": model if isinstance(model, str) else None}}
        about: dict[str, Any] = {"record_id": custom_id, "extra": extra}
        if wrong is None or taken:
            problem = f"the key {OPENAI_COLUMN!r} is taken; give it another name"
            return self.bad(index, line, "bad_row", problem, **about)
        return self._wrong(index, line, *wrong, **about)

    def _wrong(
        self, index: int, line: int, key: str, value: Any, expected: str, **about: Any
    ) -> BadRecord:
        problem = f"{key} is {shown(value)}; expected {expected}"
        unquoting = f"{key} is missing or wrong; expected {expected}"
        return self.bad(index, line, "bad_row", problem, unquoting=unquoting, **about)

    def place(self, line: int) -> str:
        """How messages call a line."""
        return self._place(line)


def _find_wrong(method: Any, url: Any, body: Any) -> tuple[str, Any, str] | None:
    """The first key with a wrong value, that value, and what was expected."""
    if not isinstance(method, str) or method.upper() != METHOD:
        return "method", method, shown(METHOD)
    if not isinstance(url, str):
        return "url", url, 'a text such as "/v1/chat/completions"'
    if not isinstance(body, dict):
        return "body", body, "an object"
    return None
