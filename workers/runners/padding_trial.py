"""Whether a model's outputs are the same beside longer rows: asked of the model on a few tokens.

Models that mix the tokens of a row without a look at the mask (FNet), or by convolutions over it
(ConvBERT), give a text other outputs where padding follows it.
"""

from __future__ import annotations

import logging
from typing import Any

import torch

from textmill.workers.items import DeviceLostError, DeviceOutOfMemoryError
from textmill.workers.runners.padding import pack_ids
from textmill.workers.runners.quantizing import exact_inputs

log = logging.getLogger(__name__)

TEXTS = ("a", "a a a a a a a a a")
TOLERANCE = {torch.float32: 1e-3}  # of the largest number
COARSE_TOLERANCE = 5e-2  # for dtypes of fewer digits


@torch.inference_mode()
def same_with_padding(model: Any, tokenizer: Any, device: torch.device) -> bool:
    """False if a short row's first output is another one when it is padded."""
    short, long = tokenizer.encode(TEXTS)
    if not 0 < len(short) < len(long):
        return True
    try:
        with exact_inputs(model):
            alone = _first_row(model, [short], tokenizer.pad_id, device)
            padded = _first_row(model, [short, long], tokenizer.pad_id, device)[: len(alone)]
    except (DeviceLostError, DeviceOutOfMemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # the warm-up that follows says it better
        log.info("padding was not tried with %s: %s", type(model).__name__, error)
        return True
    tolerance = TOLERANCE.get(alone.dtype, COARSE_TOLERANCE) * alone.abs().max()
    same = bool(((padded - alone).abs() <= tolerance).all())
    if not same:
        log.info("%s gets batches of one length: padding changes it", type(model).__name__)
    return same


def _first_row(model: Any, rows: list[list[int]], pad_id: int, device: torch.device) -> Any:
    """Scores of the first row, or of each of its tokens, as the model's first output."""
    return model(**pack_ids(rows, pad_id, device))[0][0]
