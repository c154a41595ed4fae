"""Why a folder cannot be written, found out before or after something failed in it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from textmill.core.errors import ServiceUnavailableError


def folder_problem(folder: Path) -> str | None:
    """Why no file can be made in this folder, which may be still to be made; None if one can."""
    existing = folder
    try:
        while not existing.exists():
            existing = existing.parent
        if not existing.is_dir():
            return f"{existing} is a file, not a folder"
        if os.statvfs(existing).f_flag & os.ST_RDONLY:
            return f"{existing} is on a read-only disk"
        if not os.access(existing, os.W_OK | os.X_OK):
            return f"this user may not write in {existing}"
    except OSError as error:  # a folder on the way that may not be entered, say
        return f"{error.filename or existing}: {error.strerror}"
    return None


def unusable_home(home: Path, problem: str) -> str:
    """What is wrong with the data folder, and what to do."""
    return (
        f"the data folder {home} cannot be used: {problem}; "
        "mend that, or set TEXTMILL_HOME to another folder"
    )


@contextmanager
def folder_errors(home: Path) -> Iterator[None]:
    """Turn an OSError met in the data folder into one ServiceUnavailableError for a person."""
    try:
        yield
    except OSError as error:
        problem = folder_problem(home) or error.strerror or str(error)
        raise ServiceUnavailableError(unusable_home(home, problem)) from error
