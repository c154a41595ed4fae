"""Files and folders that are whole under their name, or were never there."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from textmill.core.errors import InvalidJobError, ServiceUnavailableError
from textmill.producer.exports import atomic
from textmill.producer.exports.atomic import new_file, new_folder

MARKS = ("mark.json",)


@contextmanager
def one_file(out: Path, force: bool) -> Iterator[None]:
    with new_file(out, force=force) as file:
        file.write(b"new")
        yield


@contextmanager
def one_folder(out: Path, force: bool) -> Iterator[None]:
    with new_folder(out, force=force, marks=MARKS) as folder:
        (folder / "mark.json").write_bytes(b"new")
        yield


Make = Callable[[Path, bool], AbstractContextManager[None]]
both = pytest.mark.parametrize("make", [one_file, one_folder])


def content(out: Path) -> bytes:
    return (out / "mark.json" if out.is_dir() else out).read_bytes()


def old(make: Make, out: Path) -> None:
    """What was there before."""
    if make is one_folder:
        out.mkdir()
        (out / "mark.json").write_bytes(b"old")
        (out / "more").write_bytes(b"old")
    else:
        out.write_bytes(b"old")


@both
def test_nothing_has_the_name_before_the_end(make: Make, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with make(out, False):
        assert not out.exists()
        (beside,) = tmp_path.iterdir()
        assert beside.name.startswith(".out.")
        assert beside.name.endswith(".part")
    assert content(out) == b"new"
    assert list(tmp_path.iterdir()) == [out]


@both
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("force", [False, True])
def test_what_fails_leaves_nothing_and_keeps_what_was_there(
    make: Make, error: type[BaseException], force: bool, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    if force:
        old(make, out)
    with pytest.raises(error), make(out, force):
        raise error
    assert list(tmp_path.iterdir()) == ([out] if force else [])
    if force:
        assert content(out) == b"old"


@both
def test_what_exists_is_an_error_at_once(make: Make, tmp_path: Path) -> None:
    out = tmp_path / "out"
    old(make, out)
    message = "out exists; choose another name, or pass --force"
    with pytest.raises(InvalidJobError, match=message), make(out, False):
        pytest.fail("no work may be done")
    dangling = tmp_path / "link"
    dangling.symlink_to("nowhere")
    with pytest.raises(InvalidJobError, match="link exists"), make(dangling, False):
        pytest.fail("no work may be done")
    assert content(out) == b"old"


@both
def test_force_replaces_at_the_end(make: Make, tmp_path: Path) -> None:
    out = tmp_path / "out"
    old(make, out)
    with make(out, True):
        assert content(out) == b"old"
    assert content(out) == b"new"
    assert not (out / "more").exists()
    assert list(tmp_path.iterdir()) == [out]


@both
def test_force_needs_nothing_to_be_there(make: Make, tmp_path: Path) -> None:
    with make(tmp_path / "out", True):
        pass
    assert content(tmp_path / "out") == b"new"


def test_folders_swap_names_in_two_steps_where_one_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic, "RENAME_EXCHANGE", 1 << 20)  # a flag that no system knows
    test_force_replaces_at_the_end(one_folder, tmp_path)


@both
def test_what_appears_meanwhile_is_left_as_it_is(make: Make, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises((InvalidJobError, ServiceUnavailableError), match="out"), make(out, False):
        old(make, out)
    assert content(out) == b"old"
    assert list(tmp_path.iterdir()) == [out]


def test_a_folder_that_is_no_export_is_not_replaced(tmp_path: Path) -> None:
    out = tmp_path / "home"
    out.mkdir()
    (out / "thesis.tex").write_text("years")
    message = "holds something else .*'thesis.tex'.*choose"
    with pytest.raises(InvalidJobError, match=message), one_folder(out, True):
        pytest.fail("no work may be done")
    assert (out / "thesis.tex").read_text() == "years"
    (out / "thesis.tex").unlink()
    with one_folder(out, True):
        pass
    assert content(out) == b"new", "an empty one may be"


def test_force_replaces_like_by_like(tmp_path: Path) -> None:
    folder, file, pipe = (tmp_path / name for name in ("folder", "file", "pipe"))
    folder.mkdir()
    file.write_text("old")
    os.mkfifo(pipe)
    for make, out, message in (
        (one_file, folder, "folder is a folder; --force replaces a file only"),
        (one_file, pipe, "pipe is no regular file"),
        (one_folder, file, "file is no folder"),
    ):
        with pytest.raises(InvalidJobError, match=message), make(out, True):
            pytest.fail("no work may be done")


@both
def test_permissions_are_those_of_a_new_one_or_of_the_old(make: Make, tmp_path: Path) -> None:
    out = tmp_path / "out"
    before = os.umask(0o027)
    try:
        with make(out, False):
            pass
    finally:
        os.umask(before)
    usual = 0o750 if make is one_folder else 0o640
    assert stat.S_IMODE(out.stat().st_mode) == usual
    out.chmod(0o700)
    with make(out, True):
        pass
    assert stat.S_IMODE(out.stat().st_mode) == 0o700


@both
def test_a_place_that_is_none_is_a_users_mistake(make: Make, tmp_path: Path) -> None:
    message = "nowhere/out: No such file or directory"
    with pytest.raises(InvalidJobError, match=message), make(tmp_path / "nowhere" / "out", False):
        pytest.fail("no work may be done")


@both
def test_names_may_be_as_long_as_the_system_allows(make: Make, tmp_path: Path) -> None:
    for name in ("n" * 255, "é" * 127):
        with make(tmp_path / name, False):
            pass
        assert content(tmp_path / name) == b"new"


def test_only_what_force_can_replace_is_advised_to(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for out, force in (("folder", False), ("file", None)):
        opened = new_file(tmp_path / out, force=force)
        with pytest.raises(InvalidJobError, match=r"exists; choose another name$"), opened:
            pytest.fail("no work may be done")
