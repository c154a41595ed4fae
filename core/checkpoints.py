"""A model's files, checked before the heavy load: where they are and what they hold.

Reads only JSON and the headers of safetensors and GGUF files; imports neither torch nor
transformers. Where the files are is ``core.hub``'s business.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textmill.core import hub
from textmill.core.errors import ModelLoadError
from textmill.core.gguf import SUFFIX, read_gguf
from textmill.core.tasks import Task, tasks_of

WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
PICKLE = "pytorch_model.bin"
PICKLE_INDEX = f"{PICKLE}.index.json"
PICKLE_PATTERNS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")
PICKLE_NUMBER_BYTES = {"float16": 2, "bfloat16": 2}  # by the config's dtype, else 4


@dataclass(frozen=True, slots=True)
class Permits:
    """What may be done with a model's files beyond reading numbers from them."""

    pickle: bool = False  # load weights from pickles
    remote_code: bool = False  # run the Python files that come with the model


NOTHING = Permits()


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model whose weights are complete: safetensors, a GGUF file or, where permitted, pickles."""

    name: str  # as the job gave it
    folder: Path
    config: dict[str, Any]  # of a GGUF: what its header says of the keys of a config.json
    parameters: int  # how many numbers the weights hold
    weights: tuple[Path, ...] = ()
    gguf: str | None = None  # the name of the GGUF file in the folder
    permits: Permits = NOTHING

    @property
    def architecture(self) -> str:
        """The class the weights were saved from, or an empty text."""
        return next(iter(self.config.get("architectures") or []), "")

    @property
    def pickled(self) -> bool:
        """True if the weights are in pickles."""
        return any(path.suffix == ".bin" for path in self.weights)


def open_checkpoint(
    model: str, revision: str | None, *, download: bool = True, permits: Permits = NOTHING
) -> Checkpoint:
    """The checked files of a folder, a GGUF file or a hub model; raises ModelLoadError.

    ``download=False`` looks only at what this machine has.
    """
    source = hub.find_source(model)
    if source.folder is not None and revision is not None:
        kind = "folder" if source.file is None else "file"
        raise ModelLoadError(
            f"model {model!r} is a {kind}, which has no revision {revision!r}; leave it out"
        )
    if source.file is not None:
        return _open_gguf(source, revision, download)
    folder = source.folder or _fetch(source, revision, download, permits)
    config = read_config(model, folder)
    weights = _weight_files(model, folder, permits)
    if permits.remote_code:
        _refuse_code_elsewhere(model, config)
    parameters = sum(_count(path, config) for path in weights)
    return Checkpoint(model, folder, config, parameters, tuple(weights), permits=permits)


def _open_gguf(source: hub.Source, revision: str | None, download: bool) -> Checkpoint:
    folder = source.folder or hub.fetch(source, revision, download=download)
    path = folder / str(source.file)
    if not path.is_file():
        raise ModelLoadError(
            f"model {source.name!r}: there is no file {source.file!r} in {source.repository}"
        )
    header = read_gguf(source.name, path)
    return Checkpoint(
        source.name, path.parent, header.as_config(), header.parameters, (path,), gguf=path.name
    )


def _fetch(source: hub.Source, revision: str | None, download: bool, permits: Permits) -> Path:
    """The snapshot; pickles only if there is nothing better, code only if it may run."""
    files = hub.FILES + (hub.CODE if permits.remote_code else ())
    folder = hub.fetch(source, revision, download=download, files=files)
    if permits.pickle and not any(folder.glob("*.safetensors")):
        hub.fetch(source, revision, download=download, files=hub.PICKLES)
    return folder


def read_config(model: str, folder: Path) -> dict[str, Any]:
    """What ``config.json`` says; raises ModelLoadError if it says nothing."""
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except FileNotFoundError:
        files = sorted(path.name for path in folder.glob(f"*{SUFFIX}"))
        instead = (
            f"; for a GGUF file name the file: {model.rstrip('/')}/{files[0]}" if files else ""
        )
        raise ModelLoadError(
            f"model {model!r}: {folder} has no config.json, so it is no transformers model{instead}"
        ) from None
    except ValueError as error:
        raise ModelLoadError(f"model {model!r}: config.json is not JSON: {error}") from None
    except OSError as error:
        raise ModelLoadError(f"model {model!r}: config.json: {error.strerror}") from None
    if not isinstance(config, dict):
        raise ModelLoadError(f"model {model!r}: config.json holds no object")
    return config


def _weight_files(model: str, folder: Path, permits: Permits) -> list[Path]:
    files = _listed(model, folder, INDEX, WEIGHTS)
    missing = [path.name for path in files if not path.is_file()]
    if not missing:
        return files
    pickles = sorted(path.name for pattern in PICKLE_PATTERNS for path in folder.glob(pattern))
    if not pickles:
        raise ModelLoadError(
            f"model {model!r}: {folder} lacks {', '.join(missing)}; fetch or copy the whole model"
        )
    if not permits.pickle:
        raise ModelLoadError(
            f"model {model!r} has no safetensors, only {', '.join(pickles)}, and pickles are not "
            "loaded because they can run code; if you trust it, convert it once with "
            "AutoModelForSequenceClassification.from_pretrained(FOLDER).save_pretrained(FOLDER), "
            "or submit with --allow-pickle to workers that have TEXTMILL_ALLOW_PICKLE=1"
        )
    files = _listed(model, folder, PICKLE_INDEX, PICKLE)
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        raise ModelLoadError(
            f"model {model!r}: of pickles only {PICKLE} and its parts can be loaded; {folder} "
            f"lacks {', '.join(missing)}, it has {', '.join(pickles)}"
        )
    return files


def _listed(model: str, folder: Path, index: str, single: str) -> list[Path]:
    """The weight files that an index names, or the single file if there is no index."""
    try:
        names = set(json.loads((folder / index).read_bytes())["weight_map"].values())
    except FileNotFoundError:
        return [folder / single]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelLoadError(f"model {model!r}: {index} is damaged: {error!r}") from None
    return [folder / name for name in sorted(names)]


def _count(path: Path, config: dict[str, Any]) -> int:
    if path.suffix != ".bin":
        return count_parameters(path)
    # Nothing of a pickle can be read without running it; its size tells enough.
    dtype = str(config.get("dtype") or config.get("torch_dtype"))
    return path.stat().st_size // PICKLE_NUMBER_BYTES.get(dtype, 4)


def _refuse_code_elsewhere(model: str, config: dict[str, Any]) -> None:
    """Code of another repository is that of its newest commit: nobody could say what ran."""
    values = (config.get("auto_map") or {}).values()
    elsewhere = sorted({str(value) for value in values if "--" in str(value)})
    if elsewhere:
        raise ModelLoadError(
            f"model {model!r} takes its code from another repository ({', '.join(elsewhere)}), "
            "whose commit is not pinned; take a copy of the model that holds its code itself"
        )


def count_parameters(path: Path) -> int:
    """How many numbers a safetensors file holds; raises ModelLoadError if it is cut or damaged.

    The format: https://huggingface.co/docs/safetensors/index#format
    """
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            if header_bytes > size:
                raise ValueError("the header is cut off")
            header = json.loads(file.read(header_bytes))
        tensors = [value for key, value in header.items() if key != "__metadata__"]
        end = 8 + header_bytes + max((t["data_offsets"][1] for t in tensors), default=0)
        if end != size:
            raise ValueError(f"it has {size} bytes, its header says {end}")
        return sum(math.prod(tensor["shape"]) for tensor in tensors)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelLoadError(f"{path} is damaged, fetch or copy it again: {error}") from None


def require_architecture(checkpoint: Checkpoint, task: Task) -> None:
    """Raise ModelLoadError if the weights were saved from a class that cannot do the task."""
    found, wanted = checkpoint.architecture, task.architecture
    if wanted is None:
        return
    if checkpoint.gguf is not None and not (wanted and found.endswith(wanted)):
        raise ModelLoadError(
            f"GGUF file {checkpoint.name!r} cannot do {task.name}: it holds a model that writes "
            f"text ({found}){_fitting(found)}; expected {_named(wanted)}, in a folder with "
            "safetensors"
        )
    if wanted and not found.endswith(wanted):
        raise ModelLoadError(
            f"model {checkpoint.name!r} cannot do {task.name}: its config.json names "
            f"{found or 'no architecture'}, expected {_named(wanted)}{_fitting(found)}"
        )


def _fitting(found: str) -> str:
    return f"; such a model is for {', '.join(tasks_of(found))}" if found else ""


def _named(wanted: str | tuple[str, ...]) -> str:
    if not wanted:
        return "a model with token vectors"
    return f"one that ends in {wanted if isinstance(wanted, str) else ' or '.join(wanted)}"
