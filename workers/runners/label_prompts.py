"""Texts and labels as a model that writes text reads them: a prompt, and the answers behind it.

A text that is too long is cut inside its prompt; the question around it and the labels stay whole.
"""

from __future__ import annotations

from dataclasses import dataclass

from textmill.core.errors import RecordError
from textmill.core.params import ZeroShotParams
from textmill.core.prompts import Chat
from textmill.workers.runners.lengths import refuse_long, token_limit
from textmill.workers.runners.prompting import PromptEncoder
from textmill.workers.runners.tokenizing import TextTokenizer

ENDINGS = ("\n", "\n\n")  # an answer's line ends with these, as its text ends with an end token


@dataclass(frozen=True, slots=True)
class LabelPrompt:
    """A prompt's token ids, and how many there were before anything was cut, a label counted."""

    ids: list[int]
    tokens: int


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
        """Each label's tokens as they are behind a prompt; raises RecordError for one without."""
        if self._takes_chat(params):
            before, gap = self._encoder.render(_as_chat("a", params)), ""
        else:
            filled = params.fill(dict.fromkeys(params.fields(), "a"))
            before, gap = filled, "" if filled[-1:].isspace() else " "
        found = [self._encoder.encode_after(before, gap + label) for label in params.labels]
        for label, ids in zip(params.labels, found, strict=True):
            if not ids:
                raise RecordError("invalid_params", f"label {label!r} has no tokens")
        return found

    def prompt(self, text: str, params: ZeroShotParams, longest_label: int) -> LabelPrompt:
        """One record's prompt, which leaves room for its longest label; raises RecordError."""
        limit = token_limit(self._tokenizer, params)
        ids = self._write(text, params)
        tokens = len(ids) + longest_label
        while len(ids) + longest_label > limit:
            if params.on_long == "error" or params.is_composed():
                raise refuse_long(tokens, limit)
            text = self._encoder.without_last(text, len(ids) + longest_label - limit)
            if not text:
                message = f"prompt and label leave no room for a text in a limit of {limit} tokens"
                raise RecordError("invalid_params", message)
            ids = self._write(text, params)
        return LabelPrompt(ids, tokens)

    def _write(self, text: str, params: ZeroShotParams) -> list[int]:
        prompt = text if params.is_composed() else params.fill({"text": text})
        if self._takes_chat(params):
            return self._encoder.write(_as_chat(prompt, params))
        return self._encoder.encode_text(prompt)

    def _takes_chat(self, params: ZeroShotParams) -> bool:
        needed = params.chat_need() is not None
        return needed or (params.chat == "auto" and self._encoder.has_chat_template)


def _as_chat(prompt: str, params: ZeroShotParams) -> Chat:
    system = [] if params.system is None else [{"role": "system", "content": params.system}]
    return [*system, {"role": "user", "content": prompt}]
