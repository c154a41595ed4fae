"""Linear layers in int8 on the CPU: weights kept in 8 bits, inputs rounded to 8 bits as they come.

A layer's inputs share one scale, that of the largest number in the batch, so outputs depend on
what else is in it. A scale for each token would not depend on it, but torch's kernels for that are
far slower than fp32 on a CPU without instructions for int8 (docs/models.md has figures). torch has
marked the tensors used here as deprecated and has nothing in their place yet.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from textmill.core.errors import ModelLoadError

INT8_LIMIT = 127


class Int8Linear(torch.nn.Module):
    """What a Linear layer does, in int8; fp32 in and out."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        scales = (weight.abs().amax(dim=1) / INT8_LIMIT).clamp(min=torch.finfo().tiny).double()
        zeros = torch.zeros(len(scales), dtype=torch.long)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that they are deprecated
            rounded = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
        bias = None if linear.bias is None else linear.bias.detach().float()
        self._packed: Any = torch.ops.quantized.linear_prepack(rounded, bias)
        # Without numbers: models ask for a weight's shape, and T5 for its dtype.
        self.weight = torch.empty(weight.shape, dtype=torch.int8, device="meta")
        self.packed_bytes = weight.numel() + 8 * len(scales)
        self.rounds_inputs = True

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(…, in) to (…, out)."""
        if not self.rounds_inputs:
            weight, bias = torch.ops.quantized.linear_unpack(self._packed)
            return torch.nn.functional.linear(inputs, weight.dequantize(), bias)
        # The reduced range keeps sums of products within 16 bits, where a CPU has no VNNI.
        found: torch.Tensor = torch.ops.quantized.linear_dynamic(inputs, self._packed, True)
        return found


def quantize(model: torch.nn.Module) -> None:
    """Replace every Linear layer of the model, in place; raises ModelLoadError if torch cannot."""
    try:
        _replace_linears(model)
    except (AttributeError, RuntimeError) as error:  # torch was built without, or has removed it
        raise ModelLoadError(f"this torch ({torch.__version__}) has no int8: {error}") from error


def _replace_linears(model: torch.nn.Module) -> None:
    for name, child in list(model.named_children()):
        if type(child) is torch.nn.Linear:
            setattr(model, name, Int8Linear(child))
        else:
            _replace_linears(child)


@contextmanager
def exact_inputs(model: torch.nn.Module) -> Iterator[None]:
    """Leave inputs unrounded, slowly: outputs do not depend on the batch, and can be compared."""
    layers = _int8_layers(model)
    for layer in layers:
        layer.rounds_inputs = False
    try:
        yield
    finally:
        for layer in layers:
            layer.rounds_inputs = True


def is_quantized(model: torch.nn.Module) -> bool:
    """Whether the model has layers in int8."""
    return bool(_int8_layers(model))


def memory_bytes(model: Any) -> int:
    """What a model's weights take, layers in int8 included."""
    packed = sum(layer.packed_bytes for layer in _int8_layers(model))
    return int(model.get_memory_footprint()) + packed


def _int8_layers(model: torch.nn.Module) -> list[Int8Linear]:
    return [module for module in model.modules() if isinstance(module, Int8Linear)]
