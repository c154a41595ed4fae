"""What a generative runner asks of the decode loop, and what it gets back.

A runner whose items are decoded step by step sets ``Item.data`` to a DecodeRequest and
``Item.length`` to ``request.tokens`` (prompt and longest output: the room its row may need); the
row that ``Runner.join`` is given for the item is a Generated, or a RecordError ends the record.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch

FinishReason = Literal["stop", "length"]


class Constraint(Protocol):
    """What one output may consist of; the state of one row, changed by ``accept``."""

    def allowed(self) -> torch.Tensor:
        """Which tokens may come next: bool, (vocabulary,), on the CPU; end tokens among them."""

    def accept(self, token_id: int) -> None:
        """Take note of the token that was chosen; never called with an end token."""

    @property
    def finished(self) -> bool:
        """True once nothing more may follow: the row ends with finish reason "stop"."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a token is chosen from the logits; the meaning of each is that of transformers.

    ``seed`` is already mixed with the record's identity by the caller: the noise of a token is a
    function of it and of the token's place in the output, nothing else.
    """

    temperature: float = 0.0  # 0: the most likely token, the rest but the penalty is not read
    top_k: int = 0  # 0: all
    top_p: float = 1.0
    seed: int = 0
    repetition_penalty: float = 1.0  # over prompt and output; 1: none
    frequency_penalty: float = 0.0  # off a token's score for each time it is in the output
    presence_penalty: float = 0.0  # off a token's score if it is in the output

    @property
    def edits(self) -> bool:
        """True if scores change before a token is chosen by them."""
        penalties = (self.frequency_penalty, self.presence_penalty)
        return self.repetition_penalty != 1.0 or penalties != (0.0, 0.0)


@dataclass(frozen=True, slots=True)
class DecodeRequest:
    """One row to generate: a prompt, when to end, and how to choose.

    ``constraint`` makes a fresh state: a row may be started anew after a failure of the device.
    The prompt has at least one token; whether prompt and output fit the model's positions is the
    caller's business.
    """

    ids: list[int]
    max_new_tokens: int  # at least 1
    eos_ids: frozenset[int] = frozenset()
    stop: tuple[str, ...] = ()  # the output ends before the first of these, none is empty
    sampling: Sampling = field(default_factory=Sampling)
    constraint: Callable[[], Constraint] | None = None

    @property
    def tokens(self) -> int:
        """The room the row may need: what ``Item.length`` should be."""
        return len(self.ids) + self.max_new_tokens


@dataclass(frozen=True, slots=True)
class Generated:
    """A finished row.

    ``ids`` are all tokens that were computed, but not the end token; with a stop string they still
    hold its tokens. ``text`` is what follows the prompt, special tokens left out, cut before the
    stop string: as decoding prompt and output together and taking the prompt's text off (so a
    leading space is kept where the tokenizer has one).
    """

    ids: list[int]
    text: str
    finish_reason: FinishReason
