"""The keys and values of all active rows, written in place: what transformers' DynamicCache copies.

Each row has a slot, and its tokens lie in it from place 0 on, so rows of any length share a batch
and one enters or leaves without moving the others. Which row has which slot is the loop's business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

GROWTH = 1.5
FIRST_PLACES = 128


@dataclass(slots=True)
class Pass:
    """What the running forward pass writes, the same in every layer.

    ``places`` (rows,) are where the rows' single new tokens go, in slots 0 on; None for a prefill,
    which fills new slots from ``first_slot`` on.
    """

    first_slot: int = 0
    places: torch.Tensor | None = None
    width: int = 0  # places that are read
    capacity: int = 0  # places that the rows may need in the end
    max_cells: int = 0  # slots times places that growing may reach


class SlotCache(Cache):  # type: ignore[misc]
    """One SlotLayer a layer; ``plan`` tells all of them what the next pass writes."""

    def __init__(self, layers: int) -> None:
        self.plan = Pass()
        self._slots = [SlotLayer(self) for _ in range(layers)]
        super().__init__(layers=self._slots)

    @property
    def bytes_per_token(self) -> int:
        """What one place of one slot takes in all layers; known after the first pass."""
        return sum(layer.bytes_per_token for layer in self._slots)

    def move(self, source: int, target: int, length: int) -> None:
        """Copy a row's tokens from one slot to another."""
        for layer in self._slots:
            layer.move(source, target, length)

    def wipe(self, slot: int) -> None:
        """Zero a slot: what is not a number there would reach others through a weight of 0."""
        for layer in self._slots:
            layer.wipe(slot)

    def clear(self) -> None:
        """Free the memory."""
        for layer in self._slots:
            layer.clear()


class SlotLayer(CacheLayerMixin):  # type: ignore[misc]
    """Keys and values of one layer: (slots, heads, places, head size), more than is in use."""

    is_sliding = False

    def __init__(self, cache: SlotCache) -> None:
        super().__init__()
        self._cache = cache

    @property
    def bytes_per_token(self) -> int:
        """See SlotCache."""
        if not self.is_initialized:
            return 0
        return sum(t.shape[1] * t.shape[3] * t.element_size() for t in (self.keys, self.values))

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Make the tensors, empty: they grow when they are written."""
        self.keys = key_states.new_empty((0, key_states.shape[1], 0, key_states.shape[3]))
        self.values = value_states.new_empty((0, value_states.shape[1], 0, value_states.shape[3]))
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new tokens; returns what the queries may look at.

        New rows look at nothing but themselves, so a prefill gets back what it gave.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        plan = self._cache.plan
        self._reserve(plan.first_slot + len(key_states), plan)
        written = [
            _write(held, new, plan)
            for held, new in ((self.keys, key_states), (self.values, value_states))
        ]
        return (key_states, value_states) if plan.places is None else (written[0], written[1])

    def move(self, source: int, target: int, length: int) -> None:
        """See SlotCache."""
        for held in (self.keys, self.values):
            held[target, :, :length] = held[source, :, :length]

    def clear(self) -> None:
        """See SlotCache."""
        if self.is_initialized:
            self.lazy_initialization(self.keys, self.values)

    def wipe(self, slot: int) -> None:
        """See SlotCache."""
        self.keys[slot] = 0
        self.values[slot] = 0

    def _reserve(self, slots: int, plan: Pass) -> None:
        """Grow, one tensor at a time: a failure between the two leaves both readable."""
        self.keys = _grown(self.keys, slots, plan)
        self.values = _grown(self.values, slots, plan)

    def get_seq_length(self) -> int:
        """0, as if it were empty: positions and masks are given to the model."""
        return 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Asked in a prefill only, which looks at itself."""
        return query_length, 0

    def get_max_length(self) -> int:
        """No maximum."""
        return -1


def _write(held: torch.Tensor, new: torch.Tensor, plan: Pass) -> torch.Tensor:
    rows = len(new)
    if plan.places is None:
        held[plan.first_slot : plan.first_slot + rows, :, : new.shape[2]] = new
    else:
        index = plan.places.view(rows, 1, 1, 1).expand_as(new)
        held[:rows].scatter_(2, index, new)
    return held[:rows, :, : plan.width]


def _grown(held: torch.Tensor, slots: int, plan: Pass) -> torch.Tensor:
    """The tensor, or a bigger copy, no wider than the rows can become."""
    held_slots, heads, held_places, size = held.shape
    if slots <= held_slots and plan.width <= held_places:
        return held
    wanted = max(FIRST_PLACES, int(GROWTH * held_places)) if plan.width > held_places else 0
    places = max(plan.width, min(plan.capacity, max(wanted, held_places)))
    more = min(int(GROWTH * held_slots), plan.max_cells // places)
    slots = max(slots, more if slots > held_slots else min(held_slots, more))
    grown = held.new_zeros((slots, heads, places, size))
    kept_slots, kept_places = min(slots, held_slots), min(places, held_places)
    grown[:kept_slots, :, :kept_places] = held[:kept_slots, :, :kept_places]
    return grown
