"""Two texts as one input of a model, put together from ids that were made without special tokens.

So a text that meets many others is tokenized once.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from itertools import pairwise

from textmill.core.errors import ModelLoadError
from textmill.workers.runners.loading import Loaded


@dataclass(frozen=True, slots=True)
class PairTemplate:
    """The special tokens around and between two texts, and each part's segment id."""

    head: tuple[int, ...]
    middle: tuple[int, ...]
    tail: tuple[int, ...]
    segments: tuple[int, int, int, int, int]  # of head, first text, middle, second text, tail

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


def pair_template(loaded: Loaded) -> PairTemplate:
    """The template seen in one encoded pair of texts; raises ModelLoadError if there is none."""
    sample = loaded.tokenizer.encode_pair("a", "a")
    places, ids, types = sample.sequence_ids, sample.ids, sample.type_ids
    if 0 not in places or 1 not in places or places.index(0) > places.index(1):
        raise ModelLoadError(
            f"model {loaded.checkpoint.name!r}: its tokenizer does not put two texts one after the "
            "other into one input, as BERT's and RoBERTa's do, which this task does not support"
        )
    start, end = places.index(0), len(places) - places[::-1].index(0)
    second, stop = places.index(1), len(places) - places[::-1].index(1)

    def segment(begin: int, finish: int) -> int:
        return int(types[begin]) if begin < finish else 0

    cuts = (0, start, end, second, stop, len(ids))
    head, first, middle, other, tail = (segment(a, b) for a, b in pairwise(cuts))
    return PairTemplate(
        tuple(ids[:start]),
        tuple(ids[end:second]),
        tuple(ids[stop:]),
        (head, first, middle, other, tail),
    )


def takes_segments(loaded: Loaded) -> bool:
    """Whether the model wants to be told which tokens are of which text."""
    takes = inspect.signature(loaded.model.forward).parameters
    return loaded.tokenizer.has_segments and "token_type_ids" in takes
