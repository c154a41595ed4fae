"""A hub cache made by hand: what huggingface_hub leaves on the disk, without a hub."""

from __future__ import annotations

import shutil
from pathlib import Path


class HubCache:
    """The cache of one repository below ``HF_HOME``."""

    def __init__(self, home: Path, repository: str = "org/tiny") -> None:
        self.home = home
        self.repository = repository
        self._folder = home / "hub" / f"models--{repository.replace('/', '--')}"
        (self._folder / "refs").mkdir(parents=True)

    def add(self, commit: str, model: Path) -> str:
        """A snapshot with a copy of the model's files; returns its commit."""
        shutil.copytree(model, self._folder / "snapshots" / commit)
        return commit

    def point(self, ref: str, commit: str) -> None:
        """What a branch or tag means from now on."""
        (self._folder / "refs" / ref).write_text(commit)
