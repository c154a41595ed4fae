"""Files and folders that take their name when they are whole, or never existed.

They are written beside it under another name, brought to the disk, and renamed. Only SIGKILL and
a crash of the machine leave the other name behind: ``.NAME.….part``.
"""

from __future__ import annotations

import ctypes
import errno
import io
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from textmill.core.errors import (
    InvalidJobError,
    NoSpaceError,
    ServiceUnavailableError,
    TextmillError,
)

PART = ".part"
BUFFER_BYTES = 1 << 20
NAME_BYTES = 100  # of the final name, in the other: a file system allows 255
AT_FDCWD = -100
RENAME_EXCHANGE = 2
FULL = {errno.ENOSPC, errno.EDQUOT}
NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}


@contextmanager
def new_file(out: Path, *, force: bool | None = False) -> Iterator[IO[bytes]]:
    """An open file that becomes ``out`` on leaving without an error, and is gone otherwise.

    Raises InvalidJobError at once if ``out`` exists (with ``force``: if it is no file) or cannot
    be made; on leaving also if somebody else has made it meanwhile. With None there is no force to
    advise.
    """
    _check(out, force, folder=False)
    temporary = _temporary(out)
    try:  # before it is made: a signal between the two would leave it
        with _explained(out, InvalidJobError):
            handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with _explained(out):
            with os.fdopen(handle, "wb", BUFFER_BYTES) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(_mode(out, 0o666))
            if force:
                temporary.replace(out)
            else:
                _rename_to_new(temporary, out)
            _sync_folder(out.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_text_file(out: Path) -> Iterator[IO[str]]:
    """The same for UTF-8 text, whose line ends are written as they are given."""
    with new_file(out, force=None) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=False)
        yield text
        text.flush()
        text.detach()


def refuse_existing(out: Path) -> None:
    """Raise InvalidJobError for a file that would be replaced."""
    _check(out, None, folder=False)


@contextmanager
def new_folder(out: Path, *, force: bool = False, marks: Sequence[str] = ()) -> Iterator[Path]:
    """A folder that becomes ``out`` on leaving without an error, and is gone otherwise.

    With ``force`` it takes the place of a folder that is empty or has the files ``marks``: one
    that holds anything else is not ours to delete, and an InvalidJobError.
    """
    _check(out, force, folder=True, marks=marks)
    temporary = _temporary(out)
    try:
        with _explained(out, InvalidJobError):
            temporary.mkdir(mode=0o700)
        with _explained(out):
            yield temporary
            temporary.chmod(_mode(out, 0o777))
            _sync_folder(temporary)
            if force and out.exists():
                _exchange(temporary, out)
            else:
                temporary.rename(out)
            _sync_folder(out.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def durable_file(path: Path) -> Iterator[IO[bytes]]:
    """A file in a new folder, on the disk when it is left."""
    with path.open("wb", BUFFER_BYTES) as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _check(out: Path, force: bool | None, *, folder: bool, marks: Sequence[str] = ()) -> None:
    if not os.path.lexists(out):
        return
    if not force:
        helps = force is not None and (folder or not out.is_dir())
        advice = ", or pass --force to replace it" if helps else ""
        raise InvalidJobError(f"{out} exists; choose another name{advice}")
    if folder:
        if not out.is_dir() or out.is_symlink():
            raise InvalidJobError(f"{out} is no folder; --force replaces one by a folder only")
        found = {path.name for path in out.iterdir()}
        if found and not found.issuperset(marks):
            raise InvalidJobError(
                f"the folder {out} holds something else than an export ({min(found)!r}, for "
                "one), which --force does not delete; choose another name"
            )
    elif not out.is_file() and not out.is_symlink():
        kind = "a folder" if out.is_dir() else "no regular file"
        raise InvalidJobError(f"{out} is {kind}; --force replaces a file only")


def _temporary(out: Path) -> Path:
    name = os.fsencode(out.name)[:NAME_BYTES].decode(errors="ignore")
    return out.with_name(f".{name}.{secrets.token_hex(6)}{PART}")


def _mode(out: Path, usual: int) -> int:
    """The permissions of what is replaced, or those that a new one gets."""
    if out.exists() and not out.is_symlink():
        return stat.S_IMODE(out.stat().st_mode)
    mask = os.umask(0)
    os.umask(mask)
    return usual & ~mask


def _rename_to_new(temporary: Path, out: Path) -> None:
    """Rename, but never over something that has appeared meanwhile."""
    try:
        out.hardlink_to(temporary)
    except FileExistsError:
        raise InvalidJobError(
            f"{out} was made by somebody else meanwhile; it was left as it is"
        ) from None
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        temporary.rename(out)  # a file system without links


def _exchange(temporary: Path, out: Path) -> None:
    """Let two folders swap names in one step; where that cannot be, in two quick ones."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    names = os.fsencode(temporary), os.fsencode(out)
    if rename and not rename(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE):
        return
    aside = temporary.with_name(f"{temporary.name}.old")
    out.rename(aside)
    temporary.rename(out)
    aside.rename(temporary)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # some file systems of networks cannot
            os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _explained(out: Path, kind: type[TextmillError] = ServiceUnavailableError) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        if error.errno in FULL:
            raise NoSpaceError(
                f"cannot write {out}: {reason.lower()}; free some, or choose a place elsewhere"
            ) from None
        raise kind(f"cannot write {out}: {reason}") from None
