"""A checked checkpoint as a model and tokenizer on a device: what the runners' ``load`` share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import transformers

from textmill.core.checkpoints import Checkpoint, open_checkpoint, require_architecture
from textmill.core.errors import ModelLoadError
from textmill.core.tasks import get_task
from textmill.workers.items import ModelRequest
from textmill.workers.runners import devices
from textmill.workers.runners.tokenizing import TextTokenizer, load_tokenizer


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model on its device, with its tokenizer and the files it came from."""

    model: Any
    tokenizer: TextTokenizer
    device: torch.device
    checkpoint: Checkpoint


@dataclass(frozen=True, slots=True)
class Weights:
    """A model on its device, and the files it came from."""

    model: Any
    device: torch.device
    checkpoint: Checkpoint


def load_model(
    request: ModelRequest, auto_class: Any, *, outcome: str, unused: str | None = None
) -> Loaded:
    """Load by one of transformers' Auto classes; raises ModelLoadError.

    ``outcome`` says what missing weights would make random, such as ``labels``; weights that have
    ``unused`` in their name may be missing.
    """
    checkpoint = open_model(request)
    tokenizer = load_tokenizer(checkpoint)
    weights = load_weights(request, checkpoint, auto_class, outcome=outcome, unused=unused)
    return Loaded(weights.model, tokenizer.fit(weights.model), weights.device, checkpoint)


def open_model(request: ModelRequest) -> Checkpoint:
    """The model's files, of an architecture that does the task; raises ModelLoadError."""
    devices.choose_dtype(request.dtype, devices.choose_device(request.device))
    checkpoint = open_checkpoint(request.model, request.revision)
    require_architecture(checkpoint, get_task(request.task))
    return checkpoint


def load_weights(
    request: ModelRequest,
    checkpoint: Checkpoint,
    auto_class: Any,
    *,
    outcome: str,
    unused: str | None = None,
) -> Weights:
    """The model alone, as ``load_model`` has it; raises ModelLoadError."""
    device = devices.choose_device(request.device)
    dtype = devices.choose_dtype(request.dtype, device)
    model, missing = _read_weights(checkpoint, auto_class, dtype)
    lacking = sorted(name for name in missing if unused is None or unused not in name)
    if lacking:
        raise ModelLoadError(
            f"model {checkpoint.name!r} lacks weights that {checkpoint.architecture} needs, so its "
            f"{outcome} would be random: {', '.join(lacking[:5])}"
        )
    model.eval()
    devices.run_on_device(device, lambda: model.to(device))
    return Weights(model, device, checkpoint)


def estimate_bytes(request: ModelRequest) -> int:
    """What the weights will take on the device; 0 if they are not on this machine yet."""
    device = devices.choose_device(request.device)
    dtype = devices.choose_dtype(request.dtype, device)
    try:
        checkpoint = open_checkpoint(request.model, request.revision, download=False)
    except ModelLoadError:
        return 0
    return checkpoint.parameters * dtype.itemsize


def _read_weights(
    checkpoint: Checkpoint, auto_class: Any, dtype: torch.dtype
) -> tuple[Any, set[str]]:
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
    return model, set(info["missing_keys"])
