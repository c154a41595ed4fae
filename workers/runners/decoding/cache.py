"""The keys and values of all active rows, written in place: what transformers' DynamicCache copies.

Each row has a slot, and its tokens lie in it from place 0 on, so rows of any length share a batch
and a row enters or leaves without moving the others. ``masks`` and ``loop`` do the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

GROWTH = 1.5
FIRST_TOKENS = 128


class SlotCache(Cache):  # type: ignore[misc]
    """One SlotLayer a layer, and which slots and places the running forward pass writes.

    Rows 0 to n-1 of a decoding batch are slots 0 to n-1: a row that leaves is replaced by the last.
    """

    def __init__(self, layers: int) -> None:
        super().__init__(layers=[SlotLayer() for _ in range(layers)])
        self._slots: list[SlotLayer] = self.layers

    def begin_prefill(self, first_slot: int, length: int, capacity: int) -> None:
        """The next pass writes ``length`` tokens of new rows, from ``first_slot`` on."""
        for layer in self._slots:
            layer.begin_prefill(first_slot, length, capacity)

    def begin_step(self, places: torch.Tensor, width: int) -> None:
        """The next pass writes one token a row at ``places`` (rows,) and reads ``width`` places."""
        for layer in self._slots:
            layer.begin_step(places, width)

    def move(self, source: int, target: int, length: int) -> None:
        """Copy a row's tokens from one slot to another."""
        for layer in self._slots:
            layer.move(source, target, length)

    def clear(self) -> None:
        """Free the memory."""
        for layer in self._slots:
            layer.clear()

    def trim(self, rows: int, width: int) -> None:
        """Give memory back if far more is held than ``rows`` of ``width`` tokens need."""
        for layer in self._slots:
            layer.trim(rows, width)


class SlotLayer(CacheLayerMixin):  # type: ignore[misc]
    """Keys and values of one layer: (slots, heads, places, head size), more than is in use."""

    is_sliding = False

    def __init__(self) -> None:
        super().__init__()
        self._places: torch.Tensor | None = None  # None: the pass is a prefill
        self._first_slot = self._width = self._capacity = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Make the first tensors, empty: they grow when they are written."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys = key_states.new_empty((0, key_states.shape[1], 0, key_states.shape[3]))
        self.values = value_states.new_empty((0, value_states.shape[1], 0, value_states.shape[3]))
        self.is_initialized = True

    def begin_prefill(self, first_slot: int, length: int, capacity: int) -> None:
        """See SlotCache."""
        self._places, self._first_slot = None, first_slot
        self._width, self._capacity = length, capacity

    def begin_step(self, places: torch.Tensor, width: int) -> None:
        """See SlotCache."""
        self._places, self._width = places, width

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new tokens; returns what the queries may look at."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if self._places is None:
            return self._write_prompts(key_states, value_states)
        return self._write_tokens(self._places, key_states, value_states)

    def _write_prompts(
        self, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """New rows see nothing but themselves, so what came in is what is looked at."""
        first, last = self._first_slot, self._first_slot + keys.shape[0]
        self._reserve(last, max(self._capacity, self._width))
        self.keys[first:last, :, : self._width] = keys
        self.values[first:last, :, : self._width] = values
        return keys, values

    def _write_tokens(
        self, places: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        rows = keys.shape[0]
        self._reserve(rows, self._width)
        for held, new in ((self.keys, keys), (self.values, values)):
            index = places.view(rows, 1, 1, 1).expand(rows, new.shape[1], 1, new.shape[3])
            held[:rows].scatter_(2, index, new)
        return self.keys[:rows, :, : self._width], self.values[:rows, :, : self._width]

    def _reserve(self, slots: int, places: int) -> None:
        held_slots, _, held_places, _ = self.keys.shape
        if slots <= held_slots and places <= held_places:
            return
        if slots > held_slots:
            slots = max(slots, int(held_slots * GROWTH))
        if places > held_places:
            places = max(places, FIRST_TOKENS, int(held_places * GROWTH))
        self.keys = _resized(self.keys, max(slots, held_slots), max(places, held_places))
        self.values = _resized(self.values, max(slots, held_slots), max(places, held_places))
