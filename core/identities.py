"""What exactly a model is: the commit of a hub model, or a digest of a local model's files.

So a job can say what ran, and its workers can tell whether they mean the same model.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from threading import Lock

from textmill.core import hub
from textmill.core.checkpoints import NOTHING, Permits, open_checkpoint
from textmill.core.errors import ModelLoadError

SETTINGS = ("*.json", "*.txt", "*.model", "*.spm", "*.jinja", "1_Pooling/*.json")
REMEMBERED_FILES = 4096


class Identities:
    """Finds out what models are; a file is read again only if its size or times have changed."""

    def __init__(self) -> None:
        self._lock = Lock()  # several slots ask at once when a job begins
        self._hash_file = lru_cache(REMEMBERED_FILES)(_hash_file)

    def identify(self, model: str, revision: str | None, permits: Permits = NOTHING) -> str:
        """The commit, or ``sha256:`` and a digest; raises ModelLoadError if there is no model.

        The digest of a GGUF file is the file's own SHA-256; that of a folder is the SHA-256 of what
        ``sha256sum`` prints of its files, sorted by name.
        """
        source = hub.find_source(model)
        if source.folder is None:
            found = hub.find_commit(source, revision)
            return found or hub.fetch(source, revision, download=True).name
        checkpoint = open_checkpoint(model, revision, download=False, permits=permits)
        try:
            if checkpoint.gguf is not None:
                return f"sha256:{self._digest(checkpoint.weights[0])}"
            patterns = SETTINGS + (hub.CODE if permits.remote_code else ())
            files = {path for pattern in patterns for path in checkpoint.folder.glob(pattern)}
            names = sorted(
                path.relative_to(checkpoint.folder).as_posix()
                for path in {*files, *checkpoint.weights}
            )
            lines = [f"{self._digest(checkpoint.folder / name)}  {name}\n" for name in names]
        except OSError as error:
            raise ModelLoadError(f"model {model!r} cannot be read: {error}") from None
        return f"sha256:{hashlib.sha256(''.join(lines).encode()).hexdigest()}"

    def require(self, model: str, revision: str | None, permits: Permits, expected: str) -> None:
        """Raise ModelLoadError if the model is no longer the expected one."""
        found = self.identify(model, revision, permits)
        if found != expected:
            raise ModelLoadError(
                f"model {model!r} on this machine is {found}, and the job began with {expected}: "
                "the files were changed or differ between machines; put the model of before back, "
                "or run all records with this one: `textmill retry JOB --all`"
            )

    def _digest(self, path: Path) -> str:
        stat = path.stat()
        with self._lock:
            return self._hash_file(path, stat.st_size, stat.st_mtime_ns, stat.st_ino)


def _hash_file(path: Path, size: int, changed_ns: int, inode: int) -> str:
    """The last three only tell a changed file from the one whose digest is remembered."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
