"""A row of JSON as a line of a batch: its id, URL and body, or what is wrong with its form."""

from __future__ import annotations

from typing import Any

from textmill.core.jobs import BadRecord, Record
from textmill.core.params import OPENAI_COLUMN
from textmill.producer.openai_batch.fields import shown
from textmill.producer.readers.builder import RecordBuilder

METHOD = "POST"


class LineBuilder(RecordBuilder):
    """Takes the four keys of a row; what else it has stays in ``extra``.

    The Record that it makes is not one of the job yet: its inputs are ``line``, ``url`` and
    ``body``, and its index is the line's own.
    """

    def __init__(self, name: str, unit: str, *, skip_bad: bool) -> None:
        super().__init__(name, {"body": "body"}, "custom_id", skip_bad, unit)

    def build(self, index: int, line: int, values: dict[str, Any]) -> Record | BadRecord:
        """The line of one row; ``values`` is used up."""
        custom_id = values.pop("custom_id", None)
        method, url = values.pop("method", None), values.pop("url", None)
        body = values.pop("body", None)
        if not isinstance(custom_id, str) or not custom_id:
            problem = f"custom_id is {shown(custom_id)}; expected a text, another one in each line"
            return self.bad(index, line, "bad_row", problem)
        if OPENAI_COLUMN in values:
            problem = f"the key {OPENAI_COLUMN!r} is taken; give it another name"
        elif not isinstance(method, str) or method.upper() != METHOD:
            problem = f"method is {shown(method)}; expected {shown(METHOD)}"
        elif not isinstance(url, str):
            problem = f'url is {shown(url)}; expected a text such as "/v1/chat/completions"'
        elif not isinstance(body, dict):
            problem = f"body is {shown(body)}; expected an object"
        else:
            inputs = {"line": line, "url": url, "body": body}
            return Record(index, custom_id, inputs, None, values or None)
        model = body.get("model") if isinstance(body, dict) else None
        extra = values | {OPENAI_COLUMN: {"model": model if isinstance(model, str) else None}}
        return self.bad(index, line, "bad_row", problem, record_id=custom_id, extra=extra)

    def place(self, line: int) -> str:
        """How messages call a line."""
        return self._place(line)
