"""Two texts as one input of a model, put together from ids that were made without special tokens.

So a text that meets many others is tokenized once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from textmill.core.errors import ModelLoadError


@dataclass(frozen=True, slots=True)
class PairTemplate:
    """The special tokens around and between two texts, and each part's segment id."""

    head: tuple[int, ...]
    middle: tuple[int, ...]
    tail: tuple[int, ...]
    segments: tuple[int, int, int, int, int]  # of head, first text, middle, second text, tail

    @classmethod
    def of(cls, sample: Any) -> PairTemplate:
        """The template seen in one encoded pair of texts; raises ModelLoadError if there is none.

        ``sample`` is an Encoding of the tokenizers library.
        """
        places = sample.sequence_ids
        if 0 not in places or 1 not in places:
            raise ModelLoadError("its tokenizer does not take two texts as one input")
        start, end = places.index(0), len(places) - places[::-1].index(0)
        second, stop = places.index(1), len(places) - places[::-1].index(1)
        ids, types = sample.ids, sample.type_ids

        def segment(begin: int, finish: int) -> int:
            return int(types[begin]) if begin < finish else 0

        return cls(
            tuple(ids[:start]),
            tuple(ids[end:second]),
            tuple(ids[stop:]),
            (
                segment(0, start),
                segment(start, end),
                segment(end, second),
                segment(second, stop),
                segment(stop, len(ids)),
            ),
        )

    @property
    def overhead(self) -> int:
        """How many special tokens a pair has."""
        return len(self.head) + len(self.middle) + len(self.tail)

    def join(self, first: list[int], second: list[int]) -> list[int]:
        """The ids of a pair."""
        return [*self.head, *first, *self.middle, *second, *self.tail]

    def segment_ids(self, first: int, second: int) -> list[int]:
        """The segment ids of a pair of texts of so many tokens."""
        lengths = (len(self.head), first, len(self.middle), second, len(self.tail))
        return [
            segment
            for segment, length in zip(self.segments, lengths, strict=True)
            for _ in range(length)
        ]
