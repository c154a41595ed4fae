"""Forward passes of a causal model over the slot cache: prompts of new rows, one token of all rows.

Masks and positions are given to the model, which is told nothing of rows coming and going.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from textmill.workers.runners.decoding.cache import Pass, SlotCache
from textmill.workers.runners.padding import pad_rows


class SlotModel:
    """A model and its slot cache; callers keep the rows' lengths, and are in inference mode."""

    def __init__(self, model: Any, device: torch.device) -> None:
        self._model = model
        self._device = device
        self._head = model.get_output_embeddings()
        self._adds_mask = model.config._attn_implementation == "eager"
        self.cache = SlotCache(model.config.get_text_config().num_hidden_layers)

    def prefill(
        self, prompts: Sequence[Sequence[int]], first_slot: int, capacity: int, max_cells: int
    ) -> torch.Tensor:
        """Run new rows into slots from ``first_slot`` on; logits (rows, vocabulary).

        Padding is on the right, where no token of the row looks.
        """
        packed = pad_rows(prompts, 0, self._device)
        ids, lengths = packed[:, :-1], packed[:, -1]
        width = ids.shape[1]
        self.cache.plan = Pass(
            first_slot, None, width=width, capacity=capacity, max_cells=max_cells
        )
        positions = torch.arange(width, device=self._device).expand_as(ids)
        with self._last_only(lengths - 1):
            logits = self._run(ids, positions, None)
        return logits[:, 0] if logits.shape[1] == 1 else _pick(logits, lengths - 1)[:, 0]

    def step(
        self, ids: Sequence[int], lengths: Sequence[int], capacity: int, max_cells: int
    ) -> torch.Tensor:
        """One token more for the rows in slots 0 on; logits (rows, vocabulary)."""
        width = max(lengths) + 1
        packed = torch.tensor([ids, lengths]).to(self._device)
        places = packed[1]
        self.cache.plan = Pass(0, places, width=width, capacity=capacity, max_cells=max_cells)
        seen = torch.arange(width, device=self._device) <= places[:, None]
        return self._run(packed[0][:, None], places[:, None], self._mask(seen))[:, 0]

    def _run(
        self, ids: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        logits: torch.Tensor = self._model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
        ).logits
        return logits

    def _mask(self, seen: torch.Tensor) -> torch.Tensor:
        """(rows, places) as the model's attention takes it: (rows, 1, 1, places)."""
        if not self._adds_mask:
            return seen[:, None, None]
        dtype = self._model.dtype
        hidden = torch.zeros_like(seen, dtype=dtype)
        return hidden.masked_fill(~seen, torch.finfo(dtype).min)[:, None, None]

    @contextmanager
    def _last_only(self, places: torch.Tensor) -> Iterator[None]:
        """Let the head see each row's last token only: a prompt's other logits are many, unused."""
        if self._head is None:
            yield
            return
        handle = self._head.register_forward_pre_hook(lambda _, args: (_pick(args[0], places),))
        try:
            yield
        finally:
            handle.remove()


def _pick(states: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Each row's line at its own place: (rows, length, size) to (rows, 1, size)."""
    return states[torch.arange(len(places), device=places.device), places][:, None]
