"""What can be known of a model before anything is enqueued, on a machine without torch.

What is here is looked into, so that a wrong model costs no device time: a folder, a GGUF file, and
of a hub model what the local cache has. The rest is left to the worker.
"""

from __future__ import annotations

from pathlib import Path

from textmill.core import hub
from textmill.core.checkpoints import (
    Checkpoint,
    Permits,
    open_checkpoint,
    read_config,
    require_architecture,
)
from textmill.core.errors import InvalidJobError, ModelLoadError
from textmill.core.gguf import SUFFIX
from textmill.core.jobs import JobSpec
from textmill.core.params import TaskParams
from textmill.core.settings import Settings
from textmill.core.tasks import Task


def check_model(spec: JobSpec, task: Task, params: TaskParams, settings: Settings) -> str | None:
    """The commit that a hub model's revision means now, if this machine can find it out.

    Raises InvalidJobError if the model cannot serve the task. A path that does not exist here is
    an error with the embedded services, whose worker is on this machine; with a database of one's
    own it may exist where the workers are.
    """
    if not spec.model.strip():
        raise InvalidJobError("the model is empty; expected a folder or a name on the hub")
    if task.architecture is None:
        return None
    here = settings.database_url is None
    try:
        if Path(spec.model).expanduser().exists():
            _check(_open(spec, spec.revision), task, params)
        elif not hub.is_path(spec.model):
            return _check_hub_model(spec, task, params, here=here)
        elif here:
            raise InvalidJobError(_absent(spec.model))
    except ModelLoadError as error:
        raise InvalidJobError(str(error)) from None
    return None


def _open(spec: JobSpec, revision: str | None) -> Checkpoint:
    permits = Permits(spec.allow_pickle, spec.trust_remote_code)
    return open_checkpoint(spec.model, revision, download=False, permits=permits)


def _check_hub_model(spec: JobSpec, task: Task, params: TaskParams, *, here: bool) -> str | None:
    """``here``: the worker is on this machine, so what it may not fetch has to be in the cache."""
    source = hub.find_source(spec.model)
    commit = hub.find_commit(source, spec.revision)
    cached = hub.cached_snapshot(source, commit)
    if (here and hub.is_offline()) or (cached and (cached / str(source.file)).is_file()):
        _check(_open(spec, commit or spec.revision), task, params)
    elif cached is not None and (cached / "config.json").is_file():
        # The weights may not be here yet, or never: the worker's machine is another one.
        _check(Checkpoint(spec.model, cached, read_config(spec.model, cached), 0), task, params)
    return commit


def _check(checkpoint: Checkpoint, task: Task, params: TaskParams) -> None:
    require_architecture(checkpoint, task)
    params.check_model(checkpoint.name, checkpoint.folder, checkpoint.config)


def _absent(model: str) -> str:
    if model.lower().endswith(SUFFIX):
        return (
            f"GGUF file {model!r} does not exist; expected a file of this machine, or of the hub "
            f"ORGANISATION/MODEL/FILE{SUFFIX}"
        )
    return (
        f"model folder {model!r} does not exist; expected a folder with config.json and "
        "model.safetensors, a GGUF file, or a hub name such as ORGANISATION/MODEL"
    )
