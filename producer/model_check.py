"""What can be known of a model before anything is enqueued, on a machine without torch.

What is here is looked into, so that a wrong model costs no device time: a folder, a GGUF file, and
of a hub model what the local cache has. The rest is left to the worker.
"""

from __future__ import annotations

from dataclasses import dataclass
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
from textmill.core.generators import is_generator
from textmill.core.gguf import SUFFIX
from textmill.core.jobs import JobSpec
from textmill.core.params import TaskParams
from textmill.core.settings import Settings
from textmill.core.tasks import Task

TOKENIZERS = ("*token*", "*vocab*", "*.model", "*.spm", "*.bpe*", "spiece*", "merges.txt")


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What this machine can find out of a model."""

    version: str | None = None  # the commit that a hub model's revision means now
    writes_text: bool = False  # its class goes on from a prompt


def check_model(spec: JobSpec, task: Task, params: TaskParams, settings: Settings) -> ModelFacts:
    """What is known of the job's model before it is loaded.

    Raises InvalidJobError if the model cannot serve the task. A path that does not exist here is
    an error with the embedded services, whose worker is on this machine; with a database of one's
    own it may exist where the workers are.
    """
    if not spec.model.strip():
        raise InvalidJobError("the model is empty; expected a folder or a name on the hub")
    if task.architecture is None:
        return ModelFacts()
    here = settings.database_url is None
    try:
        if Path(spec.model).expanduser().exists():
            return ModelFacts(None, _check(_open(spec, spec.revision), task, params))
        if not hub.is_path(spec.model):
            return _check_hub_model(spec, task, params, here=here)
        if here:
            raise InvalidJobError(_absent(spec.model))
    except ModelLoadError as error:
        raise InvalidJobError(str(error)) from None
    return ModelFacts()


def _open(spec: JobSpec, revision: str | None) -> Checkpoint:
    permits = Permits(spec.allow_pickle, spec.trust_remote_code)
    return open_checkpoint(spec.model, revision, download=False, permits=permits)


def _check_hub_model(spec: JobSpec, task: Task, params: TaskParams, *, here: bool) -> ModelFacts:
    """``here``: the worker is on this machine, so what it may not fetch has to be in the cache."""
    source = hub.find_source(spec.model)
    commit = hub.find_commit(source, spec.revision)
    cached = hub.cached_snapshot(source, commit)
    if (here and hub.is_offline()) or (cached and (cached / str(source.file)).is_file()):
        checkpoint = _open(spec, commit or spec.revision)
    elif cached is not None and (cached / "config.json").is_file():
        # The weights may not be here yet, or never: the worker's machine is another one.
        checkpoint = Checkpoint(spec.model, cached, read_config(spec.model, cached), 0)
    else:
        return ModelFacts(commit)
    return ModelFacts(commit, _check(checkpoint, task, params))


def _check(checkpoint: Checkpoint, task: Task, params: TaskParams) -> bool:
    """Refuse a model that cannot serve the task; returns whether its class writes text."""
    require_architecture(checkpoint, task)
    params.check_model(checkpoint.name, checkpoint.folder, checkpoint.config)
    if checkpoint.weights and checkpoint.gguf is None:  # what is wholly here
        _require_tokenizer(checkpoint)
    return is_generator(checkpoint.config)


def _require_tokenizer(checkpoint: Checkpoint) -> None:
    """A model that was trained and saved, and its tokenizer forgotten."""
    if not any(path for pattern in TOKENIZERS for path in checkpoint.folder.glob(pattern)):
        raise ModelLoadError(
            f"model {checkpoint.name!r}: {checkpoint.folder} has no tokenizer (tokenizer.json or a "
            "vocabulary); put the one that it was trained with beside the weights: "
            "AutoTokenizer.from_pretrained(NAME).save_pretrained(FOLDER)"
        )


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
