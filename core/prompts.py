"""Prompts of generation: templates over an input's columns, and chats as lists of messages.

Both are checked by whoever submits, so nothing here knows torch, a model or its chat template.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from textmill.core.errors import InvalidJobError, RecordError

Chat = list[dict[str, str]]
"""Messages in order, each with ``role`` and ``content``."""

ROLES = ("system", "user", "assistant", "tool")
ANSWERED = ("user", "tool")  # roles that a model has something to answer to
KEYS = ("role", "content")

_PIECE = re.compile(r"(?P<twice>\{\{|\}\})|\{(?P<name>[^{}]*)\}|(?P<lone>[{}])|[^{}]+")
BRACES = "write {{ and }} for braces that are meant as such"


@dataclass(frozen=True, slots=True)
class Template:
    """A prompt with places for columns: ``Translate {text} for {country}``.

    What stands between braces is the name of a column and nothing else: no attribute, index or
    format of a value can be asked for, so a template from anywhere is only ever text.
    """

    pieces: tuple[tuple[str, bool], ...]  # a text, or a column's name and True

    @classmethod
    def parse(cls, source: str) -> Template:
        """Raises InvalidJobError for a lone brace, and for a template that names no column."""
        pieces: list[tuple[str, bool]] = []
        for match in _PIECE.finditer(source):
            if match["lone"]:
                raise InvalidJobError(
                    f"the brace {match['lone']!r} at character {match.start() + 1} has no "
                    f"counterpart; {BRACES}"
                )
            name = match["name"]
            if name is not None and not name.strip():
                raise InvalidJobError(
                    f"the braces at character {match.start() + 1} name no column; {BRACES}"
                )
            text = match["twice"][0] if match["twice"] else match[0]
            pieces.append((text, False) if name is None else (name.strip(), True))
        if not any(is_name for _, is_name in pieces):
            raise InvalidJobError(
                "it names no column, so every record would get the same prompt; expected a "
                "column's name in braces, such as {text}"
            )
        return cls(tuple(pieces))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it names, each once, in order."""
        return tuple(dict.fromkeys(piece for piece, is_name in self.pieces if is_name))

    def render(self, values: Mapping[str, Any]) -> str:
        """The prompt of one row; raises RecordError for a value that is no text or number.

        A brace inside a value stays what it is.
        """
        return "".join(
            _as_text(piece, values[piece]) if is_name else piece for piece, is_name in self.pieces
        )


def _as_text(column: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise RecordError(
        "bad_row", f"column {column!r} is {_shown(value)}; the template takes a text or a number"
    )


def read_chat(value: Any, *, any_end: bool = False) -> Chat:
    """A row's messages, checked; raises RecordError that says which message is wrong.

    ``value`` is a list of objects, or that list as a JSON text (from CSV, which has no lists).
    A content in parts of text becomes one text, the parts on lines of their own. Unless
    ``any_end``, the last message is one that asks for an answer.
    """
    if isinstance(value, str):
        value = _parse_json(value)
    if not isinstance(value, list) or not value:
        found = "an empty list" if value == [] else _shown(value)
        raise _refuse(f"the messages are {found}; expected a list with one object for each message")
    chat = [_read_message(number, message) for number, message in enumerate(value, 1)]
    last = chat[-1]
    if last["role"] not in ANSWERED and not any_end:
        raise _refuse(
            f"message {len(chat)}, the last one, is of the {last['role']}; expected one that asks "
            "for an answer, of the user or a tool"
        )
    return chat


def write_chat(chat: Chat) -> str:
    """The chat as the JSON text that a record holds; ``read_chat`` reads it back."""
    return json.dumps(chat, ensure_ascii=False)


def _parse_json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise _refuse(
            f"the messages are a text that is no JSON ({_shown(text)}); expected a list such as "
            '[{"role": "user", "content": "…"}]'
        ) from None


def _read_message(number: int, message: Any) -> dict[str, str]:
    if not isinstance(message, dict):
        raise _refuse(
            f"message {number} is {_shown(message)}; expected an object with role and content"
        )
    given = {key: value for key, value in message.items() if value is not None}
    for key in KEYS:
        if key not in given:
            raise _refuse(f"message {number} has no {key}")
    if unknown := sorted(given.keys() - set(KEYS)):
        raise _refuse(f"message {number} has the key {unknown[0]!r}; expected role and content")
    if given["role"] not in ROLES:
        raise _refuse(
            f"message {number} has the role {_shown(given['role'])}; expected one of: "
            f"{', '.join(ROLES)}"
        )
    content = _read_content(number, given["content"])
    if not content.strip():
        raise _refuse(f"message {number} has an empty content")
    return {"role": given["role"], "content": content}


def _read_content(number: int, content: Any) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise _refuse(
            f"the content of message {number} is {_shown(content)}; expected a text, or a list of "
            "text parts"
        )
    texts = [_read_part(number, place, part) for place, part in enumerate(content, 1)]
    return "\n".join(texts)


def _read_part(number: int, place: int, part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    text = part.get("text") if isinstance(part, dict) else None
    if kind != "text" or not isinstance(text, str):
        raise _refuse(
            f"part {place} of message {number} is {_shown(part)}; expected "
            '{"type": "text", "text": "…"}: only texts can be read'
        )
    return text


def _refuse(problem: str) -> RecordError:
    return RecordError("invalid_messages", problem)


def _shown(value: Any) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
