"""What may be sent to a terminal: foreign text without the characters that would control it.

Texts of records, labels, a model's output and messages of errors are other people's, and an escape
sequence in one of them could move the cursor, change the window's title or hide what it says.
"""

from __future__ import annotations

import re
from typing import Any

# C0 without tab and newline, DEL, C1 (U+009B alone begins a sequence), lone surrogates.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_ORDERS = "\u202a-\u202e\u2066-\u206f"  # embeddings, overrides and isolates: they reorder a line
_REORDERING = re.compile(f"[{_ORDERS}]")
_IN_JSON = re.compile(f"[\x7f-\x9f\ud800-\udfff{_ORDERS}]")  # C0 is escaped there already


def printable(text: str) -> str:
    r"""The text with control characters as ``\x1b``, and without what reorders a line.

    Newlines and tabs stay; whoever wants one line joins them.
    """
    return _REORDERING.sub("", _CONTROLS.sub(_escape, text))


def printable_json(document: str) -> str:
    r"""The same JSON with what controls a terminal as ``\u009b``: another spelling, equal data."""
    return _IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", document)


def printable_event(_logger: Any, _method: str, event: Any) -> Any:
    """A log event whose texts can do nothing to a terminal; a processor of structlog."""
    return {k: printable(v) if isinstance(v, str) else v for k, v in event.items()}


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
