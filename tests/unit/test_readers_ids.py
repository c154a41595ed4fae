"""Duplicate ids are found exactly, in memory and with spilling."""

from __future__ import annotations

import tempfile
import tracemalloc
from collections.abc import Iterable

import pytest

from textmill.core.errors import InputError
from textmill.producer.readers import IdCheck

MEMORY, SPILL = 16 << 20, 20_000  # bytes; the second spills every 150 ids or so


def check(ids: Iterable[str], buffer_bytes: int) -> None:
    with IdCheck(buffer_bytes) as ids_seen:
        for number, record_id in enumerate(ids):
            ids_seen.add(record_id, number)
        ids_seen.finish()


@pytest.mark.parametrize("buffer_bytes", [MEMORY, SPILL])
def test_distinct_ids_pass(buffer_bytes: int) -> None:
    check((f"id {n}" for n in range(5_000)), buffer_bytes)
    check([], buffer_bytes)


@pytest.mark.parametrize("buffer_bytes", [MEMORY, SPILL])
@pytest.mark.parametrize(("first", "second"), [(0, 1), (0, 2999), (1499, 2998), (17, 18)])
def test_a_duplicate_is_named_with_both_records(buffer_bytes: int, first: int, second: int) -> None:
    ids = [f"id {n}" for n in range(3000)]
    ids[second] = ids[first]
    with pytest.raises(
        InputError, match=rf"the id 'id {first}' occurs twice, in records {first} and {second};"
    ):
        check(ids, buffer_bytes)


@pytest.mark.parametrize("buffer_bytes", [MEMORY, SPILL])
def test_the_duplicate_that_repeats_first_is_reported(buffer_bytes: int) -> None:
    ids = [f"id {n}" for n in range(3000)]
    for first, second in [(0, 2500), (900, 1000), (901, 1001), (5, 2900)]:
        ids[second] = ids[first]
    with pytest.raises(InputError, match="'id 900' occurs twice, in records 900 and 1000"):
        check(ids, buffer_bytes)


@pytest.mark.parametrize("buffer_bytes", [MEMORY, SPILL])
def test_the_first_repeat_of_an_id_that_comes_often_is_reported(buffer_bytes: int) -> None:
    ids = ["x" if n % 7 == 3 else f"id {n}" for n in range(2000)]
    with pytest.raises(InputError, match="'x' occurs twice, in records 3 and 10"):
        check(ids, buffer_bytes)


@pytest.mark.parametrize("buffer_bytes", [MEMORY, SPILL])
def test_ids_that_look_alike_are_distinct(buffer_bytes: int) -> None:
    check(
        ["a", "A", "a ", "a\n", "é", "e\u0301", "\ud800", "", "1", "01", *"bcdefgh"], buffer_bytes
    )


def test_few_ids_need_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a file was opened")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    check((f"id {n}" for n in range(100_000)), MEMORY)


def test_nothing_stays_in_the_temporary_folder(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pathlib import Path

    folder = Path(str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with pytest.raises(ZeroDivisionError), IdCheck(SPILL) as ids:
        for number in range(3000):
            ids.add(str(number), number)
        assert list(folder.iterdir()) == []  # the file has no name, so a kill leaves nothing
        raise ZeroDivisionError
    assert list(folder.iterdir()) == []


def test_one_id_repeated_for_ever_takes_no_memory() -> None:
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="records 0 and 1;"):
            check(("same" for _ in range(100_000)), 1 << 20)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5 << 20
