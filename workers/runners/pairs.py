"""A question and a window of a context as one sequence, and where its tokens lie in the context."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from textmill.core.checkpoints import Checkpoint
from textmill.core.errors import ModelLoadError
from textmill.workers.runners.tokenizing import load_fast_tokenizer, position_limit

Tokens = npt.NDArray[np.int32]

JOINER = "\N{ZERO WIDTH JOINER}"


@dataclass(frozen=True, eq=False)
class TokenizedContext:
    """A context's tokens, and the characters that each covers (Python string indexes).

    Arrays and no lists: an engine may hold many contexts, and these take 16 bytes a token.
    """

    text: str
    ids: Tokens
    starts: Tokens
    ends: Tokens
    words: Tokens  # the word each token belongs to; -1: none

    @cached_property
    def _word_ends(self) -> tuple[Tokens, Tokens]:
        """The first and the last token of each token's word."""
        positions = np.arange(len(self.words), dtype=np.int32)
        begins = np.ones(len(self.words), dtype=bool)
        begins[1:] = (self.words[1:] != self.words[:-1]) | (self.words[1:] < 0)
        firsts = positions[begins]
        lasts = np.append(firsts[1:], len(self.words)) - 1
        word = np.cumsum(begins) - 1
        return firsts[word], lasts[word].astype(np.int32)

    def characters(self, first: int, last: int, *, whole_words: bool) -> tuple[int, int]:
        """The characters of a span of tokens (``last`` included): neither blank at an end nor cut
        inside a character, so that ``text[start:end]`` is what a person would mark.

        A tokenizer may count the space before a word to the word, and drop combining marks.
        """
        if whole_words:
            firsts, lasts = self._word_ends
            first, last = int(firsts[first]), int(lasts[last])
        text, start, end = self.text, int(self.starts[first]), int(self.ends[last])
        while start < end and text[start].isspace():
            start += 1
        while start < end and text[end - 1].isspace():
            end -= 1
        if start < end:
            while _inside_character(text, start):
                start -= 1
            while _inside_character(text, end):
                end += 1
        return start, end


def _inside_character(text: str, at: int) -> bool:
    """Whether a cut here would part a character from its marks, or an emoji that is joined."""
    if not 0 < at < len(text) or text[at - 1].isspace():
        return False
    joined = JOINER in (text[at - 1], text[at])
    return joined or unicodedata.category(text[at]).startswith("M")


class PairTokenizer:
    """A tokenizer of pairs, question first, and its model's limit.

    Both sides are tokenized alone, so that a text that many records share is tokenized once, and
    put together here by the tokenizer's own template.
    """

    def __init__(self, tokenizer: Any) -> None:
        """Raises ValueError if its template is not ``… question … context …``."""
        self._backend = tokenizer.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        sample = self._backend.encode("a", "a")
        sides, ids, types = sample.sequence_ids, sample.ids, sample.type_ids
        question, context = sides.index(0), sides.index(1)
        question_end, context_end = _end(sides, 0), _end(sides, 1)
        self.types: tuple[int, int] = types[question], types[context]
        if types != [types[question]] * context + [types[context]] * (len(ids) - context):
            raise ValueError(f"its segment ids are {types}")
        self._prefix: list[int] = ids[:question]
        self._middle: list[int] = ids[question_end:context]
        self._suffix: list[int] = ids[context_end:]
        self.special = len(self._prefix) + len(self._middle) + len(self._suffix)
        cls = tokenizer.cls_token_id
        self.cls_at = self._prefix.index(cls) if cls in self._prefix else None
        self.uses_types = "token_type_ids" in tokenizer.model_input_names
        self.pad_id: int = tokenizer.pad_token_id or 0
        self.limit = min(tokenizer.model_max_length, sys.maxsize)

    def fit(self, model: Any) -> PairTokenizer:
        """Take the model's own limit into account."""
        self.limit = min(self.limit, position_limit(model))
        return self

    def encode_questions(self, texts: Iterable[str]) -> dict[str, list[int]]:
        """The token ids of each different text, without special tokens."""
        return {text: encoding.ids for text, encoding in self._encode(texts)}

    def encode_contexts(self, texts: Iterable[str]) -> dict[str, TokenizedContext]:
        """Each different text, tokenized."""
        return {text: _context(text, encoding) for text, encoding in self._encode(texts)}

    def _encode(self, texts: Iterable[str]) -> Iterable[tuple[str, Any]]:
        different = list(dict.fromkeys(texts))
        encoded = self._backend.encode_batch(different, add_special_tokens=False)
        return zip(different, encoded, strict=True)

    def head(self, question: list[int]) -> list[int]:
        """All that stands before the context."""
        return [*self._prefix, *question, *self._middle]

    def join(self, head: list[int], context: Tokens) -> list[int]:
        """The whole sequence."""
        return [*head, *context.tolist(), *self._suffix]


def _context(text: str, encoding: Any) -> TokenizedContext:
    offsets = np.array(encoding.offsets, dtype=np.int32).reshape(-1, 2)
    words = [-1 if word is None else word for word in encoding.word_ids]
    return TokenizedContext(
        text,
        np.array(encoding.ids, dtype=np.int32),
        offsets[:, 0],
        offsets[:, 1],
        np.array(words, dtype=np.int32),
    )


def _end(sides: Sequence[int | None], side: int) -> int:
    return len(sides) - sides[::-1].index(side)


def cut_windows(tokens: int, room: int, overlap: int) -> list[tuple[int, int]]:
    """First and last + 1 token of each window, the last one shorter; ``overlap`` < ``room``."""
    last_start = max(0, tokens - room)
    starts = range(0, last_start + room - overlap, room - overlap)
    return [(start, min(start + room, tokens)) for start in starts]


def load_pair_tokenizer(checkpoint: Checkpoint) -> PairTokenizer:
    """The checkpoint's own tokenizer; raises ModelLoadError."""
    tokenizer = load_fast_tokenizer(checkpoint)
    try:
        return PairTokenizer(tokenizer)
    except ValueError as error:
        raise ModelLoadError(
            f"model {checkpoint.name!r}: its tokenizer does not put a question before a context "
            f"as BERT's and RoBERTa's do ({error}), which this task does not support"
        ) from error
