"""Output ids to text while they come, and where a stop string ends it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

CONTEXT_TOKENS = 5
"""So many tokens of the prompt are decoded with the output: some tokenizers drop or add a space at
the beginning of what they decode."""

UNFINISHED = "\ufffd"  # what the first bytes of a character decode to


def decode_output(tokenizer: Any, prompt: Sequence[int], ids: Sequence[int]) -> str:
    """The text that the output adds to the prompt's."""
    context = list(prompt[-CONTEXT_TOKENS:])
    before = _decode(tokenizer, context)
    return _decode(tokenizer, [*context, *ids])[len(before) :]


class StopFinder:
    """Looks for stop strings in one row's text as it grows, across the borders of tokens.

    Text is taken over when it ends in whole characters, each time decoding a few tokens only.
    """

    def __init__(self, tokenizer: Any, prompt: Sequence[int], stop: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stop = stop
        self._reach = max(map(len, stop)) - 1  # a match may begin so far before new text
        self._ids = list(prompt[-CONTEXT_TOKENS:])
        self._begin = 0  # from here on ids are decoded, to be seen in context
        self._taken = len(self._ids)  # the text of the ids before is taken over
        self._text = ""

    def add(self, token_id: int) -> str | None:
        """The output's text before the first stop string, once there is one."""
        self._ids.append(token_id)
        before = _decode(self._tokenizer, self._ids[self._begin : self._taken])
        now = _decode(self._tokenizer, self._ids[self._begin :])
        if len(now) <= len(before) or now.endswith(UNFINISHED):
            return None
        self._begin, self._taken = self._taken, len(self._ids)
        searched_from = max(0, len(self._text) - self._reach)
        self._text += now[len(before) :]
        found = [self._text.find(stop, searched_from) for stop in self._stop]
        first = min((place for place in found if place >= 0), default=None)
        return None if first is None else self._text[:first]


def _decode(tokenizer: Any, ids: Sequence[int]) -> str:
    text: str = tokenizer.decode(list(ids), skip_special_tokens=True)
    return text
