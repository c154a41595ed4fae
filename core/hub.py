"""Where a model's files are: a folder or GGUF file of this machine, or a repository of the hub.

The only module that asks huggingface_hub, which is there where workers are. ``HF_HUB_OFFLINE`` and
``HF_HOME`` are that library's own settings.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from textmill.core.errors import ModelLoadError
from textmill.core.gguf import SUFFIX

FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.spm", "*.jinja")
PICKLES = ("*.bin", "*.bin.index.json")
CODE = ("*.py",)
# Of subfolders (other formats of the same weights) only 1_Pooling; these are no regular
# expressions: https://docs.python.org/3/library/fnmatch.html
IGNORED = ("[!1]*/*", "1[!_]*/*", "1_[!P]*/*")
COMMIT = re.compile(r"[0-9a-f]{40}")
# As huggingface_hub has it, which raises an error of its own, and is not on every machine:
# https://huggingface.co/docs/huggingface_hub/package_reference/utilities (validate_repo_id)
_PART = r"\b[\w.-]{1,96}\b"
REPOSITORY = re.compile(rf"(?!.*(--|\.\.))({_PART}/)?{_PART}(?<!\.git)", re.ASCII)
HUB_SECONDS = 10  # for one question; a hub that is silent must not hold a submission


@dataclass(frozen=True, slots=True)
class Source:
    """Where a model's files are, without a look into them."""

    name: str  # as the job gave it
    folder: Path | None  # on this machine; None: on the hub
    repository: str = ""  # on the hub
    file: str | None = None  # the GGUF file in the folder or repository


def find_source(model: str) -> Source:
    """What the name of a model means on this machine or the hub; raises ModelLoadError if nothing.

    A name that ends in ``.gguf`` is a file: of this machine, or ``ORGANISATION/MODEL/FILE.gguf``.
    """
    path = Path(model).expanduser()
    is_gguf = model.lower().endswith(SUFFIX)
    if path.is_dir():
        return Source(model, path)
    if path.exists():
        if not is_gguf:
            raise ModelLoadError(
                f"model {model!r} is a file; expected the folder it lies in, or a {SUFFIX} file"
            )
        return Source(model, path.parent, file=path.name)
    if path.is_absolute() or model.startswith((".", "~")):
        kind = "GGUF file" if is_gguf else "model folder"
        raise ModelLoadError(f"{kind} {model!r} does not exist on this machine")
    return _find_on_hub(model)


def _find_on_hub(model: str) -> Source:
    if not model.lower().endswith(SUFFIX):
        _require_name(model, model)
        return Source(model, None, model)
    organisation, _, rest = model.partition("/")
    repository, _, file = rest.partition("/")
    if not file:
        raise ModelLoadError(
            f"GGUF file {model!r} does not exist on this machine; of the hub it would be "
            f"ORGANISATION/MODEL/FILE{SUFFIX}"
        )
    _require_name(f"{organisation}/{repository}", model)
    return Source(model, None, f"{organisation}/{repository}", file)


def _require_name(repository: str, model: str) -> None:
    if not REPOSITORY.fullmatch(repository):
        raise _nowhere(model)


def _nowhere(model: str) -> ModelLoadError:
    hint = "; it looks like an option: is the model left out?" if model.startswith("-") else ""
    return ModelLoadError(
        f"model {model!r} is neither a folder on this machine nor a name on the hub; expected a "
        f"folder, or ORGANISATION/MODEL of letters, digits, '-', '_' and '.'{hint}"
    )


def is_path(model: str) -> bool:
    """True of a name that cannot be one on the hub, which has one slash, or more with a file."""
    slashes = model.count("/")
    is_name = slashes >= 2 if model.lower().endswith(SUFFIX) else slashes <= 1
    return model.startswith(("/", ".", "~")) or model.endswith("/") or not is_name


def fetch(
    source: Source, revision: str | None, *, download: bool, files: tuple[str, ...] = FILES
) -> Path:
    """The folder of a repository's snapshot in the local cache, with these files of it."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                source.repository,
                revision=revision,
                allow_patterns=[source.file] if source.file else list(files),
                ignore_patterns=None if source.file else list(IGNORED),
                local_files_only=not download,
            )
        )
    except HFValidationError:
        raise _nowhere(source.name) from None
    except LocalEntryNotFoundError:
        raise _not_here(source, revision) from None
    except Exception as error:
        detail = str(error).strip().partition("\n")[0]
        raise ModelLoadError(
            f"model {source.name!r} cannot be fetched from the hub: {detail}"
        ) from error


def _not_here(source: Source, revision: str | None) -> ModelLoadError:
    here = cached_revisions(source.repository)
    wanted = "" if revision is None else f" --revision {revision}"
    if not here:
        return ModelLoadError(
            f"model {source.name!r} is no folder on this machine, is not in its cache, and the hub "
            f"cannot be reached; give a folder, or fetch it where the hub can be reached: "
            f"hf download {source.repository}{wanted}"
        )
    asked = "the default branch" if revision is None else f"revision {revision!r}"
    return ModelLoadError(
        f"model {source.name!r}: {asked} is not (wholly) in this machine's cache, which has "
        f"{', '.join(here)}, and the hub cannot be reached; take one of these with --revision, or "
        f"fetch it where the hub can be reached: hf download {source.repository}{wanted}"
    )


def cached_revisions(repository: str) -> list[str]:
    """The branches, tags and commits of a repository that the local cache has something of."""
    folder = _cache_folder(repository)
    refs = folder / "refs"
    names = sorted(str(p.relative_to(refs)) for p in refs.rglob("*") if p.is_file())
    return names + sorted(path.name for path in (folder / "snapshots").glob("*") if path.is_dir())


def find_commit(source: Source, revision: str | None) -> str | None:
    """The commit that a revision of a repository means now; None if nobody here can say.

    The hub is asked; the cache only if the hub cannot be. Raises ModelLoadError for a revision
    that the hub does not have.
    """
    asked = revision or "main"
    if COMMIT.fullmatch(asked):
        return asked
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import RevisionNotFoundError
    except ImportError:  # no worker on this machine
        return None
    try:
        found = HfApi().model_info(source.repository, revision=asked, timeout=HUB_SECONDS).sha
    except RevisionNotFoundError:
        raise ModelLoadError(
            f"model {source.name!r} has no revision {asked!r} on the hub; expected a branch, a "
            "tag or a commit of it"
        ) from None
    except Exception:  # offline, no such name, no access: a worker may have what is missing here
        found = None
    return found or _cached_commit(source.repository, asked)


def cached_snapshot(source: Source, revision: str | None) -> Path | None:
    """The folder of what the local cache has of a repository; None if it has nothing of it."""
    asked = revision or "main"
    try:
        commit = asked if COMMIT.fullmatch(asked) else _cached_commit(source.repository, asked)
        folder = _cache_folder(source.repository) / "snapshots" / (commit or "-")
    except ImportError:
        return None
    return folder if folder.is_dir() else None


def is_offline() -> bool:
    """True if ``HF_HUB_OFFLINE`` forbids to ask the hub."""
    try:
        from huggingface_hub import constants
    except ImportError:
        return False
    return bool(constants.HF_HUB_OFFLINE)


def _cached_commit(repository: str, revision: str) -> str | None:
    try:
        found = (_cache_folder(repository) / "refs" / revision).read_text().strip()
    except (OSError, ValueError):
        return None
    return found if COMMIT.fullmatch(found) else None


def _cache_folder(repository: str) -> Path:
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type="model")
