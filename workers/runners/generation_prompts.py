"""A generation record's prompt, and what is done with one that is too long.

It is refused or cut, by rules that ``docs/generation.md`` states.
"""

from __future__ import annotations

from textmill.core.errors import RecordError
from textmill.core.params import GenerationParams
from textmill.core.prompts import Chat, read_chat
from textmill.workers.runners.prompting import Prompt, PromptEncoder, as_chat, with_system


def encode_prompt(encoder: PromptEncoder, text: str, params: GenerationParams) -> Prompt:
    """The ids of one record; raises RecordError for what cannot be read or is too long."""
    room = _room(encoder, params)
    if params.messages:
        chat = read_chat(text, any_end=params.openai_batch is not None)
        return _encode_chat(encoder, with_system(chat, params), room, params)
    if encoder.takes_chat(params):
        return _encode_wrapped(encoder, text, room, params)
    return _encode_plain(encoder, text, room, params)


def answer_tokens(encoder: PromptEncoder, prompt: Prompt, params: GenerationParams) -> int:
    """How many tokens the answer may have: as asked, or with ``fit_answer`` what is left."""
    return min(params.max_new_tokens, _limit(encoder, params) - len(prompt.ids))


def _limit(encoder: PromptEncoder, params: GenerationParams) -> int:
    """How many tokens prompt and answer may have together."""
    return min(encoder.limit, params.max_length or encoder.limit)


def _room(encoder: PromptEncoder, params: GenerationParams) -> int:
    """How many tokens a prompt may have."""
    limit = _limit(encoder, params)
    if params.fit_answer:
        # A prompt that is cut leaves the answer up to half of the context.
        cut = params.on_long != "error"
        return limit - (min(params.max_new_tokens, limit // 2) if cut else 1)
    room = limit - params.max_new_tokens
    if room < 1:
        raise RecordError(
            "invalid_params",
            f"max_new_tokens is {params.max_new_tokens}, which leaves no room for a prompt in "
            f"a context of {limit} tokens",
        )
    return room


def _encode_plain(encoder: PromptEncoder, text: str, room: int, params: GenerationParams) -> Prompt:
    """As the tokenizer does it, with its own first token; cut behind that one."""
    ids = encoder.encode_text(text)
    if len(ids) <= room:
        return Prompt(ids, len(ids))
    if params.on_long == "error" or room <= encoder.prefix:
        raise _too_long(len(ids), room, params)
    kept = room - encoder.prefix
    return Prompt(ids[: encoder.prefix] + ids[len(ids) - kept :], len(ids))


def _encode_wrapped(
    encoder: PromptEncoder, text: str, room: int, params: GenerationParams
) -> Prompt:
    """A prompt as the user's message; its beginning is cut until the whole chat fits."""
    ids = encoder.write(as_chat(text, params))
    given = len(ids)
    while len(ids) > room:
        if params.on_long == "error":
            raise _too_long(given, room, params)
        text = encoder.without_first(text, len(ids) - room)
        if not text:
            raise _too_long(given, room, params)
        ids = encoder.write(as_chat(text, params))
    return Prompt(ids, given)


def _encode_chat(encoder: PromptEncoder, chat: Chat, room: int, params: GenerationParams) -> Prompt:
    """The chat, without its oldest turns if it is too long."""
    ids = encoder.write(chat)
    given = len(ids)
    while len(ids) > room:
        shorter = drop_oldest_turn(chat)
        if params.on_long == "error" or shorter is None:
            raise _too_long(given, room, params)
        chat = shorter
        ids = encoder.write(chat)
    return Prompt(ids, given)


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
    beside = "" if params.fit_answer else f"beside max_new_tokens, {params.max_new_tokens}, "
    return RecordError(
        "prompt_too_long",
        f"the prompt has {tokens} tokens; {beside}there is room for {room}",
    )
