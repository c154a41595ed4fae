"""What the rows of a job keep of its texts, what is kept beside them, and what can run again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from textmill.core.errors import ConfigurationError, InvalidJobError, JobConflictError
from textmill.core.jobs import JobSpec, JobStatus, Record
from textmill.core.settings import Settings, load_settings
from textmill.core.stored_texts import StoreText, hash_text, key_id
from textmill.db.chunks import complete_chunk
from textmill.db.filters import ResultFilter
from textmill.db.indexing import row_id
from textmill.db.jobs import fail_job
from textmill.db.loading import NewChunk, add_chunks, create_job, finish_loading
from textmill.db.models import chunks, payloads, result_values, results, reuse_keys
from textmill.db.payloads import decode_payload, encode_payload
from textmill.db.queries import iter_results
from textmill.db.rerun import rerun_job
from textmill.db.retry import has_retryable, retry_job, rows_taken_by_retry
from textmill.db.session import Database
from textmill.db.vacuum import vacuum
from textmill.producer.readers import ReadOptions, records_from_objects
from textmill.producer.readers.rules import RecordRules
from textmill.producer.submit import Submitted, submit_job, validate_spec
from textmill.workers.items import Output
from textmill.workers.rows import Keeping, gather_outcome

from .. import builders
from ..builders import claim, count, counts, dispatch, job_of, put, snapshot, spec, statuses
from ..canaries import (
    KEY,
    canary,
    files_of,
    finish,
    found_in,
    payload_bytes,
    private_job,
    rows_of,
    unreadable_row,
)
from ..entries import empty_words, read_words
from ..submissions import Outbox
from ..tiny_generators import save_generator

tables_url = builders.tables_url
postgresql = builders.postgresql
database = builders.database

MODES = [StoreText.HASH, StoreText.NONE]


def words_of(database: Database, job_id: str) -> set[str]:
    """Every word by which a record of the job is found."""
    first = row_id(job_of(database, job_id), 0)
    with database.read() as connection:
        words = read_words(connection)
    return {word for row, own in words.items() if first <= row < first + 1000 for word in own}


def test_full_keeps_texts_and_a_hash_that_all_jobs_share(database: Database) -> None:
    row, error = rows_of(database, private_job(database))[:2]
    assert row.text == f"dear {canary('text', 0)}, hello"
    assert row.text_hash == hash_text(row.text)
    assert canary("message", 1) in error.error_message
    assert error.text_hash == hash_text(error.text)


def test_hash_keeps_a_keyed_hash_and_no_text(database: Database) -> None:
    one, other = (private_job(database, store_text=StoreText.HASH) for _ in range(2))
    rows, others = rows_of(database, one), rows_of(database, other)
    assert [row.text for row in rows] == [None] * 6
    given = [f"dear {canary('text', index)}, hello" for index in range(6)]
    assert [row.text_hash for row in rows] == [hash_text(text, KEY) for text in given]
    assert [row.text_hash for row in rows] == [row.text_hash for row in others]
    assert hash_text(given[0]) not in [row.text_hash for row in rows]


@pytest.mark.parametrize("mode", MODES)
def test_without_texts_the_rest_of_a_row_is_as_with_them(
    database: Database, mode: StoreText
) -> None:
    full = rows_of(database, private_job(database))
    for row, whole in zip(
        rows_of(database, private_job(database, store_text=mode)), full, strict=True
    ):
        assert row.text is None
        assert (row.text_hash is None) == (mode == StoreText.NONE)
        for name in ("record_id", "label", "score", "output", "vector", "detail", "extra"):
            assert getattr(row, name) == getattr(whole, name), name


@pytest.mark.parametrize("mode", MODES)
def test_a_copy_of_an_input_in_the_detail_goes_and_outputs_stay(
    database: Database, mode: StoreText
) -> None:
    about = spec(store_text=mode, task="question-answering", model="m")
    with database.write() as connection:
        job_id = create_job(connection, about, load_seconds=60)
        asked = Record(0, "a", {"question": "who is Jane?", "context": "Jane is it"})
        new = [NewChunk(1, encode_payload([asked]))]
        add_chunks(connection, job_id, new, load_seconds=60)
        finish_loading(connection, job_id, total=1, errors=0, input_hash=b"")
    claimed = claim(database, dispatch(database, job_id)[0])
    assert claimed is not None
    found = Output(
        output="Jane", score=1, detail={"question": "who is Jane?", "start": 0, "end": 4}
    )
    outcome = gather_outcome(claimed.records, [found], "context", Keeping(mode, KEY))
    database.transact(complete_chunk, claimed, outcome, window=4)
    (row,) = rows_of(database, job_id)
    assert (row.output, row.detail) == ("Jane", {"start": 0, "end": 4})


@pytest.mark.parametrize("mode", MODES)
def test_words_of_outputs_are_indexed_and_none_of_a_text_that_is_not_kept(
    database: Database, mode: StoreText
) -> None:
    job_id = private_job(database, store_text=mode)
    assert canary("output", 0) in words_of(database, job_id)
    assert canary("text", 0) not in words_of(database, job_id)
    assert canary("text", 0) in words_of(database, private_job(database))
    job = job_of(database, job_id)
    found = [
        row.record_index
        for word in ("output", "text")
        for row in iter_results(database, job, ResultFilter(search=canary(word, 0)))
    ]
    assert found == [0]
    assert count(database, result_values, result_values.c.job_id == job_id) == 6  # declared ones


@pytest.mark.parametrize("mode", list(StoreText))
def test_a_payload_is_gone_when_its_chunk_is_done(database: Database, mode: StoreText) -> None:
    job_id = private_job(database, errors=(), run=1, store_text=mode)
    assert len(payload_bytes(database, job_id)) == 1  # of the chunk that has not run
    claimed = builders.claim_all(database, job_id, "w2") or builders.claim_all(database, job_id)
    assert statuses(database, job_id) == ["done", "running"]
    assert claimed == []


@pytest.mark.parametrize("mode", list(StoreText))
def test_inputs_of_error_records_are_kept_for_retry_unless_nothing_may_be(
    database: Database, mode: StoreText
) -> None:
    job_id = private_job(database, errors=(1,), store_text=mode)
    assert counts(database, job_id) == ("completed_with_errors", 5, 1)
    with database.read() as connection:
        kept = [
            record.index
            for data in connection.scalars(select(payloads.c.data))
            for record in decode_payload(data)
        ]
        retryable = has_retryable(connection, job_id)
    expected = mode != StoreText.NONE
    assert (kept, retryable) == ([1] if expected else [], expected)


def test_retry_of_errors_whose_inputs_are_not_kept_says_so(database: Database) -> None:
    job_id = private_job(database, errors=(1,), store_text=StoreText.NONE)
    before = snapshot(database)
    with pytest.raises(JobConflictError, match=r"--store-text none, so the inputs .* not kept"):
        database.transact(retry_job, job_id)
    assert snapshot(database) == before


@pytest.mark.parametrize("mode", list(StoreText))
def test_a_failed_job_goes_on_in_every_mode(database: Database, mode: StoreText) -> None:
    """What waits still has its payload; of what ran, only kept error inputs run again."""
    job_id = private_job(database, errors=(1,), run=1, store_text=mode)
    database.transact(fail_job, job_id, "no model")
    put(database, chunks, chunks.c.status == "running", status="failed")
    again = 3 if mode == StoreText.NONE else 4
    assert database.transact(retry_job, job_id) == again
    for claimed in builders.claim_all(database, job_id, "w2"):
        finish_without_keys(database, claimed)
    left = 1 if mode == StoreText.NONE else 0
    status = "completed_with_errors" if left else "completed"
    assert counts(database, job_id) == (status, 6 - left, left)


def finish_without_keys(database: Database, claimed: Any) -> None:
    with database.write() as connection:
        connection.execute(reuse_keys.delete())
    finish(database, claimed, ())


@pytest.mark.parametrize("mode", MODES)
def test_retry_all_says_that_texts_are_not_stored(database: Database, mode: StoreText) -> None:
    job_id = private_job(database, errors=(1,), store_text=mode)
    before = snapshot(database)
    with pytest.raises(JobConflictError, match=f"submitted with --store-text {mode}"):
        database.transact(rerun_job, job_id)
    assert snapshot(database) == before


@pytest.mark.parametrize("mode", MODES)
def test_retry_all_of_a_job_of_which_nothing_ran_has_all_it_needs(
    database: Database, mode: StoreText
) -> None:
    job_id = private_job(database, run=0, store_text=mode)
    database.transact(fail_job, job_id, "no model")
    put(database, chunks, chunks.c.status == "running", status="failed")
    assert database.transact(rerun_job, job_id) == 6


def test_no_row_is_counted_as_taken_by_a_retry_where_none_can_be(database: Database) -> None:
    job_id = private_job(database, errors=(0, 1), run=1, store_text=StoreText.NONE)
    database.transact(fail_job, job_id, "no model")
    put(database, chunks, chunks.c.status == "running", status="failed")
    database.transact(retry_job, job_id)
    with database.read() as connection:
        assert rows_taken_by_retry(connection, job_id) == 0


# -- submitting -----------------------------------------------------------------------------------


MODEL: dict[str, str] = {}


@pytest.fixture(scope="module", autouse=True)
def _model(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A model that a submission may look into; nothing runs it."""
    MODEL["folder"] = str(save_generator(tmp_path_factory.mktemp("model"), chat=True))


@pytest.fixture
def keyed(monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("TEXTMILL_HASH_KEY", KEY.decode())
    return load_settings()


def checked(settings: Settings, mode: StoreText, **about: Any) -> tuple[JobSpec, RecordRules]:
    params = {"max_new_tokens": 16, **about.pop("params", {})}
    asked = JobSpec(
        task="generation", model=MODEL["folder"], params=params, store_text=mode, **about
    )
    return validate_spec(asked, settings)


def send(
    database: Database,
    rows: list[dict[str, Any]],
    settings: Settings,
    mode: StoreText,
    *,
    skip_bad: bool = False,
    columns: dict[str, str] | None = None,
    id_column: str | None = None,
    **about: Any,
) -> Submitted:
    job, rules = checked(settings, mode, **about)
    reading = ReadOptions(skip_bad=skip_bad, columns=columns or {}, id_column=id_column)
    reader = records_from_objects(rows, rules.params.fields(), reading, rules)
    return submit_job(database, Outbox(), job, reader, hash_key=settings.hash_key_bytes)


def inputs_of(database: Database, job_id: str) -> list[Record]:
    with database.read() as connection:
        found = connection.scalars(select(payloads.c.data)).all()
    return [record for data in found for record in decode_payload(data)]


def test_hashes_are_made_with_the_key_of_the_submission_or_not_at_all(
    database: Database, keyed: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = send(database, [{"text": "a"}], keyed, StoreText.HASH)
    job = job_of(database, done.job_id)
    assert (job.store_text, job.hash_key_id) == ("hash", key_id(KEY))
    monkeypatch.delenv("TEXTMILL_HASH_KEY")
    with pytest.raises(ConfigurationError, match="TEXTMILL_HASH_KEY is not set"):
        checked(load_settings(), StoreText.HASH)
    none = job_of(database, send(database, [{"text": "a"}], load_settings(), StoreText.NONE).job_id)
    assert (none.store_text, none.hash_key_id) == ("none", None)


@pytest.mark.parametrize("mode", list(StoreText))
def test_columns_that_the_model_reads_are_kept_only_with_texts(
    database: Database, keyed: Settings, mode: StoreText
) -> None:
    rows = [{"body": "dear Jane", "tone": "be kind", "country": "DE"}]
    params = {"template": "Answer {body}", "own_columns": {"system": "tone"}}
    done = send(database, rows, keyed, mode, params=params)
    (record,) = inputs_of(database, done.job_id)
    assert record.inputs == {"text": "Answer dear Jane"}
    assert record.params == {"system": "be kind"}
    full = mode == StoreText.FULL
    assert record.extra == (rows[0] if full else {"country": "DE"})
    assert job_of(database, done.job_id).extra_columns == (list(rows[0]) if full else ["country"])
    if not full:
        with pytest.raises(InvalidJobError, match="no column 'body' to index; the results keep"):
            send(database, rows, keyed, mode, params=params, index_columns=("body",))


BAD = [
    {"messages": "dear Jane"},
    {"messages": ["dear Jane"]},
    {"messages": [{"role": "Jane", "content": "a"}]},
    {"messages": [{"role": "user", "content": {"to": "Jane"}}]},
    {"messages": [{"role": "user", "content": "fine"}], "warmth": "Jane"},
]


@pytest.mark.parametrize("mode", list(StoreText))
def test_a_row_that_could_not_be_read_quotes_nothing_where_texts_are_not_kept(
    database: Database, keyed: Settings, mode: StoreText
) -> None:
    params = {"messages": True, "own_columns": {"temperature": "warmth"}}
    rows = [one | {"warmth": one.get("warmth", "")} for one in BAD]
    chats = send(database, rows, keyed, mode, skip_bad=True, params=params)
    plain = send(database, [{"text": ["dear Jane"]}], keyed, mode, skip_bad=True)
    found = rows_of(database, chats.job_id) + rows_of(database, plain.job_id)
    assert len(found) == len(BAD) + 1
    said = [("Jane" in row.error_message or "Jane" in str(row.extra)) for row in found]
    assert said == [mode == StoreText.FULL] * len(found)
    assert found[-1].error_message.startswith("input, record 0: column 'text' is a list")


def test_the_same_key_and_input_are_the_same_job_in_every_mode(
    database: Database, keyed: Settings
) -> None:
    for mode in StoreText:
        first = send(database, [{"text": "a", "n": 1}], keyed, mode, key=f"key {mode}")
        again = send(database, [{"text": "a", "n": 1}], keyed, mode, key=f"key {mode}")
        assert (again.existing, again.job_id) == (True, first.job_id)
        with pytest.raises(JobConflictError, match="submitted with other records"):
            send(database, [{"text": "a", "n": 2}], keyed, mode, key=f"key {mode}")
        other = next(one for one in StoreText if one != mode)
        with pytest.raises(JobConflictError, match="submitted with other records"):
            send(database, [{"text": "a", "n": 1}], keyed, other, key=f"key {mode}")


def test_the_digest_of_the_input_confirms_no_guess_of_a_text(
    database: Database, keyed: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keyed with ``hash``; with ``none`` it does not depend on texts at all."""
    hashes = {}
    for mode in MODES:
        done = send(database, [{"text": "a"}], keyed, mode, key=f"key {mode}")
        hashes[mode] = bytes(job_of(database, done.job_id).input_hash)
    guess = send(database, [{"text": "b"}], keyed, StoreText.NONE, key="key none")
    assert guess.existing
    monkeypatch.setenv("TEXTMILL_HASH_KEY", "another key of 24 bytes.")
    with pytest.raises(JobConflictError, match="submitted with other records"):
        send(database, [{"text": "a"}], load_settings(), StoreText.HASH, key="key hash")
    full = send(database, [{"text": "a"}], keyed, StoreText.FULL)
    assert bytes(job_of(database, full.job_id).input_hash) not in hashes.values()


def test_no_file_of_the_database_has_a_text_of_a_finished_job_that_keeps_none(
    tmp_path: Path, database_url: str, request: pytest.FixtureRequest
) -> None:
    """After a vacuum, for a payload that is deleted stays in the file until it is written over."""
    folder = None
    if not database_url.startswith("sqlite"):
        folder = request.getfixturevalue("postgres").folder
    for database in builders.with_tables(database_url):
        jobs_of_all = {mode: private_job(database, store_text=mode) for mode in StoreText}
        for job_id in jobs_of_all.values():
            unreadable_row(database, job_id, 99)
        vacuum(database)
        texts = [canary("text", index) for index in range(6)]
        assert len(found_in(files_of(database, folder), *texts)) >= 6  # of the job that keeps them
        with database.write() as connection:
            connection.execute(
                results.delete().where(results.c.job_id == jobs_of_all[StoreText.FULL])
            )
            empty_words(connection)
            kept = select(payloads.c.chunk_id)
            assert connection.scalar(select(func.count()).select_from(kept.subquery())) == 2
            connection.execute(payloads.delete())
        vacuum(database)
        assert found_in(files_of(database, folder), *texts) == []
        assert (
            job_of(database, jobs_of_all[StoreText.NONE]).status == JobStatus.COMPLETED_WITH_ERRORS
        )
