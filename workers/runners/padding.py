"""Rows of token ids of uneven lengths as the padded tensors a model takes."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def pad_rows(rows: Sequence[Sequence[int]], padding: int, device: torch.device) -> torch.Tensor:
    """The rows padded on the right to one length, with each row's own length as the last column.

    The lengths travel with the ids, so that a batch needs a single copy to the device.
    """
    longest = max(map(len, rows))
    packed = torch.tensor([[*row, *[padding] * (longest - len(row)), len(row)] for row in rows])
    if device.type == "cuda":
        packed = packed.pin_memory()
    return packed.to(device, non_blocking=True)


def pack_ids(
    rows: Sequence[Sequence[int]], pad_id: int, device: torch.device
) -> dict[str, torch.Tensor]:
    """``input_ids`` and ``attention_mask`` of a batch, both (rows, longest).

    The mask is of numbers, as tokenizers make it: some models subtract it from 1.
    """
    packed = pad_rows(rows, pad_id, device)
    places = torch.arange(packed.shape[1] - 1, device=device)
    mask = (places < packed[:, -1:]).to(packed.dtype)
    return {"input_ids": packed[:, :-1], "attention_mask": mask}
