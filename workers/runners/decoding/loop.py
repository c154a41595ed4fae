"""Generation for many rows at once: the way that the model at hand allows, behind one face.

Which rows are let in, and after which failures they start anew, is the engine's business.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from textmill.workers.items import Step
from textmill.workers.runners import devices
from textmill.workers.runners.decoding.generate_loop import GenerateLoop
from textmill.workers.runners.decoding.requests import DecodeRequest
from textmill.workers.runners.decoding.slot_loop import SlotLoop
from textmill.workers.runners.decoding.support import can_use_slots


class DecodeLoop:
    """The active rows of one model; used by one thread.

    Rows share forward passes in a cache with slots (SlotLoop). A model whose state is not plain
    keys and values of all tokens (sliding windows, recurrence), or that does not take our masks,
    is given to transformers' ``generate`` instead (GenerateLoop): slower, same outputs.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        device: torch.device,
        *,
        max_held_tokens: int,
        prefill_tokens: int | None = None,
    ) -> None:
        """``tokenizer`` is transformers'. ``max_held_tokens`` bounds the cache: rows x longest.

        ``prefill_tokens`` bounds a prefill, padding counted; a longer prompt goes alone. Runs the
        model on a few tokens, to see whether its outputs in slots are those without a cache.
        """
        self._device = device
        self.in_slots = devices.run_on_device(device, lambda: can_use_slots(model, device))
        self._rows: SlotLoop | GenerateLoop
        if self.in_slots:
            self._rows = SlotLoop(
                model,
                tokenizer,
                device,
                max_held_tokens=max_held_tokens,
                prefill_tokens=prefill_tokens or devices.default_batch_tokens(device),
            )
        else:
            self._rows = GenerateLoop(model, tokenizer, device)

    def admit(self, requests: Mapping[int, DecodeRequest]) -> None:
        """Take rows in, under handles of the caller's choice; nothing is computed yet."""
        self._rows.admit(requests)

    def step(self) -> Step:
        """One forward pass; raises what ``devices.run_on_device`` does."""
        return devices.run_on_device(self._device, self._rows.step)

    def drop(self, handles: Iterable[int]) -> None:
        """Forget rows, whatever they have come to."""
        self._rows.drop(handles)
