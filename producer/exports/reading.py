"""Reading in a thread while the pages before are written: both leave the interpreter for long."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from queue import Empty, Queue
from threading import Event, Thread
from typing import Any, TypeVar

T = TypeVar("T")

PAGES_AHEAD = 1  # that wait to be written; one more is being read
PATIENCE_SECONDS = 2.0  # with a database that does not answer, when nobody wants the pages any more


@contextmanager
def read_ahead(pages: Iterator[T]) -> Iterator[Iterator[T]]:
    """The same pages, each read before it is asked for; an error comes in the place of a page.

    However this is left, the reading ends with the page that is under way, and is waited for: but
    not for long, since Ctrl-C has to work when the database hangs.
    """
    ready: Queue[Any] = Queue(PAGES_AHEAD)
    unwanted = Event()
    reader = Thread(target=_read, args=(pages, ready, unwanted), name="export", daemon=True)
    reader.start()
    try:
        yield _arriving(ready)
    finally:
        unwanted.set()
        while _take(ready):  # it may wait for a free place
            pass
        reader.join(PATIENCE_SECONDS)


def _arriving(ready: Queue[Any]) -> Iterator[Any]:
    while (page := ready.get()) is not None:
        if isinstance(page, BaseException):
            raise page
        yield page


def _read(pages: Iterator[Any], ready: Queue[Any], unwanted: Event) -> None:
    try:
        for page in pages:
            ready.put(page)
            if unwanted.is_set():
                return
        ready.put(None)
    except BaseException as error:  # every error is the caller's
        ready.put(error)


def _take(ready: Queue[Any]) -> bool:
    try:
        ready.get_nowait()
    except Empty:
        return False
    return True
