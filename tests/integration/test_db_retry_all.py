"""``retry --all``: every record of an ended job runs again, from the inputs that SQL still has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Row, select

from textmill.core.errors import JobConflictError
from textmill.core.jobs import JobStatus, Record
from textmill.core.params import ClassificationParams
from textmill.core.tasks import TASKS
from textmill.db import loading, rerun
from textmill.db.chunks import ChunkOutcome, Claim, LeaseLostError, complete_chunk
from textmill.db.jobs import cancel_job, fail_job
from textmill.db.loading import NewChunk, add_chunks, create_job, finish_loading
from textmill.db.models import chunks, jobs, label_counts, payloads, results
from textmill.db.payloads import encode_payload
from textmill.db.rerun import rerun_job
from textmill.db.results import ResultRow
from textmill.db.retry import retry_job
from textmill.db.session import Database

from .. import builders
from ..builders import (
    LEASE,
    claim,
    claim_all,
    complete,
    count,
    counts,
    dispatch,
    indexed,
    job_of,
    make_job,
    put,
    put_job,
    record,
    snapshot,
    spec,
    statuses,
)
from ..submissions import chunk_records, reader_of

# Fixtures; imported by name, they would be redefined by every test's parameter.
tables_url = builders.tables_url
postgresql = builders.postgresql
database = builders.database


def rows_of(database: Database, job_id: str) -> list[Row[Any]]:
    with database.read() as connection:
        own = select(results).where(results.c.job_id == job_id).order_by(results.c.record_index)
        return list(connection.execute(own).all())


def indexes(database: Database, job_id: str) -> list[int]:
    return [row.record_index for row in rows_of(database, job_id)]


def labels(database: Database, job_id: str) -> dict[str, int]:
    with database.read() as connection:
        own = select(label_counts).where(label_counts.c.job_id == job_id)
        return {row.label: row.records for row in connection.execute(own)}


def run_all(database: Database, job_id: str, label: str = "spam") -> list[Record]:
    """Work off every pending chunk; the records in the order they ran in."""
    ran = []
    for claimed in claim_all(database, job_id, "w2"):
        ran += claimed.records
        complete(database, claimed, label=label)
    return ran


def ended_job(database: Database, sizes: tuple[int, ...], *, bad: int = 0, **fields: Any) -> str:
    """A job that ran once: record 1 is an error, ``bad`` rows could not be read."""
    job_id = make_job(database, sizes, bad=bad, **fields)
    for claimed in claim_all(database, job_id):
        complete(database, claimed, {1})
    return job_id


def refused(database: Database, job_id: str, match: str) -> None:
    """It says why, and nothing at all has changed."""
    before = snapshot(database)
    with pytest.raises(JobConflictError, match=match):
        database.transact(rerun_job, job_id)
    assert snapshot(database) == before


def test_every_record_runs_again_with_the_input_it_had(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rerun, "PAGE_ROWS", 2)
    job_id = ended_job(database, (3, 2), bad=2)
    other = ended_job(database, (2,))
    untouched = job_of(database, other), rows_of(database, other), labels(database, other)
    put(database, jobs, jobs.c.id == job_id, error="old", load_failures=["a cpu"])

    assert database.transact(rerun_job, job_id) == 5

    job = job_of(database, job_id)
    assert (job.status, job.total_records, job.done_records, job.error_records) == (
        "queued",
        7,
        0,
        2,
    )
    assert (job.started_at, job.finished_at, job.error, job.load_failures) == (None,) * 4
    assert (job.input_tokens, job.output_tokens, job.device_seconds) == (0, 0, 0)
    # Rows that could not be read have no input; they stay, with their error.
    assert [(row.record_index, row.error_code) for row in rows_of(database, job_id)] == [
        (5, "bad_row"),
        (6, "bad_row"),
    ]
    assert labels(database, job_id) == {}
    assert statuses(database, job_id) == ["done"] * 2 + ["pending"] * 2  # of three records again
    assert count(database, payloads) == 3  # theirs, and the other job's

    assert run_all(database, job_id) == [record(index) for index in range(5)]
    job = job_of(database, job_id)
    assert (job.status, job.done_records, job.error_records) == ("completed_with_errors", 5, 2)
    assert (job.input_tokens, job.output_tokens, job.device_seconds) == (25, 10, 1.0)
    assert indexes(database, job_id) == list(range(7))
    assert labels(database, job_id) == {"spam": 5}
    assert (job_of(database, other), rows_of(database, other), labels(database, other)) == untouched


def test_a_completed_job_runs_again_and_again(database: Database) -> None:
    job_id = make_job(database, (2,))
    run_all(database, job_id, "ham")
    for _ in range(2):
        assert database.transact(rerun_job, job_id) == 2
        run_all(database, job_id)
        assert counts(database, job_id) == ("completed", 2, 0)
        assert indexes(database, job_id) == [0, 1]
        assert labels(database, job_id) == {"spam": 2}
    assert count(database, payloads) == 0


def test_the_new_chunks_are_cut_as_a_submission_cuts_them(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sizes() -> list[int]:
        with database.read() as connection:
            waiting = select(chunks.c.records).where(chunks.c.status == "pending")
            return list(connection.scalars(waiting.order_by(chunks.c.id)))

    chunk_records(monkeypatch, 4)
    monkeypatch.setattr(rerun, "PAGE_ROWS", 3)
    job_id = make_job(database, (9,))
    run_all(database, job_id)
    database.transact(rerun_job, job_id)
    assert sizes() == [4, 4, 1]
    run_all(database, job_id)
    monkeypatch.setattr(loading, "MAX_CHUNK_BYTES", 60)  # an encoded record has 42
    database.transact(rerun_job, job_id)
    assert sizes() == [2, 2, 2, 2, 1]


def test_a_failed_job_runs_what_it_had_left_too(database: Database) -> None:
    job_id = make_job(database, (2, 1, 2, 1))
    first, _ = (claim(database, message) for message in dispatch(database, job_id, 2))
    assert first is not None
    complete(database, first, {1}, window=3)
    database.transact(fail_job, job_id, "no model")

    assert database.transact(rerun_job, job_id) == 6
    assert counts(database, job_id) == ("queued", 0, 0)
    assert statuses(database, job_id) == ["done", *["pending"] * 4]
    assert sorted(one.index for one in run_all(database, job_id)) == list(range(6))
    assert counts(database, job_id) == ("completed", 6, 0)
    assert indexes(database, job_id) == list(range(6))


def stopped_while_it_ran(database: Database) -> tuple[str, Claim]:
    """A failed job whose chunk is still in a worker's hand."""
    job_id = make_job(database, (2, 1))
    claimed = claim(database, dispatch(database, job_id, 1)[0])
    database.transact(fail_job, job_id, "no model")
    assert claimed is not None
    return job_id, claimed


def overtaken(database: Database) -> tuple[str, Claim]:
    """A completed job, and the worker that lost a chunk of it to another."""
    job_id = make_job(database, (2, 1))
    claimed = claim(database, dispatch(database, job_id, 1)[0])
    put(database, chunks, chunks.c.status == "running", status="pending", lease_owner=None)
    run_all(database, job_id)
    assert claimed is not None
    return job_id, claimed


@pytest.mark.parametrize("held", [stopped_while_it_ran, overtaken])
@pytest.mark.parametrize("when", ["queued", "running", "completed"])
def test_an_old_claim_writes_nothing_into_the_new_run(
    database: Database, held: Callable[[Database], tuple[str, Claim]], when: str
) -> None:
    job_id, old = held(database)
    database.transact(rerun_job, job_id)
    if when != "queued":
        new = claim_all(database, job_id, "w2")
        for claimed in new if when == "completed" else []:
            complete(database, claimed)
    before = snapshot(database)
    with pytest.raises(LeaseLostError):
        complete(database, old, label="stale")
    assert snapshot(database) == before


def test_an_old_message_claims_nothing_of_the_new_run(database: Database) -> None:
    job_id = make_job(database, (1, 1))
    messages = dispatch(database, job_id)
    for message in messages:
        claimed = claim(database, message)
        assert claimed is not None
        complete(database, claimed)
    database.transact(rerun_job, job_id)
    dispatch(database, job_id)
    assert [claim(database, message) for message in messages] == [None, None]


@pytest.mark.parametrize("status", ["loading", "queued", "running", "paused"])
def test_a_job_that_has_not_ended_says_what_it_is(database: Database, status: str) -> None:
    job_id = ended_job(database, (2, 1))
    put_job(database, job_id, JobStatus(status))
    refused(database, job_id, f"is {status}; only a job that has ended")


def test_a_cancelled_job_has_no_inputs_left(database: Database) -> None:
    job_id = make_job(database, (2, 1))
    complete(database, claim_all(database, job_id)[0])
    database.transact(cancel_job, job_id)
    refused(database, job_id, "is cancelled.*submit its input again")


def test_a_task_that_reads_more_than_a_row_keeps_is_refused(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = ended_job(database, (2,))

    class Questions(ClassificationParams):
        def fields(self) -> tuple[str, ...]:
            return ("question", "text", "context")

    task = replace(TASKS["classification"], params=Questions)
    monkeypatch.setitem(TASKS, "classification", task)
    refused(database, job_id, "reads question, context, which no row has; submit them again")


@pytest.mark.parametrize("error", [False, True], ids=["an output", "an error"])
def test_a_row_without_its_text_is_named(database: Database, error: bool) -> None:
    """As when only hashes of the texts are stored, or they were purged."""
    job_id = ended_job(database, (1, 2))
    put(database, results, results.c.record_index == 2 - error, text=None, text_hash=b"h" * 16)
    refused(database, job_id, f"the row of record 'id{2 - error}' has no text; submit them again")


def test_a_row_that_is_gone_is_missed(database: Database) -> None:
    job_id = ended_job(database, (3,))
    with database.write() as connection:
        connection.execute(results.delete().where(results.c.record_index == 0))
    refused(database, job_id, "1 of its records have no row")


def test_a_record_with_parameters_of_its_own_is_refused(database: Database) -> None:
    records = [Record(n, f"id{n}", {"text": "x"}, {"top_k": n} if n else None) for n in range(2)]
    with database.write() as connection:
        job_id = create_job(connection, spec(), load_seconds=LEASE)
        add_chunks(connection, job_id, [NewChunk(2, encode_payload(records))], load_seconds=LEASE)
        finish_loading(connection, job_id, total=2, errors=0, input_hash=b"hash")
    (claimed,) = claim_all(database, job_id)
    rows = [ResultRow(n, f"id{n}", "x", error_code="runner_error") for n in range(2)]
    done = indexed(database, claimed, ChunkOutcome(rows, claimed.records, {}))
    database.transact(complete_chunk, claimed, done, window=0)
    refused(database, job_id, "record 'id1' has parameters of its own")
    assert database.transact(retry_job, job_id) == 2  # which has their inputs as they were


def test_no_reader_sets_parameters_of_records_yet() -> None:
    """One that does must say so on the job's row, and db/rerun.py must ask it (see its comment)."""
    row = {"text": "a", "params": {"top_k": 1}, "top_k": 2, "parameters": "x"}
    assert [one.params for one in reader_of([row]) if isinstance(one, Record)] == [None]


def test_rows_that_could_not_be_read_cannot_run_again(database: Database) -> None:
    job_id = make_job(database, (), bad=2)
    assert job_of(database, job_id).status == "completed_with_errors"
    refused(database, job_id, "no record to run again")


def test_of_two_at_once_one_wins(database: Database) -> None:
    job_id = ended_job(database, (5, 5))
    found = builders.at_once(*[lambda: database.transact(rerun_job, job_id)] * 2)
    (lost,) = (one for one in found if isinstance(one, JobConflictError))
    assert "is queued" in str(lost)
    assert 10 in found
    run_all(database, job_id)
    assert counts(database, job_id) == ("completed", 10, 0)
    assert indexes(database, job_id) == list(range(10))


def test_a_records_own_options_are_read_again_from_its_columns(database: Database) -> None:
    own = {"own_columns": {"seed": "n"}}
    job_id = ended_job(database, (2, 1), task="generation", params=own)
    database.transact(rerun_job, job_id)
    ran = run_all(database, job_id)
    assert [record.params for record in ran] == [{"seed": n} for n in range(3)]
    assert [record.inputs for record in ran] == [{"text": f"text {n}"} for n in range(3)]


def test_a_prompt_made_by_a_template_is_not_made_again(database: Database) -> None:
    """What a row keeps is the whole prompt; its columns are no fields any more."""
    job_id = ended_job(database, (2,), task="generation", params={"template": "Say {n}: {word}"})
    database.transact(rerun_job, job_id)
    ran = run_all(database, job_id)
    assert [record.inputs for record in ran] == [{"text": f"text {n}"} for n in range(2)]
