"""From a record's text to the token ids that a generative model goes on from.

A prompt goes in as it is or as the user's message of a chat; a chat is written by the tokenizer's
chat template. What is too long is refused or cut, by rules that ``docs/generation.md`` states.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Any, Protocol

import jinja2

from textmill.core.errors import RecordError
from textmill.core.params import GenerationParams
from textmill.core.prompts import Chat, read_chat
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

    One at a time: to encode control tokens in a user's text as text, transformers changes a
    setting of the tokenizer that every thread would see.
    """

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._source: Any = tokenizer.source
        self._limit = tokenizer.limit
        self._prefix = tokenizer.prefix_length
        self._lock = Lock()
        self.has_chat_template = bool(self._source.chat_template)

    def encode(self, text: str, params: GenerationParams) -> Prompt:
        """The ids of one record; raises RecordError for what cannot be read or is too long."""
        room = self._room(params)
        if params.messages:
            return self._encode_chat(_with_system(read_chat(text), params), room, params)
        if self.takes_chat(params):
            return self._encode_wrapped(text, room, params)
        return self._encode_plain(text, room, params)

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
                    f"the prompt leaves no room for a text: beside the answer there are {room} "
                    "tokens for both",
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

    def _room(self, params: GenerationParams) -> int:
        """How many tokens a prompt may have."""
        limit: int = min(self._limit, params.max_length or self._limit)
        room = limit - params.max_new_tokens
        if room < 1:
            raise RecordError(
                "invalid_params",
                f"max_new_tokens is {params.max_new_tokens}, which leaves no room for a prompt in "
                f"a context of {limit} tokens",
            )
        return room

    def _encode_plain(self, text: str, room: int, params: GenerationParams) -> Prompt:
        """As the tokenizer does it, with its own first token; cut behind that one."""
        ids = self.encode_text(text)
        if len(ids) <= room:
            return Prompt(ids, len(ids))
        if params.on_long == "error" or room <= self._prefix:
            raise _too_long(len(ids), room, params)
        kept = room - self._prefix
        return Prompt(ids[: self._prefix] + ids[len(ids) - kept :], len(ids))

    def _encode_wrapped(self, text: str, room: int, params: GenerationParams) -> Prompt:
        """A prompt as the user's message; its beginning is cut until the whole chat fits."""
        ids = self.write(as_chat(text, params))
        given = len(ids)
        while len(ids) > room:
            if params.on_long == "error":
                raise _too_long(given, room, params)
            text = self._without_first(text, len(ids) - room)
            if not text:
                raise _too_long(given, room, params)
            ids = self.write(as_chat(text, params))
        return Prompt(ids, given)

    def _encode_chat(self, chat: Chat, room: int, params: GenerationParams) -> Prompt:
        """The chat, without its oldest turns if it is too long."""
        ids = self.write(chat)
        given = len(ids)
        while len(ids) > room:
            shorter = drop_oldest_turn(chat)
            if params.on_long == "error" or shorter is None:
                raise _too_long(given, room, params)
            chat = shorter
            ids = self.write(chat)
        return Prompt(ids, given)

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

    def _without_first(self, text: str, tokens: int) -> str:
        """The text without at least so many tokens of its beginning."""
        rest = [start for start, _ in self._offsets(text)[tokens:]]
        return text[max(1, rest[0]) :] if rest else ""

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
    return _with_system([{"role": "user", "content": text}], params)


def _with_system(chat: Chat, params: Asking) -> Chat:
    """A chat's own system message counts; the option is for chats that have none."""
    if params.system is None or chat[0]["role"] == "system":
        return chat
    return [{"role": "system", "content": params.system}, *chat]


def drop_oldest_turn(chat: Chat) -> Chat | None:
    """The chat without its first turn, system messages kept; None if it has only one turn.

    A turn begins with a message of the user and goes up to the next one, so that what is left
    begins as every chat does.
    """
    start = next((i for i, message in enumerate(chat) if message["role"] != "system"), len(chat))
    for index in range(start + 1, len(chat)):
        if chat[index]["role"] == "user":
            return chat[:start] + chat[index:]
    return None


def _too_long(tokens: int, room: int, params: GenerationParams) -> RecordError:
    return RecordError(
        "prompt_too_long",
        f"the prompt has {tokens} tokens; beside max_new_tokens, {params.max_new_tokens}, there is "
        f"room for {room}",
    )
