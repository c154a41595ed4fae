"""A checked checkpoint into memory, as the class that a task's runner names."""

from __future__ import annotations

from typing import Any

import torch
import transformers

from textmill.core.checkpoints import Checkpoint, open_checkpoint
from textmill.core.errors import ModelLoadError
from textmill.workers.items import ModelRequest
from textmill.workers.runners import devices


def load_model(auto_class: Any, checkpoint: Checkpoint, dtype: torch.dtype, outputs: str) -> Any:
    """The model on the CPU, ready to infer; raises ModelLoadError.

    ``outputs`` is what would be random if weights were missing.
    """
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        model, info = auto_class.from_pretrained(
            checkpoint.folder,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        raise ModelLoadError(f"model {checkpoint.name!r} cannot be loaded: {error}") from error
    if info["missing_keys"]:
        raise ModelLoadError(
            f"model {checkpoint.name!r} lacks weights that {checkpoint.architecture} needs, so its "
            f"{outputs} would be random: {', '.join(sorted(info['missing_keys'])[:5])}"
        )
    return model.eval()


def estimate_bytes(request: ModelRequest) -> int:
    """What the weights will take on the device; 0 if they are not on this machine yet."""
    device = devices.choose_device(request.device)
    dtype = devices.choose_dtype(request.dtype, device)
    try:
        checkpoint = open_checkpoint(request.model, request.revision, download=False)
    except ModelLoadError:
        return 0
    return checkpoint.parameters * dtype.itemsize
