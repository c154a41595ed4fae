"""Whether a model's outputs are the same in slots: asked of its config, then of the model."""

from __future__ import annotations

import logging
from typing import Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

from textmill.workers.items import DeviceLostError, DeviceOutOfMemoryError
from textmill.workers.runners.decoding.forward import SlotModel
from textmill.workers.runners.quantizing import exact_inputs

log = logging.getLogger(__name__)

ATTENTIONS = ("sdpa", "eager")  # those whose masks forward.py makes
WINDOWS = ("sliding_window", "window_size", "attention_chunk_size", "attention_window_size")
TRIAL_ROWS = ([3, 5, 7, 4, 6, 3, 5], [5, 3, 4])  # token ids; every vocabulary has them
TRIAL_STEPS = 3
TOLERANCE = {torch.float32: 1e-3}  # of the largest logit
COARSE_TOLERANCE = 5e-2  # for dtypes of fewer digits


@torch.inference_mode()
def can_use_slots(model: Any, device: torch.device) -> bool:
    """True if rows of this model may share a SlotCache. Runs the model on a few tokens."""
    if not keeps_plain_keys(model):
        return False
    try:
        with exact_inputs(model):
            return _agrees_without_cache(model, device)
    except (DeviceLostError, DeviceOutOfMemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        log.info("%s is decoded by generate: %s", type(model).__name__, error)
        return False


def keeps_plain_keys(model: Any) -> bool:
    """Every layer keeps keys and values of all tokens, and looks at all of them.

    A trial of a few tokens would not show a window, so its mention is enough.
    """
    config = model.config.get_text_config()
    if model.config._attn_implementation not in ATTENTIONS or model.config.is_encoder_decoder:
        return False
    if any(getattr(config, name, None) is not None for name in WINDOWS):
        return False
    try:
        layers = DynamicCache(config=config).layers
    except (AttributeError, KeyError, TypeError):
        return False
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


def _agrees_without_cache(model: Any, device: torch.device) -> bool:
    """Two rows of unequal length, prefilled and stepped in slots, against each row alone."""
    slots = SlotModel(model, device)
    rows = [list(row) for row in TRIAL_ROWS]
    logits = slots.prefill(rows, 0, capacity=16, max_cells=32)
    for step in range(TRIAL_STEPS):
        if not all(_close(model, row, line) for row, line in zip(rows, logits, strict=True)):
            log.info("%s is decoded by generate: its logits differ", type(model).__name__)
            return False
        for row in rows:
            row.append(3 + step)
        lengths = [len(row) - 1 for row in rows]
        logits = slots.step([row[-1] for row in rows], lengths, capacity=16, max_cells=32)
    return True


def _close(model: Any, row: list[int], line: torch.Tensor) -> bool:
    expected = model(input_ids=torch.tensor([row]).to(line.device), use_cache=False).logits[0, -1]
    tolerance = TOLERANCE.get(line.dtype, COARSE_TOLERANCE)
    finite = expected.isfinite()
    apart = (line - expected)[finite].abs().max()
    return bool(apart <= tolerance * expected[finite].abs().max())
