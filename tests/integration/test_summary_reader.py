"""What it costs to look at a job again and again: what did not change is not counted again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import event

from textmill.db.session import Database
from textmill.db.workers import WorkerInfo, register_worker
from textmill.producer import summary_reader
from textmill.producer.summary import summarize
from textmill.producer.summary_reader import SummaryReader

from .. import builders
from ..builders import claim_all, complete, make_job

# Fixtures; imported by name, they would be redefined by every test's parameter.
tables_url = builders.tables_url
postgresql = builders.postgresql
database = builders.database


@pytest.fixture
def asked(database: Database) -> Iterator[list[str]]:
    """What is asked of the database from now on: "labels", "errors"."""
    found: list[str] = []

    def note(connection: object, cursor: object, statement: str, *rest: object) -> None:
        found.extend(["labels"] * ("FROM label_counts" in statement))
        found.extend(["errors"] * ("GROUP BY results.error_code" in statement))

    event.listen(database.engine, "before_cursor_execute", note)
    yield found
    event.remove(database.engine, "before_cursor_execute", note)


def _run(database: Database, *errors: list[int]) -> tuple[str, Iterator[None]]:
    """A job whose chunks of four end one by one, with these records in error."""
    job_id = make_job(database, [4] * len(errors))
    claims = claim_all(database, job_id)

    def chunks() -> Iterator[None]:
        for claimed, bad in zip(claims, errors, strict=True):
            complete(database, claimed, errors=bad)
            yield

    return job_id, chunks()


def test_nothing_is_counted_again_while_there_are_no_new_rows(
    database: Database, asked: list[str]
) -> None:
    job_id, chunks = _run(database, [], [])
    reader = SummaryReader(database, job_id)
    next(chunks)
    for _ in range(3):
        summary = reader.read()
        assert summary.processed == 4
        assert [(one.label, one.records) for one in summary.labels] == [("ham", 4)]
    assert asked == ["labels"]
    next(chunks)
    assert [one.records for one in reader.read().labels] == [8]
    assert asked == ["labels", "labels"]


def test_errors_are_counted_by_reason_when_there_are_new_ones(
    database: Database, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(summary_reader, "ERROR_SECONDS", 0.0)
    monkeypatch.setattr(summary_reader, "ERROR_TIMES", 0)
    job_id, chunks = _run(database, [0], [], [8, 9])
    reader = SummaryReader(database, job_id)
    seen = []
    for _ in chunks:
        seen += [[records for _, records, _ in reader.read().errors] for _ in range(2)]
    assert seen == [[1], [1], [1], [1], [3], [3]]
    assert asked.count("errors") == 2
    assert reader.read().errors == summarize(database, job_id).errors


def test_many_new_errors_are_counted_seldom_and_their_number_is_right_at_once(
    database: Database, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(summary_reader, "ERROR_SECONDS", 3600.0)
    job_id, chunks = _run(database, [0], [4, 5], [])
    reader = SummaryReader(database, job_id)
    next(chunks)
    reader.read()
    next(chunks)
    summary = reader.read()
    assert summary.job.error_records == 3
    assert [records for _, records, _ in summary.errors] == [1]
    assert asked.count("errors") == 1
    next(chunks)
    assert [records for _, records, _ in reader.read().errors] == [3], "at the end both are right"


def test_a_count_that_took_long_is_not_repeated_soon(
    database: Database, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(summary_reader, "ERROR_SECONDS", 0.0)
    monkeypatch.setattr(summary_reader, "ERROR_TIMES", 10**9)
    job_id, chunks = _run(database, [0], [4, 5], [])
    reader = SummaryReader(database, job_id)
    for _ in range(2):
        next(chunks)
        reader.read()
    assert asked.count("errors") == 1


def test_workers_are_told_with_their_devices_and_when_they_were_seen(database: Database) -> None:
    info = WorkerInfo("gpu-1:cuda:0:ab", "gpu-1", 1, "cuda:0", 4, ("default",))
    database.transact(register_worker, info)
    found = SummaryReader(database, make_job(database)).read().as_dict()
    (worker,) = found["workers"]
    assert 0 <= worker.pop("seconds_since_seen") < 10
    assert worker == {
        "id": "gpu-1:cuda:0:ab",
        "host": "gpu-1",
        "device": "cuda:0",
        "slots": 4,
        "models": [],
    }
    assert found["live_workers"] == 1
    assert found["read_at"] == pytest.approx(found["created_at"], abs=10)
