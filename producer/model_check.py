"""What can be known of a model before anything is enqueued, on a machine without torch.

A hub name is left to the worker; a folder that is here is looked into, so that a wrong one costs
no device time.
"""

from __future__ import annotations

from pathlib import Path

from textmill.core.checkpoints import open_checkpoint, require_architecture
from textmill.core.errors import InvalidJobError, ModelLoadError
from textmill.core.params import TaskParams
from textmill.core.settings import Settings
from textmill.core.tasks import Task


def check_model(
    model: str, revision: str | None, task: Task, params: TaskParams, settings: Settings
) -> None:
    """Raise InvalidJobError if the model is a folder that cannot serve the task.

    A path that does not exist here is an error with the embedded services, whose worker is on this
    machine; with a database of one's own it may exist where the workers are.
    """
    if not model.strip():
        raise InvalidJobError("the model is empty; expected a folder or a name on the hub")
    if task.architecture is None:
        return
    path = Path(model).expanduser()
    if path.exists():
        try:
            checkpoint = open_checkpoint(model, revision, download=False)
            require_architecture(checkpoint, task)
            params.check_model(model, checkpoint.folder, checkpoint.config)
        except ModelLoadError as error:
            raise InvalidJobError(str(error)) from None
    elif _is_path(model) and settings.database_url is None:
        raise InvalidJobError(
            f"model folder {model!r} does not exist; expected a folder with config.json and "
            "model.safetensors, or a hub name such as ORGANISATION/MODEL"
        )


def _is_path(model: str) -> bool:
    """A hub name has at most one slash, and does not start like a path."""
    return model.startswith(("/", ".", "~")) or model.count("/") > 1 or model.endswith("/")
