"""Idempotency keys: the same submission twice is one job, another with its key is a conflict."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from textmill.core.errors import InputError, JobConflictError
from textmill.core.jobs import Priority
from textmill.core.tasks import TASKS
from textmill.db.jobs import cancel_job
from textmill.db.models import jobs
from textmill.db.session import Database
from textmill.producer import loader, submit

from .. import builders, submissions
from ..builders import at_once, count, job_of, snapshot, spec
from ..servers import wait_until
from ..submissions import HEAD_ROWS, chunk_records, send

# Fixtures; imported by name, they would be redefined by every test's parameter.
tables_url = builders.tables_url
postgresql = builders.postgresql
database = builders.database
small_chunks = submissions.small_chunks


def test_the_same_submission_with_a_key_is_one_job(database: Database) -> None:
    rows = ["a", {"text": "b", "x": 1}, 5]
    first = send(database, rows, spec(key="k"), skip_bad=True)
    before = snapshot(database)
    again = send(database, rows, spec(key="k"), skip_bad=True)
    assert again == replace(first, existing=True)
    assert (again.records, again.error_records) == (3, 1)
    assert snapshot(database) == before


OTHER_JOBS: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "text": (["a", "c"], {}),
    "order": (["b", "a"], {}),
    "fewer": (["a"], {}),
    "more": (["a", "b", "c"], {}),
    "extra": (["a", {"text": "b", "x": 1}], {}),
    "model": (["a", "b"], {"model": "org/other"}),
    "revision": (["a", "b"], {"revision": "v2"}),
    "dtype": (["a", "b"], {"dtype": "bf16"}),
    "params": (["a", "b"], {"params": {"top_k": 1}}),
    "task": (["a", "b"], {"task": "other"}),
}


def test_a_key_with_other_input_is_a_conflict(
    database: Database, subtests: pytest.Subtests, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TASKS, "other", TASKS["classification"])
    first = send(database, ["a", "b"], spec(key="k"))
    before = snapshot(database)
    for name, (rows, fields) in OTHER_JOBS.items():
        with subtests.test(name):
            with pytest.raises(JobConflictError, match=f"key 'k' belongs to job {first.job_id}"):
                send(database, rows, spec(key="k", **fields))
            assert snapshot(database) == before
    for name, given in {"name": "n", "queue": "gpu", "priority": Priority.HIGH}.items():
        with subtests.test(name):  # how a job is run is not what it is
            assert send(database, ["a", "b"], spec(key="k", **{name: given})).existing


def test_the_input_hash_does_not_depend_on_chunks_or_flushes(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [*["a", 5, {"text": "b", "x": None}] * 15, "last"]
    hashes = set()
    for size, flush in ((1, 1), (7, 20), (256, 4096)):
        chunk_records(monkeypatch, size)
        monkeypatch.setattr(loader, "FLUSH_RECORDS", flush)
        done = send(database, rows, skip_bad=True)
        hashes.add(job_of(database, done.job_id).input_hash)
    assert len(hashes) == 1
    assert len(hashes.pop()) == 32


def test_a_cancelled_job_still_answers_its_key(database: Database) -> None:
    first = send(database, ["a"], spec(key="k"))
    database.transact(cancel_job, first.job_id)
    assert send(database, ["a"], spec(key="k")).job_id == first.job_id
    with pytest.raises(JobConflictError):
        send(database, ["b"], spec(key="k"))


def test_many_submissions_at_once_with_one_key_are_one_job(database: Database) -> None:
    calls = [lambda: send(database, ["a"] * 300, spec(key="k"))] * 4
    done = at_once(*calls)
    assert len({one.job_id for one in done}) == 1
    assert sorted(one.existing for one in done) == [False, True, True, True]
    assert count(database, jobs) == 1


@pytest.fixture
def polled(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set when a second submission waits for the first."""
    waits = threading.Event()

    def sleep(seconds: float) -> None:
        waits.set()
        time.sleep(0.01)

    monkeypatch.setattr(submit, "time", SimpleNamespace(sleep=sleep))
    return waits


def loading_until(go_on: threading.Event, failure: Exception | None = None) -> Iterator[str]:
    yield from ["a"] * (HEAD_ROWS + 50)
    assert go_on.wait(30)
    if failure is not None:
        raise failure


def test_a_second_submission_waits_while_the_first_loads(
    database: Database, polled: threading.Event, small_chunks: None
) -> None:
    go_on = threading.Event()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(send, database, loading_until(go_on), spec(key="k"))
        wait_until(lambda: count(database, jobs), what="loading")
        second = pool.submit(send, database, ["a"] * (HEAD_ROWS + 50), spec(key="k"))
        assert polled.wait(30)
        assert not second.done()
        go_on.set()
        assert second.result(30) == replace(first.result(30), existing=True)


def test_when_the_first_submission_fails_the_one_that_waits_takes_the_key(
    database: Database, polled: threading.Event, small_chunks: None
) -> None:
    go_on = threading.Event()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(send, database, loading_until(go_on, InputError("bad")), spec(key="k"))
        wait_until(lambda: count(database, jobs), what="loading")
        second = pool.submit(send, database, ["a"], spec(key="k"))
        assert polled.wait(30)
        go_on.set()
        with pytest.raises(InputError):
            first.result(30)
        taken = second.result(30)
    assert (taken.existing, taken.records) == (False, 1)
    assert send(database, ["a"], spec(key="k")) == replace(taken, existing=True)
