"""Submissions on real databases: all of a job or nothing of it, once per key."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import event, select, text

from textmill.core.broker import Publisher
from textmill.core.errors import InputError, JobConflictError, ServiceUnavailableError
from textmill.core.settings import Settings
from textmill.db import loading
from textmill.db.jobs import cancel_job
from textmill.db.models import chunks, jobs, payloads, results
from textmill.db.payloads import decode_payload
from textmill.db.session import Database
from textmill.producer.submit import submit_job

from .. import builders, submissions
from ..builders import count, job_of, spec, statuses, with_tables
from ..servers import free_port
from ..submissions import HEAD_ROWS, Outbox, nothing_in, reader_of, send

MakeSettings = Callable[..., Settings]


# Fixtures; imported by name, they would be redefined by every test's parameter.
tables_url = builders.tables_url
postgresql = builders.postgresql
database = builders.database
small_chunks = submissions.small_chunks


def test_every_record_is_in_sql_once_in_order_and_the_first_chunks_are_dispatched(
    database: Database, small_chunks: None
) -> None:
    outbox = Outbox()
    rows = [{"text": f"t{n}", "more": n} for n in range(95)]
    seen: list[int] = []
    done = submit_job(database, outbox, spec(name="n"), reader_of(rows), progress=seen.append)
    assert (done.records, done.error_records, done.existing, done.undispatched) == (
        95,
        0,
        False,
        None,
    )
    job = job_of(database, done.job_id)
    assert (job.status, job.total_records, job.name) == ("queued", 95, "n")
    assert (job.load_expires_at, job.extra_columns) == (None, ["more"])
    with database.read() as connection:
        data = connection.scalars(select(payloads.c.data).order_by(payloads.c.chunk_id)).all()
        sizes = connection.scalars(select(chunks.c.records).order_by(chunks.c.id)).all()
    records = [one for part in data for one in decode_payload(part)]
    assert [(one.index, one.inputs["text"], one.extra) for one in records] == [
        (n, f"t{n}", {"more": n}) for n in range(95)
    ]
    assert sizes == [10] * 9 + [5]
    assert len(outbox.messages) == 4
    assert statuses(database, done.job_id) == ["dispatched"] * 4 + ["pending"] * 6
    assert seen == sorted(seen)
    assert seen[-1] == 95


def test_a_chunk_of_long_texts_ends_by_its_bytes(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "MAX_CHUNK_BYTES", 1000)
    done = send(database, ["x" * 400] * 7)
    with database.read() as connection:
        assert list(connection.scalars(select(chunks.c.records))) == [3, 3, 1]
    assert done.records == 7


@pytest.mark.parametrize("failure", [InputError("line 150"), KeyboardInterrupt(), OSError("disk")])
@pytest.mark.parametrize("key", [None, "k"])
def test_a_submission_that_ends_in_the_middle_leaves_no_row_in_any_table(
    database: Database, small_chunks: None, failure: BaseException, key: str | None
) -> None:
    written: list[int] = []

    def rows() -> Iterator[Any]:
        yield from ["good", 5] * (HEAD_ROWS // 2 + 40)
        written.extend(count(database, table) for table in (jobs, chunks, payloads, results))
        raise failure

    outbox = Outbox()
    with pytest.raises(type(failure)):
        submit_job(database, outbox, spec(key=key), reader_of(rows(), skip_bad=True))
    assert all(written), "the failure came before anything was written"
    assert nothing_in(database)
    assert outbox.messages == []
    assert send(database, ["good"], spec(key=key)).records == 1  # a failed load frees the key


def test_a_doubled_id_is_found_at_the_end_and_leaves_nothing(
    database: Database, small_chunks: None
) -> None:
    rows = [{"id": str(n % 150), "text": "a"} for n in range(151)]
    with pytest.raises(InputError, match="occurs twice, in records 1 and 151"):
        send(database, rows, id_column="id")
    assert nothing_in(database)


def test_rows_that_cannot_be_read_get_their_error_row_at_once(
    database: Database, small_chunks: None
) -> None:
    during: list[int] = []

    def rows() -> Iterator[Any]:
        yield from ["good", 5, {"text": "good", "more": "kept"}] * 50
        during.append(count(database, results))
        yield {"text": None, "more": "kept"}

    done = send(database, rows(), skip_bad=True)
    assert during[0] >= 40
    assert (done.records, done.error_records) == (151, 51)
    job = job_of(database, done.job_id)
    assert (job.status, job.total_records, job.error_records, job.done_records) == (
        "queued",
        151,
        51,
        0,
    )
    with database.read() as connection:
        rows_there = connection.execute(select(results).order_by(results.c.record_index)).all()
    assert [row.record_index for row in rows_there] == [*range(1, 150, 3), 150]
    assert {row.error_code for row in rows_there} == {"bad_row", "missing_text"}
    assert rows_there[-1].extra == {"more": "kept"}
    assert all(row.error_message for row in rows_there)


def test_a_job_of_nothing_but_bad_rows_ends_at_once(database: Database) -> None:
    outbox = Outbox()
    done = submit_job(
        database, outbox, spec(), reader_of([5, 6], skip_bad=True, columns={"text": "text"})
    )
    job = job_of(database, done.job_id)
    assert (job.status, job.error_records) == ("completed_with_errors", 2)
    assert job.finished_at is not None
    assert (count(database, chunks), outbox.messages) == (0, [])


def test_a_job_is_accepted_while_the_broker_is_away(
    database: Database, settings: MakeSettings
) -> None:
    publisher = Publisher(settings(broker_url=f"redis://127.0.0.1:{free_port()}/0"))
    done = submit_job(database, publisher, spec(), reader_of(["a"]))
    publisher.close()
    assert done.undispatched is not None
    assert job_of(database, done.job_id).status == "queued"
    assert statuses(database, done.job_id) == ["pending"]  # for a sweep that reaches the broker


def test_a_job_cancelled_while_it_loads_stays_cancelled(
    database: Database, small_chunks: None
) -> None:
    cancelled: list[str] = []

    def rows() -> Iterator[str]:
        yield from ["a"] * (HEAD_ROWS + 50)
        with database.read() as connection:
            cancelled.extend(connection.scalars(select(jobs.c.id)))
        database.transact(cancel_job, cancelled[0])
        yield from ["a"] * 50

    outbox = Outbox()
    with pytest.raises(JobConflictError, match="was cancelled"):
        submit_job(database, outbox, spec(key="k"), reader_of(rows()))
    assert job_of(database, cancelled[0]).status == "cancelled"
    assert set(statuses(database, cancelled[0])) == {"cancelled"}
    assert (count(database, payloads), outbox.messages) == (0, [])


def test_a_full_database_is_told_and_no_half_job_stays(tmp_path: Any, small_chunks: None) -> None:
    noise = random.Random(1)
    for database in with_tables(f"sqlite:///{tmp_path / 'textmill.db'}"):
        with database.read() as connection:
            pages = (connection.scalar(text("PRAGMA page_count")) or 0) + 30
        database.engine.dispose()
        limit = f"PRAGMA max_page_count = {pages}"
        event.listen(database.engine, "connect", lambda raw, _, it=limit: raw.execute(it).close())
        for bad in (False, True):
            rows = (
                {"text": 5 if bad else noise.randbytes(400).hex(), "x": "y" * 900}
                for _ in range(900)
            )
            with pytest.raises(ServiceUnavailableError, match="no space left"):
                send(database, rows, skip_bad=True, columns={"text": "text"})
            assert nothing_in(database)
        assert send(database, ["small"]).records == 1
