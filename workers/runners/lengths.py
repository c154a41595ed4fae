"""A text's token ids against what the model can read: cut, refused, and said so."""

from __future__ import annotations

from dataclasses import dataclass

from textmill.core.errors import RecordError
from textmill.core.params import TextParams
from textmill.workers.runners.tokenizing import TextTokenizer


@dataclass(frozen=True, slots=True)
class Encoded:
    """One text as the model reads it."""

    ids: list[int]
    tokens: int  # before truncation
    params: TextParams


def fit_ids(ids: list[int], tokenizer: TextTokenizer, params: TextParams) -> Encoded:
    """The ids, cut to the limit if need be; raises RecordError for none or too many."""
    if not ids:
        raise RecordError("empty_text", "the text has no tokens")
    limit = token_limit(tokenizer, params)
    if len(ids) <= limit:
        return Encoded(ids, len(ids), params)
    if params.on_long == "error":
        raise refuse_long(len(ids), limit)
    return Encoded(tokenizer.truncate(ids, limit), len(ids), params)


def token_limit(tokenizer: TextTokenizer, params: TextParams) -> int:
    """How many tokens an item may have."""
    limit: int = tokenizer.limit
    return min(limit, params.max_length or limit)


def refuse_long(tokens: int, limit: int) -> RecordError:
    """The error of a text that is over the limit and must not be cut."""
    return RecordError("text_too_long", f"the text has {tokens} tokens, the limit is {limit}")


def truncation_mark(read: int, tokens: int) -> dict[str, object]:
    """What ``detail`` says of a text of which the model read less than all; else nothing."""
    return {"truncated": True, "tokens": tokens} if tokens > read else {}
