"""Zero-shot classification by whatever model a job names: what its class is decides how.

A model of natural language inference weighs each label as a hypothesis (``zero_shot``), one that
writes text as an answer (``likelihood``).
"""

from __future__ import annotations

from textmill.core.checkpoints import open_checkpoint
from textmill.core.generators import is_generator
from textmill.workers.items import ModelRequest, Runner
from textmill.workers.runners import loading
from textmill.workers.runners.likelihood import LikelihoodRunner
from textmill.workers.runners.zero_shot import ZeroShotRunner


class OwnLabels:
    """What the task names as its runner."""

    @staticmethod
    def load(request: ModelRequest) -> Runner:
        """The runner for this model; raises ModelLoadError."""
        checkpoint = open_checkpoint(request.model, request.revision, permits=request.permits)
        if is_generator(checkpoint.config):
            return LikelihoodRunner.load(request)
        return ZeroShotRunner.load(request)

    @staticmethod
    def estimate_bytes(request: ModelRequest) -> int:
        """What the weights will take on the device; 0 if they are not on this machine yet."""
        return loading.estimate_bytes(request)
