"""The messages of a chat completion as a chat that a record can hold."""

from __future__ import annotations

from typing import Any

from textmill.core.prompts import ROLES, Chat, read_chat
from textmill.producer.openai_batch.fields import FieldError, invalid, shown, unsupported

ROLE_NAMES = {"developer": "system"}  # the newer name of the same role
KEYS = ("role", "content", "tool_call_id")
NOT_READ = ("name", "tool_calls", "function_call", "refusal", "audio")
"""Further keys that the API has for a message; what else there is the line made up."""
TEXT = "text"


def read_messages(value: Any) -> Chat:
    """The chat; raises RecordError, a FieldError for what is right and cannot be read.

    The last message may be anyone's, as it may be there.
    """
    if not isinstance(value, list):
        raise invalid("messages", value, "a list of messages")
    messages = [_plain(f"messages[{at}]", message) for at, message in enumerate(value)]
    return read_chat(messages, any_end=True)


def _plain(place: str, message: Any) -> Any:
    """A message with role and content alone; the form of both is left to ``read_chat``."""
    if not isinstance(message, dict):
        return message
    for key, value in message.items():
        # Answers that were copied into a chat have empty ones.
        if key not in KEYS and value is not None and value != []:
            raise unsupported(
                f"{place}.{key}",
                f"is {shown(value)}, which is not supported",
                "is not supported" if key in NOT_READ else None,
            )
    content = message.get("content")
    if isinstance(content, list):
        for at, part in enumerate(content):
            _check_part(f"{place}.content[{at}]", part)
    return {"role": _read_role(f"{place}.role", message.get("role")), "content": content}


def _read_role(place: str, role: Any) -> Any:
    """The role as a record has it; one that is missing is left to ``read_chat``."""
    if role is None or role in ROLES:
        return role
    if isinstance(role, str) and role in ROLE_NAMES:
        return ROLE_NAMES[role]
    # Said here: read_chat does not know of the further names.
    expected = f"expected one of: {', '.join([*ROLE_NAMES, *ROLES])}"
    problem = f"{place} is {shown(role)}; {expected}"
    raise FieldError("invalid_messages", problem, place, f"{place} has a wrong value; {expected}")


def _check_part(place: str, part: Any) -> None:
    kind = part.get("type") if isinstance(part, dict) else None
    if isinstance(kind, str) and kind != TEXT:
        raise unsupported(
            place,
            f"is of the type {shown(kind)}; only texts can be read",
            "is no text; only texts can be read",
        )
