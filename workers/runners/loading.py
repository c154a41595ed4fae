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
from textmill.workers.runners.files import files_for_transformers
from textmill.workers.runners.quantizing import quantize
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
    with files_for_transformers(checkpoint) as files:
        tokenizer = load_tokenizer(checkpoint, files)
    weights = load_weights(request, checkpoint, auto_class, outcome=outcome, unused=unused)
    return Loaded(weights.model, tokenizer.fit(weights.model), weights.device, checkpoint)


def open_model(request: ModelRequest) -> Checkpoint:
    """The model's files, of an architecture that does the task; raises ModelLoadError."""
    devices.choose_dtype(request.dtype, devices.choose_device(request.device))
    checkpoint = open_checkpoint(request.model, request.revision, permits=request.permits)
    require_architecture(checkpoint, get_task(request.task))
    _refuse_code(checkpoint)
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
    with files_for_transformers(checkpoint) as files:
        model, missing = _read_weights(checkpoint, files, auto_class, dtype)
    lacking = sorted(name for name in missing if unused is None or unused not in name)
    if lacking:
        raise ModelLoadError(
            f"model {checkpoint.name!r} lacks weights that {checkpoint.architecture} needs, so its "
            f"{outcome} would be random: {', '.join(lacking[:5])}"
        )
    model.eval()
    if request.dtype == devices.INT8:
        quantize(model)
    devices.run_on_device(device, lambda: model.to(device))
    return Weights(model, device, checkpoint)


def estimate_bytes(request: ModelRequest) -> int:
    """What the weights will take on the device; 0 if they are not on this machine yet."""
    device = devices.choose_device(request.device)
    dtype = devices.choose_dtype(request.dtype, device)
    try:
        checkpoint = open_checkpoint(
            request.model, request.revision, download=False, permits=request.permits
        )
    except ModelLoadError:
        return 0
    return checkpoint.parameters * dtype.itemsize


def _refuse_code(checkpoint: Checkpoint) -> None:
    """A model that transformers knows is loaded without the code that lies beside it."""
    kind = checkpoint.config.get("model_type")
    if checkpoint.permits.remote_code or kind in transformers.CONFIG_MAPPING:
        return
    if checkpoint.gguf is None and checkpoint.config.get("auto_map"):
        code = ", ".join(sorted(path.name for path in checkpoint.folder.glob("*.py")))
        raise ModelLoadError(
            f"model {checkpoint.name!r} of type {kind!r} needs Python code of its own "
            f"({code or 'which is not here'}), and such code is not run because it can do "
            "anything; if you trust it, submit with --trust-remote-code to workers that have "
            "TEXTMILL_TRUST_REMOTE_CODE=1"
        )


def _read_weights(
    checkpoint: Checkpoint, files: dict[str, Any], auto_class: Any, dtype: torch.dtype
) -> tuple[Any, set[str]]:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if checkpoint.gguf is None:
        format_options: dict[str, Any] = {"use_safetensors": not checkpoint.pickled}
    else:
        # Else it would fetch a kernel from the hub, which is code, where the package for it is.
        format_options = {"quantization_config": transformers.GgufConfig(dequantize=True)}
    try:
        model, info = auto_class.from_pretrained(
            **files, **format_options, dtype=dtype, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        raise ModelLoadError(f"model {checkpoint.name!r} cannot be loaded: {error}") from error
    return model, set(info["missing_keys"])
