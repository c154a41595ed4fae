"""Continuous batching: every step computes one token of every active row, and finished rows leave.

``step`` is one forward pass: the prompts of some new rows if any wait, else one token for all. Rows
are kept in slots without holes, so a pass never computes a row that has ended. Which rows are let
in, and after which failures they start anew, is the engine's business.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from textmill.core.errors import RecordError
from textmill.workers.items import Step
from textmill.workers.runners.decoding.forward import SlotModel
from textmill.workers.runners.decoding.requests import DecodeRequest
from textmill.workers.runners.decoding.rows import Row, choose_tokens

PADDING_DIVISOR = 16  # of the prefill's budget may be padding, as in the scheduler's batches


class SlotLoop:
    """The active rows of one model; used by one thread."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        device: torch.device,
        *,
        max_held_tokens: int,
        prefill_tokens: int,
    ) -> None:
        """See DecodeLoop."""
        self._tokenizer = tokenizer
        self._slots = SlotModel(model, device)
        self._max_held_tokens = max_held_tokens
        self._prefill_tokens = prefill_tokens
        self._new: list[Row] = []  # admitted, not computed yet
        self._active: list[Row] = []  # the row at index n has slot n

    def admit(self, requests: Mapping[int, DecodeRequest]) -> None:
        """Take rows in, under handles of the caller's choice."""
        self._new += [Row(handle, request, self._tokenizer) for handle, request in requests.items()]
        self._new.sort(key=lambda row: len(row.request.ids))

    @torch.inference_mode()
    def drop(self, handles: Iterable[int]) -> None:
        """Forget rows, whatever they have come to."""
        gone = set(handles)
        self._new = [row for row in self._new if row.handle not in gone]
        self._remove([row for row in self._active if row.handle in gone])

    @torch.inference_mode()
    def step(self) -> Step:
        """One forward pass."""
        return self._prefill() if self._new else self._decode()

    def _prefill(self) -> Step:
        group = self._next_group()
        prompts = [row.request.ids for row in group]
        first = len(self._active)
        logits = self._slots.prefill(prompts, first, self._capacity(group), self._max_held_tokens)
        choose_tokens(group, logits)
        started = {row.handle for row in group}
        self._new = [row for row in self._new if row.handle not in started]
        self._active += group
        return self._settle(group, {row.handle: len(row.request.ids) for row in group})

    def _decode(self) -> Step:
        rows = self._active
        if not rows:
            return Step([], {})
        last = [row.ids[-1] for row in rows]
        lengths = [row.length for row in rows]
        logits = self._slots.step(last, lengths, self._capacity(rows), self._max_held_tokens)
        choose_tokens(rows, logits)
        return self._settle(rows, {row.handle: 1 for row in rows})

    def _settle(self, rows: list[Row], computed: dict[int, int]) -> Step:
        ended = [row for row in rows if row.outcome is not None]
        self._remove(ended)
        return Step([(row.handle, row.outcome) for row in ended], computed)

    def _next_group(self) -> list[Row]:
        """The longest new prompts, as many as fit together with little padding."""
        longest = len(self._new[-1].request.ids)
        padding = 0
        group: list[Row] = []
        for row in reversed(self._new):
            padding += longest - len(row.request.ids)
            full = (len(group) + 1) * longest > self._prefill_tokens
            if group and (full or padding > self._prefill_tokens // PADDING_DIVISOR):
                break
            group.append(row)
        return group

    def _capacity(self, rows: list[Row]) -> int:
        return max(row.request.tokens for row in [*self._active, *rows])

    def _remove(self, rows: list[Row]) -> None:
        """Take rows out; the last ones move into their slots."""
        gone = {id(row) for row in rows}
        for slot, row in enumerate(self._active):
            if isinstance(row.outcome, RecordError):
                self._slots.cache.wipe(slot)
        slot = 0
        while slot < len(self._active):
            if id(self._active[slot]) not in gone:
                slot += 1
                continue
            last = self._active.pop()
            if slot < len(self._active) and id(last) not in gone:
                self._slots.cache.move(len(self._active), slot, last.length)
                self._active[slot] = last
        if not self._active:
            self._slots.cache.clear()
