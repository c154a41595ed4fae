"""One active row: what it has said so far, and whether that is all."""

from __future__ import annotations

from typing import Any

import torch

from textmill.core.errors import RecordError
from textmill.workers.runners.decoding import sampling
from textmill.workers.runners.decoding.requests import DecodeRequest, FinishReason, Generated
from textmill.workers.runners.decoding.stopping import StopFinder, decode_output


class Row:
    """A request on its way; ``outcome`` is set when it has ended."""

    def __init__(self, handle: int, request: DecodeRequest, tokenizer: Any) -> None:
        self.handle = handle
        self.request = request
        self.ids: list[int] = []
        self.outcome: Generated | RecordError | None = None
        self.dropped = False
        self._tokenizer = tokenizer
        self._constraint = request.constraint() if request.constraint else None
        self._finder = StopFinder(tokenizer, request.ids, request.stop) if request.stop else None

    @property
    def length(self) -> int:
        """How many of its tokens have gone through the model: all but the last output."""
        return len(self.request.ids) + max(0, len(self.ids) - 1)

    @property
    def live(self) -> bool:
        """True while it wants more tokens."""
        return self.outcome is None and not self.dropped

    @property
    def edits_logits(self) -> bool:
        """True if ``edit`` has something to do."""
        return self._constraint is not None or self.request.sampling.edits

    def edit(self, logits: torch.Tensor) -> None:
        """Forbid and penalize tokens, in this row's fp32 logits (vocabulary,)."""
        asked = self.request.sampling
        if asked.repetition_penalty != 1.0:
            sampling.penalize(logits, self.request.ids + self.ids, asked.repetition_penalty)
        if asked.frequency_penalty or asked.presence_penalty:
            frequency, presence = asked.frequency_penalty, asked.presence_penalty
            sampling.discourage(logits, self.ids, frequency=frequency, presence=presence)
        if self._constraint is not None:
            allowed = self._constraint.allowed().to(logits.device)
            logits[len(allowed) :] = float("-inf")
            logits[: len(allowed)].masked_fill_(~allowed[: len(logits)], float("-inf"))

    def accept(self, token_id: int) -> None:
        """Take the next token; the row may end with it."""
        if token_id in self.request.eos_ids:
            self._end("stop")
            return
        self.ids.append(token_id)
        text = self._finder.add(token_id) if self._finder else None
        if self._constraint is not None:
            self._constraint.accept(token_id)
        if text is not None:
            self.outcome = Generated(self.ids, text, "stop")
        elif self._constraint is not None and self._constraint.finished:
            self._end("stop")
        elif len(self.ids) >= self.request.max_new_tokens:
            self._end("length")

    def refuse(self) -> None:
        """End it: no token can be chosen from its logits."""
        self.outcome = RecordError("not_finite", "the model's scores are not finite numbers")

    def _end(self, reason: FinishReason) -> None:
        text = decode_output(self._tokenizer, self.request.ids, self.ids)
        self.outcome = Generated(self.ids, text, reason)


def choose_tokens(rows: list[Row], logits: torch.Tensor) -> None:
    """Give each row its next token from its line of ``logits`` (rows, vocabulary), which change."""
    scores = logits.float()
    if any(row.edits_logits for row in rows):
        for row, line in zip(rows, scores, strict=True):
            row.edit(line)
    best, ids = scores.max(dim=1)
    random = [n for n, row in enumerate(rows) if row.request.sampling.temperature > 0]
    if random:
        chosen = [rows[n] for n in random]
        samplings = [row.request.sampling for row in chosen]
        places = [len(row.ids) for row in chosen]
        ids[random] = sampling.draw(scores[random], samplings, places)
    # The highest is not a number if any is not, and -inf if no token is allowed.
    packed = torch.where(best.isfinite(), ids, -1).tolist()
    for row, token_id in zip(rows, packed, strict=True):
        if token_id < 0:
            row.refuse()
        else:
            row.accept(token_id)
