"""What the runners of one loaded model share: the device it lies on, and its memory."""

from __future__ import annotations

from typing import Any

import torch

from textmill.workers.items import ModelRequest
from textmill.workers.runners import devices, loading
from textmill.workers.runners.loading import Loaded


class DeviceRunner:
    """A model on one device. What is done with it is the subclasses' business."""

    def __init__(self, model: Any, device: torch.device) -> None:
        self._model = model
        self._device = device
        self.max_batch_tokens = devices.default_batch_tokens(device)
        self.memory_bytes = int(model.get_memory_footprint())

    @staticmethod
    def estimate_bytes(request: ModelRequest) -> int:
        """What the weights will take on the device; 0 if they are not on this machine yet."""
        return loading.estimate_bytes(request)

    def close(self) -> None:
        """Free the model; outputs can still be joined."""
        self._model = None
        devices.release_memory(self._device)


class ModelRunner(DeviceRunner):
    """A model that comes with a tokenizer of the usual kind, on one device."""

    def __init__(self, loaded: Loaded) -> None:
        super().__init__(loaded.model, loaded.device)
        self._tokenizer = loaded.tokenizer
