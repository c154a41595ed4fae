"""A model's files, checked before the heavy load: where they are and what they hold.

Reads only JSON and the headers of safetensors files; imports neither torch nor transformers.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textmill.core.errors import ModelLoadError
from textmill.core.tasks import Task

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")
HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.spm", "*.jinja"]
# Of subfolders (other formats of the same weights) only 1_Pooling; these are no regular
# expressions: https://docs.python.org/3/library/fnmatch.html
HUB_IGNORED = ["[!1]*/*", "1[!_]*/*", "1_[!P]*/*"]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model's folder whose weights are complete safetensors files."""

    name: str  # as the job gave it
    folder: Path
    config: dict[str, Any]
    parameters: int  # how many numbers the weights hold

    @property
    def architecture(self) -> str:
        """The class the weights were saved from, or an empty text."""
        return next(iter(self.config.get("architectures") or []), "")


def open_checkpoint(model: str, revision: str | None, *, download: bool = True) -> Checkpoint:
    """The checked files of a folder or a hub model; raises ModelLoadError that says what is wrong.

    ``download=False`` looks only at what this machine has.
    """
    folder = find_folder(model, revision, download=download)
    config = _read_config(model, folder)
    files = _weight_files(model, folder)
    return Checkpoint(model, folder, config, sum(count_parameters(path) for path in files))


def find_folder(model: str, revision: str | None, *, download: bool = True) -> Path:
    """The folder of a local model, or of a hub model's snapshot in the local cache."""
    path = Path(model).expanduser()
    if path.is_dir():
        if revision is not None:
            raise ModelLoadError(
                f"model {model!r} is a folder, which has no revision {revision!r}; leave it out"
            )
        return path
    if path.exists():
        raise ModelLoadError(f"model {model!r} is a file; expected the folder it lies in")
    if path.is_absolute() or model.startswith((".", "~")):
        raise ModelLoadError(f"model folder {model!r} does not exist on this machine")
    return _fetch(model, revision, download)


def _fetch(model: str, revision: str | None, download: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                model,
                revision=revision,
                allow_patterns=HUB_FILES,
                ignore_patterns=HUB_IGNORED,
                local_files_only=not download,
            )
        )
    except HFValidationError:
        raise ModelLoadError(
            f"model {model!r} is neither a folder on this machine nor a name on the hub"
        ) from None
    except LocalEntryNotFoundError:
        raise ModelLoadError(
            f"model {model!r} is no folder on this machine, is not in its cache, and the hub "
            "cannot be reached; give a folder or fetch the model first"
        ) from None
    except Exception as error:
        detail = str(error).strip().partition("\n")[0]
        raise ModelLoadError(f"model {model!r} cannot be fetched from the hub: {detail}") from error


def _read_config(model: str, folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except FileNotFoundError:
        raise ModelLoadError(
            f"model {model!r}: {folder} has no config.json, so it is no transformers model"
        ) from None
    except ValueError as error:
        raise ModelLoadError(f"model {model!r}: config.json is not JSON: {error}") from None
    except OSError as error:
        raise ModelLoadError(f"model {model!r}: config.json: {error.strerror}") from None
    if not isinstance(config, dict):
        raise ModelLoadError(f"model {model!r}: config.json holds no object")
    return config


def _weight_files(model: str, folder: Path) -> list[Path]:
    index = folder / INDEX
    if index.is_file():
        try:
            names = set(json.loads(index.read_bytes())["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelLoadError(f"model {model!r}: {INDEX} is damaged: {error!r}") from None
        files = [folder / name for name in sorted(names)]
    else:
        files = [folder / WEIGHTS]
    missing = [path.name for path in files if not path.is_file()]
    if not missing:
        return files
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles:
        raise ModelLoadError(
            f"model {model!r} has no safetensors, only {', '.join(pickles)}, and pickles are not "
            "loaded because they can run code; if you trust it, convert it once with "
            "AutoModelForSequenceClassification.from_pretrained(FOLDER).save_pretrained(FOLDER)"
        )
    raise ModelLoadError(f"model {model!r}: {folder} lacks {', '.join(missing)}")


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
    if wanted and not found.endswith(wanted):
        endings = wanted if isinstance(wanted, str) else " or ".join(wanted)
        raise ModelLoadError(
            f"model {checkpoint.name!r} cannot do {task.name}: its config.json names "
            f"{found or 'no architecture'}, expected one that ends in {endings}"
        )
