"""Texts and labels as a model that writes text reads them: a prompt, and the answers behind it.

A text that is too long is cut inside its prompt; the question around it and the labels stay whole.
"""

from __future__ import annotations

from textmill.core.errors import RecordError
from textmill.core.params import ZeroShotParams
from textmill.workers.runners.lengths import refuse_long, token_limit
from textmill.workers.runners.prompting import Prompt, PromptEncoder, as_chat
from textmill.workers.runners.tokenizing import TextTokenizer

ENDINGS = ("\n", "\n\n")  # an answer's line ends with these, as its text ends with an end token


class LabelPrompts:
    """Writes prompts and labels as token ids, from many threads."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer
        self._encoder = PromptEncoder(tokenizer)

    def line_ends(self) -> set[int]:
        """The tokens that end a line."""
        found = [self._encoder.encode_bare(ending) for ending in ENDINGS]
        return {ids[0] for ids in found if len(ids) == 1}

    def labels(self, params: ZeroShotParams) -> list[list[int]]:
        """Each label's tokens as they are behind a prompt; raises RecordError for one without.

        Without a chat the spaces at a prompt's end are the labels' first: tokenizers keep a space
        and the word behind it together.
        """
        if self._encoder.takes_chat(params):
            before, gap = self._encoder.render(as_chat("a", params)), ""
        else:
            before = params.fill(dict.fromkeys(params.fields(), "a")).rstrip(" ")
            gap = "" if before[-1:].isspace() else " "
        found = [self._encoder.encode_after(before, gap + label) for label in params.labels]
        for label, ids in zip(params.labels, found, strict=True):
            if not ids:
                raise RecordError("invalid_params", f"label {label!r} has no tokens")
        return found

    def prompt(self, text: str, params: ZeroShotParams, longest_label: int) -> Prompt:
        """One record's prompt, which leaves room for its longest label; raises RecordError."""
        limit = token_limit(self._tokenizer, params)
        room = limit - longest_label
        if params.on_long == "error" or params.is_composed():
            ids = self._write(text, params)
            if len(ids) > room:
                raise refuse_long(len(ids) + longest_label, limit)
            return Prompt(ids, len(ids))
        return self._encoder.fit(text, room, lambda part: self._write(part, params))

    def _write(self, text: str, params: ZeroShotParams) -> list[int]:
        prompt = text if params.is_composed() else params.fill({"text": text})
        if not self._encoder.takes_chat(params):
            prompt = prompt.rstrip(" ")
        return self._encoder.ask(prompt, params)
