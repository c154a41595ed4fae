"""Tasks that two kinds of models can do: the class of a job's model decides which runner it gets.

One that writes text goes on from a prompt; the other was trained for the task.
"""

from __future__ import annotations

from typing import ClassVar

from textmill.core.checkpoints import open_checkpoint
from textmill.core.generators import is_generator
from textmill.workers.items import AnyRunner, ModelRequest
from textmill.workers.registry import RunnerClass
from textmill.workers.runners import loading
from textmill.workers.runners.likelihood import LikelihoodRunner
from textmill.workers.runners.prompted import PromptedSummarization
from textmill.workers.runners.prompted_translation import PromptedTranslation
from textmill.workers.runners.summarization import SummarizationRunner
from textmill.workers.runners.translation import TranslationRunner
from textmill.workers.runners.zero_shot import ZeroShotRunner


class ByModel:
    """What such a task names as its runner."""

    PROMPTED: ClassVar[RunnerClass]
    TRAINED: ClassVar[RunnerClass]

    @classmethod
    def load(cls, request: ModelRequest) -> AnyRunner:
        """The runner for this model; raises ModelLoadError."""
        checkpoint = open_checkpoint(request.model, request.revision, permits=request.permits)
        chosen = cls.PROMPTED if is_generator(checkpoint.config) else cls.TRAINED
        return chosen.load(request)

    @staticmethod
    def estimate_bytes(request: ModelRequest) -> int:
        """What the weights will take on the device; 0 if they are not on this machine yet."""
        return loading.estimate_bytes(request)


class ZeroShot(ByModel):
    """Labels of one's own: as hypotheses to a model of inference, or as answers by likelihood."""

    PROMPTED = LikelihoodRunner
    TRAINED = ZeroShotRunner


class Translation(ByModel):
    """Texts in another language."""

    PROMPTED = PromptedTranslation
    TRAINED = TranslationRunner


class Summarization(ByModel):
    """Short texts for long ones."""

    PROMPTED = PromptedSummarization
    TRAINED = SummarizationRunner
