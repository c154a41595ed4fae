"""Which device and dtype a model gets, and how much memory there is.

``python -m textmill.workers.runners.devices`` prints one device a line, for a supervisor that must
not import torch itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import psutil
import torch

from textmill.core.errors import ModelLoadError
from textmill.workers.items import DeviceLostError, DeviceOutOfMemoryError

Result = TypeVar("Result")

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

INT8 = "int8"  # loaded as fp32, then ``quantizing`` takes over

MAX_BATCH_TOKENS = {"cpu": 1024, "cuda": 32768, "mps": 8192}
"""Padded tokens per batch by kind of device; benchmarks/engine_vs_pipeline.py measures others."""


def list_devices() -> list[str]:
    """Every accelerator of this machine, or the CPU if it has none."""
    if torch.cuda.is_available():
        return [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return ["mps"] if torch.backends.mps.is_available() else ["cpu"]


def choose_device(name: str) -> torch.device:
    """The device of this name; ``auto`` is the first accelerator, else the CPU."""
    found = list_devices()
    try:
        device = torch.device(found[0] if name == "auto" else name)
    except RuntimeError:
        raise ModelLoadError(
            f"unknown device {name!r}; expected auto, cpu, cuda, cuda:N or mps"
        ) from None
    kinds = {torch.device(other).type for other in found} | {"cpu"}
    numbered = device.type == "cuda" and device.index is not None
    if device.type not in kinds or (numbered and str(device) not in found):
        raise ModelLoadError(f"this machine has no device {name!r}; it has: {', '.join(found)}")
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype of this name; ``auto`` is bf16 on a CUDA device that computes in it, else fp32."""
    if name == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if fast else torch.float32
    if name == INT8:
        if device.type != "cpu":
            raise ModelLoadError(
                f"dtype int8 is for the CPU, and this worker has {device}; take bf16 or fp16"
            )
        return torch.float32
    if name not in DTYPES:
        raise ModelLoadError(f"unknown dtype {name!r}; expected auto, {', '.join(DTYPES)}, {INT8}")
    return DTYPES[name]


def default_batch_tokens(device: torch.device) -> int:
    """How many padded tokens make a good batch on this kind of device."""
    return MAX_BATCH_TOKENS.get(device.type, MAX_BATCH_TOKENS["cpu"])


def free_memory_bytes(device: torch.device) -> int:
    """What is free on the device now, for weights and batches."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return int(psutil.virtual_memory().available)


def release_memory(device: torch.device) -> None:
    """Give cached blocks back to the device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def run_on_device(device: torch.device, compute: Callable[[], Result]) -> Result:
    """``compute()``; raises what the engine understands.

    DeviceOutOfMemoryError is raised after the failed pass's traceback, which holds its tensors, is
    gone and the cache was given back, so that a smaller batch finds the memory free.
    """
    try:
        return compute()
    except RuntimeError as error:
        failure = _map_error(error, device)
    if isinstance(failure, DeviceOutOfMemoryError):
        release_memory(device)
    raise failure


def _map_error(error: RuntimeError, device: torch.device) -> Exception:
    """What a RuntimeError of a forward pass means to the engine.

    Out of memory is told by type, or by text where torch has no type for it (the CPU's allocator).
    Any other CUDA error leaves the device unusable until the process ends:
    https://docs.pytorch.org/docs/stable/notes/cuda.html
    """
    text = str(error).partition("\n")[0]
    if isinstance(error, torch.OutOfMemoryError) or _says_out_of_memory(text):
        return DeviceOutOfMemoryError(text)
    if isinstance(error, torch.AcceleratorError) or "CUDA error" in text:
        return DeviceLostError(f"device {device} failed: {text}")
    return error


def _says_out_of_memory(text: str) -> bool:
    # The last is what cuBLAS and cuDNN say where they find no room for their own workspace.
    return any(
        words in text for words in ("out of memory", "can't allocate memory", "_ALLOC_FAILED")
    )


if __name__ == "__main__":
    print("\n".join(list_devices()))
