"""What the runners of one loaded model share: the device it lies on, and its memory.

Imports torch only when there is a model, so that a task in one file (options and runner) can
be registered on a machine without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from textmill.workers.items import ModelRequest

if TYPE_CHECKING:
    import torch

    from textmill.workers.runners.loading import Loaded


class DeviceRunner:
    """A model on one device. What is done with it is the subclasses' business."""

    def __init__(self, model: Any, device: torch.device) -> None:
        from textmill.workers.runners import devices, quantizing

        self._model = model
        self._device = device
        self.max_batch_tokens = devices.default_batch_tokens(device)
        self.memory_bytes = quantizing.memory_bytes(model)

    @staticmethod
    def estimate_bytes(request: ModelRequest) -> int:
        """What the weights will take on the device; 0 if they are not on this machine yet."""
        from textmill.workers.runners import loading

        return loading.estimate_bytes(request)

    def close(self) -> None:
        """Free the model; outputs can still be joined."""
        from textmill.workers.runners import devices

        self._model = None
        devices.release_memory(self._device)


class ModelRunner(DeviceRunner):
    """A model that comes with a tokenizer of the usual kind, on one device."""

    PADS: ClassVar[bool] = True
    """Whether texts of several lengths are padded to share a batch, if the model takes it."""

    def __init__(self, loaded: Loaded) -> None:
        from textmill.workers.runners import devices
        from textmill.workers.runners.padding_trial import same_with_padding

        super().__init__(loaded.model, loaded.device)
        self._tokenizer = loaded.tokenizer
        self.takes_padding = not self.PADS or devices.run_on_device(
            loaded.device, lambda: same_with_padding(loaded.model, loaded.tokenizer, loaded.device)
        )
