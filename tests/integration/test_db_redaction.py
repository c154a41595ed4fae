"""Redaction: placeholders for personal data wherever an ended job stores a text."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from textmill.core.errors import JobConflictError, PurgedJobError, RecordError
from textmill.core.jobs import ENDED, JobStatus, Record
from textmill.core.masking import Masker
from textmill.core.stored_texts import StoreText, hash_text
from textmill.db import redaction
from textmill.db.audits import bytes_are_left, list_audits
from textmill.db.chunks import complete_chunk
from textmill.db.filters import ResultFilter
from textmill.db.indexing import make_entries
from textmill.db.jobs import fail_job
from textmill.db.loading import NewChunk, add_chunks, create_job, finish_loading
from textmill.db.models import jobs, payloads, results, reuse_keys
from textmill.db.payloads import decode_payload, encode_payload
from textmill.db.purge import purge_job
from textmill.db.queries import iter_results
from textmill.db.record_purge import find_records, purge_records
from textmill.db.redaction import find_old, redact_job
from textmill.db.retry import retry_job
from textmill.db.session import Database
from textmill.db.vacuum import vacuum
from textmill.workers.items import Output
from textmill.workers.rows import Keeping, gather_outcome

from .. import builders
from ..builders import claim_all, complete, count, job_of, put, put_job, snapshot, spec
from ..canaries import KEY, files_of, found_in, rows_of
from ..entries import read_words
from ..servers import PostgresServer

tables_url = builders.tables_url
postgresql = builders.postgresql
database = builders.database

MAIL, PHONE = "jane.doe@example.com", "+44 20 7946 0958"
CARD, IBAN = "4111 1111 1111 1111", "GB29 NWBK 6016 1331 9268 19"
SECRETS = ("jane.doe", "7946 0958", "4111 1111 1111 1111", "NWBK 6016")
ASKED = {"kinds": ["card", "email", "iban", "phone"]}


def records() -> list[Record]:
    texts = [f"write to {MAIL} soon", "nothing to see", f"call {PHONE}", f"pay {CARD} or {IBAN}"]
    extras: list[dict[str, Any]] = [
        {"from": MAIL, "n": 1},
        {"from": "nobody", "n": 2},
        {"from": "nobody", "n": 3},
        {"from": "nobody", "cards": [{"number": CARD}], "n": 4},
    ]
    ids = ["a", "b", "c", MAIL]
    return [
        Record(index, ids[index], {"text": text}, {"seed": 4111111111111111}, extra)
        for index, (text, extra) in enumerate(zip(texts, extras, strict=True))
    ]


def private_job(
    database: Database, *, mode: StoreText = StoreText.FULL, run: bool = True, **about: Any
) -> str:
    """Four records: the third is an error whose message quotes it, and whose input is kept."""
    asked = spec(store_text=mode, index_columns=("from",), full_text=True, **about)
    with database.write() as connection:
        job_id = create_job(
            connection, asked, extra_columns=["from", "cards", "n"], load_seconds=60
        )
        add_chunks(connection, job_id, [NewChunk(4, encode_payload(records()))], load_seconds=60)
        finish_loading(connection, job_id, total=4, errors=0, input_hash=b"h" * 32)
    if not run:
        return job_id
    (claimed,) = claim_all(database, job_id)
    outputs: list[Output | RecordError] = [
        Output("ham", 0.9, f"answered {MAIL}", detail={"said": [MAIL], "scores": {"ham": 0.9}}),
        Output("ham", 0.8, "nothing"),
        RecordError("text_too_long", f"it is {PHONE}"),
        Output("spam", 0.7, f"paid {IBAN}"),
    ]
    outcome = gather_outcome(claimed.records, outputs, "text", Keeping(mode, KEY))
    outcome.entries = make_entries(claimed.job, outcome.rows, sqlite=database.is_sqlite)
    database.transact(complete_chunk, claimed, outcome, window=4)
    with database.write() as connection:
        for index in range(4):
            key = f"{job_id[-8:]}{index:08}".encode()
            row = {"key": key, "job_id": job_id, "record_index": index}
            connection.execute(reuse_keys.insert().values(**row))
    return job_id


def kept_inputs(database: Database) -> list[Record]:
    with database.read() as connection:
        found = connection.scalars(select(payloads.c.data)).all()
    return [record for data in found for record in decode_payload(data)]


def found_by(database: Database, job_id: str, **wanted: Any) -> list[int]:
    job = job_of(database, job_id)
    return [row.record_index for row in iter_results(database, job, ResultFilter(**wanted))]


def test_every_place_that_holds_a_text_is_masked(database: Database) -> None:
    job_id = private_job(database)
    params = {"context": f"of {MAIL}", "window": 4111111111}
    put(
        database,
        jobs,
        jobs.c.id == job_id,
        task="question-answering",
        params=params,
        error=f"it said {MAIL}",
    )
    before = rows_of(database, job_id)

    found = redact_job(database, job_id, Masker(), ASKED)

    rows = rows_of(database, job_id)
    assert [row.text for row in rows] == [
        "write to [EMAIL] soon",
        "nothing to see",
        "call [PHONE]",
        "pay [CARD] or [IBAN]",
    ]
    assert [row.output for row in rows] == ["answered [EMAIL]", "nothing", None, "paid [IBAN]"]
    assert rows[0].detail == {"said": ["[EMAIL]"], "scores": {"ham": 0.9}}
    assert rows[2].error_message == "it is [PHONE]"
    assert [row.extra["from"] for row in rows] == ["[EMAIL]", "nobody", "nobody", "nobody"]
    assert rows[3].extra["cards"] == [{"number": "[CARD]"}]
    assert rows[1] == before[1]
    for name in ("record_id", "label", "score", "error_code", "input_tokens"):
        assert [getattr(row, name) for row in rows] == [getattr(row, name) for row in before]
    (kept,) = kept_inputs(database)
    assert kept.inputs == {"text": "call [PHONE]"}
    assert kept.params == {"seed": 4111111111111111}  # a setting, though it looks like a card
    job = job_of(database, job_id)
    assert job.params == {"context": "of [EMAIL]", "window": 4111111111}
    assert (job.error, job.input_hash) == ("it said [EMAIL]", None)
    assert found.records == 3
    assert found.masked == {"email": 6, "phone": 3, "card": 2, "iban": 2}
    assert found.ids == 1


def schema(mail: str) -> dict[str, Any]:
    return {"properties": {"n": {"enum": [mail], "maximum": 4111111111111111}}}


@pytest.mark.parametrize("batch", ["/v1/chat/completions", None])
def test_options_that_came_from_a_line_of_a_batch_are_masked(
    database: Database, batch: str | None
) -> None:
    """In a schema texts only: with another number it would be another, or none."""
    job_id = private_job(database)
    params = {"stop": [MAIL], "system": f"of {MAIL}", "openai_batch": batch}
    params |= {"json_schema": json.dumps(schema(MAIL))}
    put(database, jobs, jobs.c.id == job_id, task="generation", params=params)

    redact_job(database, job_id, Masker(), ASKED)

    after = job_of(database, job_id).params
    assert json.loads(after["json_schema"]) == schema(MAIL if batch is None else "[EMAIL]")
    assert after["stop"] == ([MAIL] if batch is None else ["[EMAIL]"])
    assert after["system"] == params["system"]


def test_what_finds_a_row_is_made_again(database: Database) -> None:
    job_id = private_job(database)
    assert found_by(database, job_id, search="jane") == [0]
    assert found_by(database, job_id, where={"from": MAIL}) == [0]
    redact_job(database, job_id, Masker(), ASKED)
    assert found_by(database, job_id, search="jane") == []
    assert found_by(database, job_id, search="write email soon") == [0]
    assert found_by(database, job_id, search="nothing") == [1]
    assert found_by(database, job_id, where={"from": MAIL}) == []
    assert found_by(database, job_id, where={"from": "[EMAIL]"}) == [0]
    assert [row.text_hash for row in rows_of(database, job_id)] == [
        hash_text(row.text) for row in rows_of(database, job_id)
    ]
    assert count(database, reuse_keys) == 1  # of the row that did not change


def test_a_keyed_hash_of_a_text_that_is_not_kept_stays(database: Database) -> None:
    job_id = private_job(database, mode=StoreText.HASH)
    before = [row.text_hash for row in rows_of(database, job_id)]
    redact_job(database, job_id, Masker(), ASKED)
    rows = rows_of(database, job_id)
    assert [row.text_hash for row in rows] == before
    assert [row.text for row in rows] == [None] * 4
    assert rows[0].output == "answered [EMAIL]"


def test_a_second_time_there_is_nothing_to_mask(database: Database) -> None:
    job_id = private_job(database)
    redact_job(database, job_id, Masker(), ASKED)
    before = snapshot(database)
    again = redact_job(database, job_id, Masker(), ASKED)
    assert (again.records, again.masked.total(), again.ids) == (0, 0, 1)
    after = snapshot(database)
    assert after.pop("audits") != before.pop("audits")
    assert after == before


def test_where_nothing_was_masked_the_files_have_nothing_to_lose(database: Database) -> None:
    job_id = private_job(database)
    redact_job(database, job_id, Masker(["email"], None), ASKED)
    with database.read() as connection:
        assert bytes_are_left(connection)
    vacuum(database)
    redact_job(database, job_id, Masker(["email"], None), ASKED)
    with database.read() as connection:
        assert not bytes_are_left(connection)
    redact_job(database, job_id, Masker(["card"], None), ASKED)
    with database.read() as connection:
        assert bytes_are_left(connection)


def test_a_dry_run_counts_the_same_and_changes_nothing(database: Database) -> None:
    job_id = private_job(database)
    before = snapshot(database)
    dry = redact_job(database, job_id, Masker(), ASKED, dry_run=True)
    assert snapshot(database) == before
    wet = redact_job(database, job_id, Masker(), ASKED)
    assert (dry.records, dry.masked, dry.ids) == (wet.records, wet.masked, wet.ids)


def test_only_the_wanted_kinds_are_masked(database: Database) -> None:
    job_id = private_job(database)
    found = redact_job(database, job_id, Masker(["card"]), {"kinds": ["card"]})
    assert found.masked == {"card": 2}
    assert rows_of(database, job_id)[3].text == f"pay [CARD] or {IBAN}"


def test_numbers_as_they_are_written_in_a_country_need_its_name(database: Database) -> None:
    job_id = private_job(database)
    with database.write() as connection:
        mine = results.update().where(results.c.job_id == job_id, results.c.record_index == 1)
        connection.execute(mine.values(extra={"from": "nobody", "at": "020 7946 0958"}))
    redact_job(database, job_id, Masker(), ASKED)
    assert rows_of(database, job_id)[1].extra["at"] == "020 7946 0958"
    redact_job(database, job_id, Masker(region="GB"), ASKED)
    assert rows_of(database, job_id)[1].extra["at"] == "[PHONE]"


def test_the_audit_counts_what_was_masked_and_quotes_none_of_it(database: Database) -> None:
    job_id = private_job(database)
    redact_job(database, job_id, Masker(), ASKED)
    with database.read() as connection:
        (audit,) = list_audits(connection)
    assert (audit.action, audit.job_id, audit.records) == ("redact", job_id, 3)
    masked = {"card": 1, "email": 4, "iban": 2, "phone": 3}
    assert audit.detail == {**ASKED, "masked": masked | {"card": 2}}
    assert audit.finished_at >= audit.at
    assert not any(secret in str(tuple(audit)) for secret in SECRETS)


@pytest.mark.parametrize("status", [one for one in JobStatus if one not in ENDED])
def test_a_job_that_has_not_ended_is_refused(database: Database, status: JobStatus) -> None:
    job_id = private_job(database)
    put_job(database, job_id, status)
    before = snapshot(database)
    with pytest.raises(JobConflictError, match=f"job {job_id} is {status} and cannot be redacted"):
        redact_job(database, job_id, Masker(), ASKED)
    assert snapshot(database) == before


def test_a_purged_job_is_refused_and_found_by_no_age(database: Database) -> None:
    purged, other = private_job(database), private_job(database)
    purge_job(database, purged, {})
    with pytest.raises(PurgedJobError, match="was purged on"):
        redact_job(database, purged, Masker(), ASKED)
    with database.read() as connection:
        assert [job.id for job in find_old(connection, -1)] == [other]
        assert find_old(connection, 3600) == []


def test_a_failed_jobs_waiting_inputs_are_masked_and_run_so(database: Database) -> None:
    job_id = private_job(database, run=False)
    database.transact(fail_job, job_id, "no model")
    found = redact_job(database, job_id, Masker(), ASKED)
    assert (found.records, found.masked["phone"]) == (0, 1)
    assert database.transact(retry_job, job_id) == 4
    assert [one.inputs["text"] for one in kept_inputs(database)][2] == "call [PHONE]"


def test_a_failed_job_that_a_worker_still_has_in_hand_is_refused(database: Database) -> None:
    job_id = private_job(database, run=False)
    assert len(claim_all(database, job_id)) == 1
    database.transact(fail_job, job_id, "no model")
    with pytest.raises(JobConflictError, match="workers still have records of it in hand"):
        redact_job(database, job_id, Masker(), ASKED)


class CutError(Exception):
    """The process is ended here."""


def test_a_redaction_that_is_cut_off_goes_on_when_it_is_asked_for_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redaction, "PAGE_ROWS", 2)
    job_id = private_job(database)

    def cut(rows: int) -> None:
        raise CutError

    with pytest.raises(CutError):
        redact_job(database, job_id, Masker(), ASKED, report=cut)
    assert [row.text for row in rows_of(database, job_id)][:1] == ["write to [EMAIL] soon"]
    assert PHONE in rows_of(database, job_id)[2].text
    redact_job(database, job_id, Masker(), ASKED)
    assert not any(secret in str(rows_of(database, job_id)) for secret in SECRETS[1:])
    with database.read() as connection:
        again, first = list_audits(connection)
    assert (first.records, first.finished_at, again.records) == (1, None, 2)
    assert found_by(database, job_id, search="email") == [0]


class InterruptedMasker(Masker):
    """Something else is done between the reading of a job's texts and the writing of them."""

    def __init__(self, meanwhile: Callable[[], object]) -> None:
        super().__init__()
        self._meanwhile = [meanwhile]

    def mask(self, text: str) -> tuple[str, Counter[str]]:
        while self._meanwhile:
            self._meanwhile.pop()()
        return super().mask(text)


def test_of_two_redactions_at_once_each_row_is_masked_once(database: Database) -> None:
    job_id = private_job(database)
    masker = InterruptedMasker(lambda: redact_job(database, job_id, Masker(), ASKED))
    redact_job(database, job_id, masker, ASKED)
    with database.read() as connection:
        assert [one.records for one in list_audits(connection)] == [3, 0]
    assert found_by(database, job_id, search="email") == [0]
    assert found_by(database, job_id, search="jane") == []


def test_a_redaction_brings_nothing_back_that_was_purged_meanwhile(database: Database) -> None:
    job_id = private_job(database)
    masker = InterruptedMasker(lambda: purge_job(database, job_id, {}))
    with pytest.raises(PurgedJobError, match="was purged on"):
        redact_job(database, job_id, masker, ASKED)
    assert [row.text for row in rows_of(database, job_id)] == [None] * 4
    with database.read() as connection:
        assert read_words(connection) == {}


@pytest.mark.parametrize("ids", [{"a"}, {"a", "b", "c", MAIL}], ids=["one", "all"])
def test_a_redaction_brings_no_waiting_record_back_that_was_purged_meanwhile(
    database: Database, ids: set[str]
) -> None:
    job_id = private_job(database, run=False)
    database.transact(fail_job, job_id, "no model")

    def purge() -> None:
        (found,) = find_records(database, ids)
        purge_records(database, found, ids, {})

    found = redact_job(database, job_id, InterruptedMasker(purge), ASKED)

    left = [record for record in records() if record.record_id not in ids]
    assert [record.record_id for record in kept_inputs(database)] == [
        record.record_id for record in left
    ]
    assert not any(secret in str(one.inputs) for one in kept_inputs(database) for secret in SECRETS)
    # Counted once: what was read first is read again.
    assert found.masked == ({"phone": 1, "card": 2, "iban": 1} if left else {})
    assert [row.error_code for row in rows_of(database, job_id)] == ["purged"] * len(ids)
    if left:
        assert database.transact(retry_job, job_id) == len(left)
        (claimed,) = claim_all(database, job_id)
        complete(database, claimed)
        assert builders.counts(database, job_id) == ("completed_with_errors", 3, 1)


def test_a_redaction_changes_no_row_of_a_job_that_runs_again_meanwhile(database: Database) -> None:
    job_id = private_job(database)
    masker = InterruptedMasker(lambda: database.transact(retry_job, job_id))
    with pytest.raises(JobConflictError, match=f"job {job_id} is queued and cannot be changed"):
        redact_job(database, job_id, masker, ASKED)
    assert MAIL in rows_of(database, job_id)[0].text


def test_no_file_has_what_was_masked(database: Database, request: pytest.FixtureRequest) -> None:
    folder: Path | None = None
    if not database.is_sqlite:
        server: PostgresServer = request.getfixturevalue("postgres")
        folder = server.folder
    job_id = private_job(database)
    with database.write() as connection:  # an id stays as it is
        row = results.c
        mine = results.update().where(row.job_id == job_id, row.record_index == 3)
        connection.execute(mine.values(record_id="d"))
    wanted = [*SECRETS, "jane", "7946"]  # and the words by which they were found
    assert len(found_in(files_of(database, folder), *wanted)) >= len(wanted)
    redact_job(database, job_id, Masker(), ASKED)
    vacuum(database, patience_seconds=20)
    assert found_in(files_of(database, folder), *wanted) == []
    assert found_in(files_of(database, folder), "write to [EMAIL] soon") != []
