"""A context's tokens: where they lie in its characters, and the windows they are cut into."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

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

    @classmethod
    def of(cls, text: str, encoding: Any) -> TokenizedContext:
        """From an Encoding of the tokenizers library, without special tokens."""
        offsets = np.array(encoding.offsets, dtype=np.int32).reshape(-1, 2)
        words = [-1 if word is None else word for word in encoding.word_ids]
        return cls(
            text,
            np.array(encoding.ids, dtype=np.int32),
            offsets[:, 0],
            offsets[:, 1],
            np.array(words, dtype=np.int32),
        )

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


def cut_windows(tokens: int, room: int, overlap: int) -> list[tuple[int, int]]:
    """First and last + 1 token of each window, the last one shorter; ``overlap`` < ``room``."""
    last_start = max(0, tokens - room)
    starts = range(0, last_start + room - overlap, room - overlap)
    return [(start, min(start + room, tokens)) for start in starts]
