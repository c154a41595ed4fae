"""Purge: what goes and what stays, of whole jobs and single records, down to the files' bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, select, text

from textmill.core.errors import JobConflictError, PurgedJobError, ServiceUnavailableError
from textmill.core.jobs import ENDED, JobStatus
from textmill.db import pace, postgresql_vacuum, purge, record_purge, sqlite_vacuum
from textmill.db.audits import (
    begin_audit,
    bytes_are_left,
    count_audited,
    finish_audit,
    list_audits,
)
from textmill.db.filters import ResultFilter
from textmill.db.indexing import row_id
from textmill.db.jobs import cancel_job, fail_job
from textmill.db.models import chunks, jobs, payloads, result_values, reuse_keys, workers
from textmill.db.payloads import decode_payload
from textmill.db.purge import find_old, is_purged, purge_job
from textmill.db.queries import count_labels, iter_results
from textmill.db.record_purge import find_records, purge_records
from textmill.db.rerun import rerun_job
from textmill.db.retry import has_retryable, retry_job
from textmill.db.session import Database
from textmill.db.vacuum import vacuum
from textmill.producer.vectors import read_vectors

from .. import builders
from ..builders import claim_all, count, counts, job_of, put, put_job, snapshot, statuses
from ..canaries import (
    PLACES,
    canary,
    files_of,
    finish,
    found_in,
    payload_bytes,
    private_job,
    rows_of,
    unreadable_row,
)
from ..entries import read_values, read_words
from ..servers import PostgresServer

tables_url = builders.tables_url
postgresql = builders.postgresql
database = builders.database

ASKED = {"by": "test"}
# What is left of a row: its columns in the order of the table.
STAYS = ("job_id", "record_index", "label", "score", "error_code", "input_tokens", "output_tokens")


def stub(row: Any) -> tuple[Any, ...]:
    return tuple(getattr(row, name) for name in STAYS)


def lost(row: Any) -> dict[str, Any]:
    """What of a row is neither a stub's nor empty."""
    return {
        name: value
        for name, value in row._mapping.items()
        if name not in STAYS and value not in (None, "")
    }


def words_of(database: Database, job_id: str) -> int:
    first = row_id(job_of(database, job_id), 0)
    with database.read() as connection:
        return sum(first <= row < first + 10_000 for row in read_words(connection))


def canaries(indexes: range | list[int]) -> list[str]:
    return [canary(place, index) for place in PLACES for index in indexes]


# -- whole jobs -----------------------------------------------------------------------------------


def test_a_purged_job_keeps_its_counts_and_nothing_that_was_said(database: Database) -> None:
    job_id = private_job(database, errors=(1,))
    other = private_job(database, start=100)
    unreadable_row(database, job_id, 6)
    put(database, jobs, jobs.c.id == job_id, error=canary("message", 0), total_records=7)
    put(database, chunks, chunks.c.job_id == job_id, error=canary("message", 0))
    before, labels = rows_of(database, job_id), labels_of(database, job_id)
    unharmed = snapshot_of(database, other)
    reported: list[int] = []

    assert purge_job(database, job_id, ASKED, reported.append) == 7

    rows = rows_of(database, job_id)
    assert [stub(row) for row in rows] == [stub(row) for row in before]
    assert [lost(row) for row in rows] == [{}] * 7
    assert all(lost(row) for row in before)
    assert sum(reported) == 7
    assert labels_of(database, job_id) == labels != {}
    job = job_of(database, job_id)
    assert (job.done_records, job.error_records) == (5, 1)
    assert (job.input_hash, job.error) == (None, None)
    assert job.purged_at is not None
    assert words_of(database, job_id) == 0
    assert count(database, result_values, result_values.c.job_id == job_id) == 0
    assert count(database, reuse_keys, reuse_keys.c.job_id == job_id) == 0
    assert payload_bytes(database, job_id) == []
    assert count(database, chunks, chunks.c.error.is_not(None)) == 0
    assert snapshot_of(database, other) == unharmed
    with database.read() as connection:
        assert is_purged(connection, job)


def labels_of(database: Database, job_id: str) -> dict[str, int]:
    with database.read() as connection:
        return {one.label: one.records for one in count_labels(connection, job_id)}


def snapshot_of(database: Database, job_id: str) -> list[Any]:
    """All that one job has."""
    first = row_id(job_of(database, job_id), 0)
    with database.read() as connection:
        words = read_words(connection)
        values = read_values(connection)
    return [
        job_of(database, job_id),
        rows_of(database, job_id),
        labels_of(database, job_id),
        payload_bytes(database, job_id),
        {row: own for row, own in words.items() if first <= row < first + 10_000},
        {value for value in values if value[0] == job_id},
        count(database, reuse_keys, reuse_keys.c.job_id == job_id),
    ]


def test_a_purged_job_answers_that_its_texts_are_gone(database: Database) -> None:
    job_id = private_job(database, errors=(1,))
    purge_job(database, job_id, ASKED)
    job = job_of(database, job_id)
    questions: list[Callable[[], Any]] = [
        lambda: list(iter_results(database, job, ResultFilter())),
        lambda: list(iter_results(database, job, ResultFilter(order="score"))),
        lambda: list(read_vectors(database, job)),
        lambda: database.transact(retry_job, job_id),
        lambda: database.transact(rerun_job, job_id),
    ]
    before = snapshot(database)
    for question in questions:
        with pytest.raises(PurgedJobError, match=rf"{job_id} was purged on \d{{4}}-\d\d-\d\d; its"):
            question()
    assert snapshot(database) == before
    with database.read() as connection:
        assert not has_retryable(connection, job_id)


@pytest.mark.parametrize("status", [one for one in JobStatus if one not in ENDED])
def test_a_job_that_has_not_ended_is_refused(database: Database, status: JobStatus) -> None:
    job_id = private_job(database)
    put_job(database, job_id, status)
    before = snapshot(database)
    with pytest.raises(JobConflictError, match=f"job {job_id} is {status} and cannot be purged"):
        purge_job(database, job_id, ASKED)
    assert snapshot(database) == before


def test_a_failed_job_that_a_worker_still_writes_is_refused_until_it_has(
    database: Database,
) -> None:
    job_id = private_job(database, run=0)
    database.transact(fail_job, job_id, "no model")
    with pytest.raises(JobConflictError, match="workers still have 6 of its records in hand"):
        purge_job(database, job_id, ASKED)
    put(database, chunks, chunks.c.job_id == job_id, status="failed")
    assert purge_job(database, job_id, ASKED) == 0
    assert payload_bytes(database, job_id) == []


def test_what_a_failed_job_had_waiting_goes_and_runs_no_more(database: Database) -> None:
    job_id = private_job(database, run=1)
    database.transact(fail_job, job_id, "no model")
    put(database, chunks, chunks.c.status == "running", status="failed")
    assert purge_job(database, job_id, ASKED) == 3
    assert payload_bytes(database, job_id) == []
    assert counts(database, job_id) == ("failed", 2, 1)


def test_a_claim_of_a_job_cancelled_before_its_purge_writes_nothing(database: Database) -> None:
    job_id = private_job(database, run=0)
    claimed = claim_all(database, job_id)
    assert claimed == []  # all are held since private_job
    database.transact(cancel_job, job_id)
    purge_job(database, job_id, ASKED)
    assert rows_of(database, job_id) == []


def test_a_fixed_context_goes_with_the_job(database: Database) -> None:
    job_id = private_job(database)
    params = {"context": canary("text", 0), "window": 64}
    put(database, jobs, jobs.c.id == job_id, task="question-answering", params=params)
    purge_job(database, job_id, ASKED)
    assert job_of(database, job_id).params == {"window": 64}


class CutError(Exception):
    """The process is ended here."""


def cut_after(pages: int) -> Callable[[int], None]:
    done: list[int] = []

    def report(records: int) -> None:
        done.append(records)
        if len(done) == pages:
            raise CutError

    return report


@pytest.mark.parametrize("pages", [1, 2, 3])
def test_a_purge_that_is_cut_off_goes_on_when_it_is_asked_for_again(
    database: Database, pages: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purge, "FIRST_ROWS", 4)
    monkeypatch.setattr(purge, "MOST_ROWS", 4)
    monkeypatch.setattr(pace, "TARGET_SECONDS", 60)  # on a busy machine it would take fewer
    job_id = private_job(database, 20, chunk=20)
    with pytest.raises(CutError):
        purge_job(database, job_id, ASKED, cut_after(pages))
    job = job_of(database, job_id)
    assert sum(row.record_id == "" for row in rows_of(database, job_id)) == 4 * pages
    with pytest.raises(PurgedJobError):
        list(iter_results(database, job, ResultFilter()))
    with database.read() as connection:
        assert not is_purged(connection, job)
        (old,) = find_old(connection, -1)
        assert (old.job.id, old.records) == (job_id, 20 - 4 * pages)

    assert purge_job(database, job_id, ASKED) == 20 - 4 * pages
    assert [lost(row) for row in rows_of(database, job_id)] == [{}] * 20
    assert words_of(database, job_id) == 0
    assert job_of(database, job_id).purged_at == job.purged_at
    with database.read() as connection:
        assert find_old(connection, -1) == []
        again, first = list_audits(connection)
    assert (first.records, first.finished_at) == (4 * pages, None)
    assert again.records == 20 - 4 * pages
    assert again.finished_at is not None


def test_of_two_purges_at_once_each_row_is_purged_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purge, "FIRST_ROWS", 2)
    monkeypatch.setattr(purge, "MOST_ROWS", 2)
    job_id = private_job(database, 60, chunk=30)
    other = private_job(database, start=100)
    done = builders.at_once(*[lambda: purge_job(database, job_id, ASKED)] * 2)
    assert sum(done) == 60
    assert words_of(database, job_id) == 0
    assert words_of(database, other) == 6
    with database.read() as connection:
        assert sum(one.records for one in list_audits(connection)) == 60


def test_jobs_that_ended_long_ago_are_found_and_no_other(database: Database) -> None:
    old, young, running = (private_job(database) for _ in range(3))
    put(database, jobs, jobs.c.id == old, finished_at=jobs.c.finished_at - 90_000)
    put(database, jobs, jobs.c.id == running, finished_at=jobs.c.finished_at - 90_000)
    put_job(database, running, JobStatus.RUNNING)
    with database.read() as connection:
        assert [(one.job.id, one.records) for one in find_old(connection, 86_400)] == [(old, 6)]
        assert [one.job.id for one in find_old(connection, -1)] == [old, young]


def test_to_look_for_old_jobs_reads_no_row_of_a_purged_one(database: Database) -> None:
    """A row is read for every record that was ever purged, each night, if it does."""
    done, cut_off = private_job(database), private_job(database)
    purge_job(database, done, ASKED)
    with pytest.raises(CutError):
        purge_job(database, cut_off, ASKED, cut_after(1))
    read: list[tuple[str, Any]] = []

    @event.listens_for(database.engine, "before_cursor_execute")
    def _note(connection: Any, cursor: Any, statement: str, given: Any, *rest: Any) -> None:
        read.append((statement, given))

    with database.read() as connection:
        assert [one.job.id for one in find_old(connection, -1)] == [cut_off]
        assert is_purged(connection, job_of(database, done))
        assert not is_purged(connection, job_of(database, cut_off))
    of_rows = [given for statement, given in read if "results" in statement]
    assert len(of_rows) == 1  # of the one that was cut off
    assert cut_off in str(of_rows)


def test_a_purge_of_a_record_is_none_of_its_job(database: Database) -> None:
    job_id = private_job(database)
    assert purge_ids(database, {canary("id", 2)}) == 1
    with database.read() as connection:
        assert not is_purged(connection, job_of(database, job_id))
    with pytest.raises(CutError):
        purge_job(database, job_id, ASKED, cut_after(1))
    with database.read() as connection:
        assert not is_purged(connection, job_of(database, job_id))
        assert [one.job.id for one in find_old(connection, -1)] == [job_id]


def test_the_audit_says_what_was_asked_and_how_much_went_and_no_id(database: Database) -> None:
    job_id = private_job(database)
    purge_job(database, job_id, {"older_than": "30d"})
    with database.read() as connection:
        (audit,) = list_audits(connection, job_id=job_id)
    assert (audit.action, audit.job_id, audit.records) == ("purge", job_id, 6)
    assert audit.detail == {"older_than": "30d"}
    assert audit.at <= audit.finished_at
    other = private_job(database)
    (found,) = find_records(database, {canary("id", 2)}, other)
    purge_records(database, found, {canary("id", 2)}, {"by": "record-id", "ids": 1})
    with database.read() as connection:
        assert [one.records for one in list_audits(connection)] == [1, 6]
        noted = str([tuple(one) for one in list_audits(connection)])
    assert not any(word in noted for word in canaries([2]))


# -- single records -------------------------------------------------------------------------------


def purge_ids(database: Database, ids: set[str], job_id: str | None = None) -> int:
    found = find_records(database, ids, job_id)
    return sum(purge_records(database, one, ids, ASKED) for one in found)


def test_a_record_goes_from_every_job_and_all_others_stay(database: Database) -> None:
    one, other = private_job(database, errors=()), private_job(database, errors=(2,))
    without = private_job(database, start=100)
    before = {job: rows_of(database, job) for job in (one, other)}
    unharmed = snapshot_of(database, without)

    assert purge_ids(database, {canary("id", 2), "unknown"}) == 2

    for job_id, rows in before.items():
        after = rows_of(database, job_id)
        assert lost(after[2]) == {}
        assert stub(after[2]) == stub(rows[2])
        assert [row for row in after if row.record_index != 2] == [
            row for row in rows if row.record_index != 2
        ]
        assert words_of(database, job_id) == 5
        assert count(database, result_values, result_values.c.job_id == job_id) == 5
        assert count(database, reuse_keys, reuse_keys.c.job_id == job_id) == 5
        assert job_of(database, job_id).input_hash is None
        assert job_of(database, job_id).purged_at is None
    assert payload_bytes(database, other) == []  # it held this error record's input alone
    assert snapshot_of(database, without) == unharmed
    assert find_records(database, {canary("id", 2)}) == []


def test_only_the_named_job_is_looked_into(database: Database) -> None:
    one, other = private_job(database), private_job(database)
    assert purge_ids(database, {canary("id", 2)}, one) == 1
    assert lost(rows_of(database, other)[2]) != {}


def test_a_kept_error_input_goes_and_the_others_still_run_again(database: Database) -> None:
    job_id = private_job(database, errors=(0, 1))
    assert purge_ids(database, {canary("id", 1)}) == 1
    assert database.transact(retry_job, job_id) == 1
    (claimed,) = claim_all(database, job_id, "w2")
    assert [record.index for record in claimed.records] == [0]


def test_a_record_that_has_not_run_gets_a_row_and_its_job_still_ends(database: Database) -> None:
    job_id = private_job(database, errors=(), run=1)
    database.transact(fail_job, job_id, "no model")
    put(database, chunks, chunks.c.status == "running", status="failed")
    assert purge_ids(database, {canary("id", 4)}) == 1

    assert counts(database, job_id) == ("failed", 3, 1)
    row = rows_of(database, job_id)[3]
    assert (row.record_index, row.record_id, row.error_code) == (4, "", "purged")
    assert lost(row) == {}
    assert database.transact(retry_job, job_id) == 2
    run_without_keys(database, job_id)
    assert counts(database, job_id) == ("completed_with_errors", 5, 1)
    assert [row.record_index for row in rows_of(database, job_id)] == list(range(6))


def run_without_keys(database: Database, job_id: str) -> None:
    with database.write() as connection:
        connection.execute(reuse_keys.delete())
    for claimed in claim_all(database, job_id, "w2"):
        finish(database, claimed, ())


def test_a_chunk_of_which_every_record_was_purged_is_over(database: Database) -> None:
    job_id = private_job(database, errors=(), run=1)
    database.transact(fail_job, job_id, "no model")
    put(database, chunks, chunks.c.status == "running", status="failed")
    assert purge_ids(database, {canary("id", index) for index in (3, 4, 5)}) == 3
    assert statuses(database, job_id) == ["done", "cancelled"]
    assert payload_bytes(database, job_id) == []
    assert counts(database, job_id) == ("failed", 3, 3)
    with pytest.raises(JobConflictError, match="no record to run again"):
        database.transact(retry_job, job_id)


def test_retry_all_leaves_purged_records_as_errors_that_say_so(database: Database) -> None:
    job_id = private_job(database, errors=())
    assert purge_ids(database, {canary("id", 2)}) == 1
    assert database.transact(rerun_job, job_id) == 5
    run_without_keys(database, job_id)
    assert counts(database, job_id) == ("completed_with_errors", 5, 1)
    row = rows_of(database, job_id)[2]
    assert (row.error_code, row.label, row.score) == ("purged", None, None)
    assert labels_of(database, job_id) == {"spam": 5}


def test_a_record_in_a_job_that_has_not_ended_is_found_in_its_payload_and_refused(
    database: Database,
) -> None:
    job_id = private_job(database, run=0)
    (found,) = find_records(database, {canary("id", 5)})
    assert (found.job.id, list(found.rows), list(found.waiting.values())) == (job_id, [], [[5]])
    before = snapshot(database)
    with pytest.raises(JobConflictError, match=r"in a job that has not ended: job .* is running"):
        record_purge.check_ended(found.job)
    with pytest.raises(JobConflictError, match="is running and cannot be changed"):
        purge_records(database, found, {canary("id", 5)}, ASKED)
    after = snapshot(database)
    assert after.pop("audits") != before.pop("audits")
    assert after == before


def test_a_record_that_a_worker_has_in_hand_is_refused(database: Database) -> None:
    job_id = private_job(database, run=0)
    database.transact(fail_job, job_id, "no model")
    (found,) = find_records(database, {canary("id", 5)})
    with pytest.raises(JobConflictError, match=r"a worker has the record .* in hand"):
        purge_records(database, found, {canary("id", 5)}, ASKED)
    assert len(payload_bytes(database, job_id)) == 2


def test_a_job_that_ran_again_meanwhile_is_left_alone(database: Database) -> None:
    job_id = private_job(database, errors=(1,))
    (found,) = find_records(database, {canary("id", 1)})
    database.transact(retry_job, job_id)
    run_without_keys(database, job_id)
    before = rows_of(database, job_id)
    with pytest.raises(JobConflictError, match="ran again meanwhile"):
        purge_records(database, found, {canary("id", 1)}, ASKED)
    assert rows_of(database, job_id) == before


# -- the files' bytes -----------------------------------------------------------------------------


@pytest.fixture
def folder(request: pytest.FixtureRequest, database: Database) -> Path | None:
    """Where PostgreSQL's files are."""
    if database.is_sqlite:
        return None
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.folder


@pytest.fixture(autouse=True)
def _others(database: Database) -> Iterator[None]:
    """Others have the database open, as workers do: SQLite empties its log for the last one."""
    connection = database.engine.raw_connection()
    yield
    connection.close()


def analyze(database: Database) -> None:
    """Have the planner take samples of all values, as it does by itself from time to time."""
    with database.engine.connect() as plain:
        connection = plain.execution_options(isolation_level="AUTOCOMMIT")
        connection.execute(text("ANALYZE"))


def test_no_file_has_a_byte_of_a_purged_job(database: Database, folder: Path | None) -> None:
    purged = private_job(database, 40, errors=(1, 7), chunk=20)
    kept = private_job(database, start=1000)
    analyze(database)
    wanted = [*canaries(range(40)), *payload_bytes(database, purged)]
    assert len(wanted) == 40 * len(PLACES) + 1
    files = files_of(database, folder)
    assert all(found_in(files, *[canary(place, at) for at in range(40)]) for place in PLACES)

    purge_job(database, purged, ASKED)
    assert found_in(files_of(database, folder), *wanted) != []  # this is what a vacuum is for
    vacuum(database, patience_seconds=20)

    assert found_in(files_of(database, folder), *wanted) == []
    files = files_of(database, folder)
    assert all(found_in(files, canary(place, 1002)) for place in PLACES if place != "message")
    with database.read() as connection:
        assert not bytes_are_left(connection)
        job = job_of(database, kept)
        found = [
            row.record_index
            for word in ("text", "output")
            for row in iter_results(database, job, ResultFilter(search=canary(word, 1002)))
        ]
    assert found == [2, 2]


def test_no_file_has_a_byte_of_the_only_job_there_was(
    database: Database, folder: Path | None
) -> None:
    """Where tables become empty: PostgreSQL keeps samples of those that have no row to sample."""
    purged = private_job(database, errors=(1,))
    analyze(database)
    wanted = [*canaries(range(6)), *payload_bytes(database, purged)]
    assert found_in(files_of(database, folder), *wanted) != []
    purge_job(database, purged, ASKED)
    vacuum(database, patience_seconds=20)
    assert found_in(files_of(database, folder), *wanted) == []


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_what_was_deleted_before_the_purge_goes_too(database: Database) -> None:
    """SQLite leaves deleted bytes where they are, unless it was built or told to do otherwise."""

    @event.listens_for(database.engine, "connect")
    def _as_most_are(connection: Any, record: Any) -> None:
        connection.execute("PRAGMA secure_delete = OFF")

    database.engine.dispose()
    job_id = private_job(database, run=0)
    inputs = payload_bytes(database, job_id)
    put(database, chunks, chunks.c.job_id == job_id, status="done")
    put_job(database, job_id, JobStatus.COMPLETED)
    with database.write() as connection:
        connection.execute(payloads.delete())
    vacuum_log(database)
    assert len(inputs) == 2
    assert len(found_in(files_of(database), *inputs)) == 2
    vacuum(database)
    assert found_in(files_of(database), *inputs) == []


def vacuum_log(database: Database) -> None:
    with database.engine.connect() as connection:
        connection.exec_driver_sql("ROLLBACK")
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.exec_driver_sql("BEGIN")


def test_no_file_has_a_byte_of_a_purged_record(database: Database, folder: Path | None) -> None:
    job_id = private_job(database, errors=(1, 2))
    analyze(database)
    assert found_in(files_of(database, folder), *canaries([2])) != []
    old_payload = payload_bytes(database, job_id)
    assert purge_ids(database, {canary("id", 2)}) == 1
    vacuum(database, patience_seconds=20)
    assert found_in(files_of(database, folder), *canaries([2]), *old_payload) == []
    with database.read() as connection:
        (data,) = connection.scalars(select(payloads.c.data)).all()
    assert [one.index for one in decode_payload(data)] == [1]
    assert len(found_in(files_of(database, folder), canary("text", 1))) > 0


def test_a_purge_in_whose_middle_the_files_were_rewritten_leaves_bytes_and_says_so(
    database: Database, folder: Path | None
) -> None:
    job_id = private_job(database, 300, chunk=100)
    wanted = canaries(range(300))
    reports: list[int] = []

    def report(records: int) -> None:
        if not reports:
            vacuum(database, patience_seconds=20)
        reports.append(records)

    assert purge_job(database, job_id, ASKED, report) == 300
    assert len(reports) > 1
    assert found_in(files_of(database, folder), *wanted) != []
    with database.read() as connection:
        assert bytes_are_left(connection)
    vacuum(database, patience_seconds=20)
    assert found_in(files_of(database, folder), *wanted) == []
    with database.read() as connection:
        assert not bytes_are_left(connection)


@pytest.mark.parametrize("ends", [True, False], ids=["ends", "is cut off"])
def test_a_vacuum_says_nothing_of_what_was_removed_while_it_ran(
    database: Database, monkeypatch: pytest.MonkeyPatch, ends: bool
) -> None:
    """The purge begins before the vacuum and changes rows when the files are rewritten."""
    job_id = private_job(database)
    module = sqlite_vacuum if database.is_sqlite else postgresql_vacuum
    rewrite = module.vacuum
    audit_id = database.transact(begin_audit, "purge", job_id, ASKED)

    def and_then_purge(*given: Any) -> None:
        rewrite(*given)
        database.transact(count_audited, audit_id, 6)
        if ends:
            database.transact(finish_audit, audit_id)

    with monkeypatch.context() as patch:
        patch.setattr(module, "vacuum", and_then_purge)
        vacuum(database, patience_seconds=20)
    with database.read() as connection:
        assert bytes_are_left(connection)
    vacuum(database, patience_seconds=20)
    with database.read() as connection:
        assert not bytes_are_left(connection)


def test_what_an_older_transaction_may_still_read_is_waited_for(
    database: Database, folder: Path | None
) -> None:
    job_id = private_job(database)
    waited: list[str] = []
    with database.read() as older:
        if not database.is_sqlite:
            older.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        older.execute(select(workers)).all()  # which nobody needs to lock
        purge_job(database, job_id, ASKED)
        with pytest.raises(ServiceUnavailableError, match="gave up waiting for"):
            vacuum(database, patience_seconds=0, on_wait=waited.append)
        with database.read() as connection:
            assert bytes_are_left(connection)
    assert len(waited) == 1
    vacuum(database, patience_seconds=20)
    assert found_in(files_of(database, folder), *canaries(range(6))) == []


def test_a_vacuum_leaves_the_connections_of_others_as_they_were(database: Database) -> None:
    """Its settings, such as short waits for locks and temporary files on disk, go with it."""

    def settings() -> list[Any]:
        names = (
            ("PRAGMA temp_store", "PRAGMA temp_store_directory")
            if database.is_sqlite
            else ("SHOW lock_timeout", "SHOW statement_timeout")
        )
        with database.read() as connection:
            return [connection.execute(text(name)).scalar() for name in names]

    before = settings()
    vacuum(database)
    assert settings() == before


def test_sqlite_merges_words_in_short_transactions_and_comes_to_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_vacuum, "FIRST_PAGES", 1)
    monkeypatch.setattr(sqlite_vacuum, "MOST_PAGES", 1)
    for database in builders.with_tables(f"sqlite:///{tmp_path / 'merged.db'}"):
        purged = private_job(database, 600, chunk=50)
        private_job(database, 60, chunk=5, start=1000)
        purge_job(database, purged, ASKED)
        vacuum(database)
        assert found_in(files_of(database), *canaries(range(600))) == []
