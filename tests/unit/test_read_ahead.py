"""Pages read in a thread: in order, not far ahead, with their errors, and never left behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import islice

import pytest

from textmill.producer.exports import reading
from textmill.producer.exports.reading import PAGES_AHEAD, read_ahead

from ..servers import wait_until


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "export"]


def test_pages_come_in_order_and_the_thread_ends() -> None:
    for pages in ([], list(range(100))):
        with read_ahead(iter(pages)) as found:
            assert list(found) == pages
        assert readers() == []


def test_no_more_is_read_than_is_waited_for() -> None:
    read = []

    def pages() -> Iterator[int]:
        for page in range(100):
            read.append(page)
            yield page

    with read_ahead(pages()) as found:
        assert next(found) == 0
        # The one in hand, those that wait, and one for which there is no place.
        wait_until(lambda: len(read) == PAGES_AHEAD + 2, what=f"{PAGES_AHEAD + 2} pages read")
        assert next(found) == 1
        wait_until(lambda: len(read) == PAGES_AHEAD + 3, what="one more")
    assert readers() == []
    assert len(read) <= PAGES_AHEAD + 4


def test_an_error_comes_after_the_pages_before_it() -> None:
    def pages() -> Iterator[int]:
        yield from range(3)
        raise ValueError("page 3 is torn")

    with read_ahead(pages()) as found:
        assert list(islice(found, 3)) == [0, 1, 2]
        with pytest.raises(ValueError, match="page 3 is torn"):
            next(found)
    assert readers() == []


def test_an_error_of_the_writer_ends_the_reading() -> None:
    with pytest.raises(OSError, match="full") as caught, read_ahead(iter(range(100))):
        raise OSError("full")
    assert readers() == [], caught


def test_who_leaves_does_not_wait_for_a_source_that_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reading, "PATIENCE_SECONDS", 0.05)
    answer = threading.Event()

    def pages() -> Iterator[int]:
        yield 0
        answer.wait(30)

    with read_ahead(pages()) as found:
        assert next(found) == 0
    (reader,) = readers()
    assert reader.daemon, "else the process could not end"
    answer.set()
    reader.join(10)
    assert not reader.is_alive()
