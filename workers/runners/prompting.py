"""Prompts and chats as the token ids that a generative model goes on from.

A prompt goes in as it is or as the user's message of a chat; a chat is written by the tokenizer's
chat template. What is done with one that is too long is the tasks' business.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Any, Protocol

import jinja2

from textmill.core.errors import RecordError
from textmill.core.prompts import Chat
from textmill.workers.runners.tokenizing import TextTokenizer


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model reads, and how many tokens there were before anything was cut."""

    ids: list[int]
    given_tokens: int


class Asking(Protocol):
    """The options that say how a model is asked; those of every task that does so have them."""

    @property
    def system(self) -> str | None:
        """The system message of chats that have none."""

    @property
    def chat(self) -> str:
        """Whether a prompt is the user's message of a chat: auto, on, off."""

    def chat_need(self) -> str | None:
        """The option that works only with a chat template."""


class PromptEncoder:
    """Writes prompts and chats as token ids, from many threads.

    One at a time: to encode control tokens in a user's text as text, transformers' base class
    changes a setting of the tokenizer that every thread would see. Its fast tokenizers do without
    in 5.23; a turn that a text could forge is worth the lock. ``limit`` is the context in tokens,
    ``prefix`` how many special ones stand before a text.
    """

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._source: Any = tokenizer.source
        self.limit: int = tokenizer.limit
        self.prefix = tokenizer.prefix_length
        self._lock = Lock()
        self.has_chat_template = bool(self._source.chat_template)

    def takes_chat(self, params: Asking) -> bool:
        """Whether a prompt is the user's message of a chat, and not the whole input."""
        needed = params.chat_need() is not None
        return needed or (params.chat == "auto" and self.has_chat_template)

    def ask(self, prompt: str, params: Asking) -> list[int]:
        """The ids of a prompt, as a chat or as it is; raises RecordError."""
        if self.takes_chat(params):
            return self.write(as_chat(prompt, params))
        return self.encode_text(prompt)

    def fit(self, text: str, room: int, write: Callable[[str], list[int]]) -> Prompt:
        """What ``write`` makes of a text, whose end is cut until the whole fits.

        Raises RecordError if what is around the text leaves no room for it.
        """
        ids = write(text)
        given = len(ids)
        while len(ids) > room:
            text = self._without_last(text, len(ids) - room)
            if not text:
                raise RecordError(
                    "invalid_params",
                    f"the prompt leaves no room for a text: beside the answer there are "
                    f"{max(room, 0)} tokens for both",
                )
            ids = write(text)
        return Prompt(ids, given)

    def encode_text(self, text: str) -> list[int]:
        """As the tokenizer does it, with its own first token; raises RecordError for none."""
        with self._lock:
            ids: list[int] = self._source.encode(text)
        if not ids:
            raise RecordError("empty_text", "the prompt has no tokens")
        return ids

    def encode_bare(self, text: str) -> list[int]:
        """Without special tokens."""
        with self._lock:
            ids: list[int] = self._source.encode(text, add_special_tokens=False)
        return ids

    def encode_after(self, before: str, text: str) -> list[int]:
        """The tokens of a text behind another one, where the border is one of tokens too."""
        head, whole = self.encode_bare(before), self.encode_bare(before + text)
        return whole[len(head) :] if whole[: len(head)] == head else self.encode_bare(text)

    def write(self, chat: Chat) -> list[int]:
        """The chat and the start of the answer, as the model was taught to read them.

        A control token inside a message is text: no text can end its message and forge the next.
        """
        found: list[int] = self._apply_template(
            chat, tokenize=True, return_dict=False, sanitize_control_tokens=True
        )
        return found

    def render(self, chat: Chat) -> str:
        """What ``write`` encodes, as a text."""
        found: str = self._apply_template(chat, tokenize=False)
        return found

    def without_first(self, text: str, tokens: int) -> str:
        """The text without at least so many tokens of its beginning."""
        rest = [start for start, _ in self._offsets(text)[tokens:]]
        return text[max(1, rest[0]) :] if rest else ""

    def _apply_template(self, chat: Chat, **how: Any) -> Any:
        if not self.has_chat_template:
            raise RecordError(
                "no_chat_template",
                "the model's tokenizer has no chat template, so it cannot take chats or a system "
                "message; send plain prompts, or take a model that was trained on chats",
            )
        try:
            with self._lock:
                return self._source.apply_chat_template(chat, add_generation_prompt=True, **how)
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise RecordError(
                "chat_template", f"the model's chat template refuses the chat: {error}"
            ) from None

    def _without_last(self, text: str, tokens: int) -> str:
        """The text without at least so many tokens of its end."""
        rest = [end for _, end in self._offsets(text)[:-tokens]]
        return text[: min(len(text) - 1, rest[-1])] if rest else ""

    def _offsets(self, text: str) -> list[tuple[int, int]]:
        with self._lock:
            encoding = self._source.backend_tokenizer.encode(text, add_special_tokens=False)
        offsets: list[tuple[int, int]] = encoding.offsets
        return offsets


def as_chat(text: str, params: Asking) -> Chat:
    """A prompt as the user's message, behind the system message if there is one."""
    return with_system([{"role": "user", "content": text}], params)


def with_system(chat: Chat, params: Asking) -> Chat:
    """A chat's own system message counts; the option is for chats that have none."""
    if params.system is None or chat[0]["role"] == "system":
        return chat
    return [{"role": "system", "content": params.system}, *chat]
