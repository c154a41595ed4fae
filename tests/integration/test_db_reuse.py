"""Earlier results get their keys when a job that could use them comes, on both databases."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import update

from textmill.core.jobs import Record
from textmill.core.masking import Masker
from textmill.core.reuse import ReuseScope
from textmill.db import redaction, reuse
from textmill.db.chunks import Claim, LeaseLostError, complete_chunk
from textmill.db.jobs import fail_job, get_job, pin_model
from textmill.db.models import jobs, reuse_keys
from textmill.db.purge import purge_job
from textmill.db.record_purge import find_records, purge_records
from textmill.db.redaction import redact_job
from textmill.db.rerun import rerun_job
from textmill.db.results import ResultRow, to_json
from textmill.db.retry import retry_job
from textmill.db.reuse import find_answers, job_scope, keep_answers, make_reusable
from textmill.db.session import Database

from .. import builders
from ..builders import (
    claim,
    claim_all,
    count,
    dispatch,
    indexed,
    job_of,
    make_job,
    outcome,
    put,
    spec,
)
from ..filled import filled_job

# Fixtures; imported by name, they would be redefined by every test's parameter.
tables_url = builders.tables_url
postgresql = builders.postgresql
database = builders.database

HEAD_START_SECONDS = 0.5  # enough for a change that nothing holds up
ROWS = [
    ResultRow(n, f"r{n}", f"text {n % 5}", label="ab"[n % 2], score=n / 8, detail=to_json({"n": n}))
    for n in range(7)  # texts 0 and 1 twice
] + [ResultRow(7, "r7", "", error_code="empty_text")]


def earlier(database: Database, **values: Any) -> str:
    """A job of before, whose model is known by its commit."""
    job_id: str = filled_job(database, ROWS).id
    with database.write() as connection:
        own = {"model_version": "commit-1", **values}
        connection.execute(update(jobs).where(jobs.c.id == job_id).values(**own))
    return job_id


def wanted(**fields: Any) -> Any:
    return spec(model_version="commit-1", reuse=True, **fields)


def answers(
    database: Database, job_id: str, texts: list[str], version: str = "commit-1"
) -> dict[str, Any]:
    """What is found for a record of each text, as a worker of a job like this one asks."""
    with database.read() as connection:
        scope = job_scope(get_job(connection, job_id), version, None)
        keys = {scope.key(Record(99, "new", {"text": text})): text for text in texts}
        found = find_answers(connection, list(keys))
    return {keys[key]: row for key, row in found.items()}


def count_keys(database: Database) -> int:
    return count(database, reuse_keys)


def by_threes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows get their keys three at a time, or fewer where that takes long."""
    monkeypatch.setattr(reuse, "FIRST_ROWS", 3)
    monkeypatch.setattr(reuse, "MOST_ROWS", 3)


def test_results_of_an_earlier_job_answer_once_they_have_their_keys(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_threes(monkeypatch)
    job_id = earlier(database)
    assert answers(database, job_id, ["text 0"]) == {}
    told: list[int] = []
    assert make_reusable(database, wanted(), secret=None, progress=told.append) == 7
    assert (told[0], told[-1]) == (3, 7)
    assert count_keys(database) == 5, "one for each text; an error answers nothing"
    found = answers(database, job_id, ["text 0", "text 3", "text 9", ""])
    assert set(found) == {"text 0", "text 3"}
    row = found["text 3"]
    assert (row.job_id, row.label, row.score, row.detail) == (job_id, "b", 3 / 8, {"n": 3})
    assert make_reusable(database, wanted(), secret=None) == 0, "they have been looked at"


@pytest.mark.parametrize(
    "values",
    [
        {"model_version": "commit-2"},
        {"model_version": None},
        {"dtype": "bf16"},
        {"params": {"top_k": 2}},
        {"store_text": "hash"},
        {"status": "running"},
        {"status": "cancelled"},
        {"purged_at": 1.0},
        {"task": "embeddings"},
    ],
)
def test_a_job_whose_results_could_not_answer_is_left_alone(
    database: Database, values: dict[str, Any]
) -> None:
    earlier(database, **values)
    assert make_reusable(database, wanted(), secret=None) == 0
    assert count_keys(database) == 0


def test_a_secret_makes_other_keys(database: Database) -> None:
    job_id = earlier(database)
    assert make_reusable(database, wanted(), secret=b"of the house") == 7
    assert answers(database, job_id, ["text 0"]) == {}


def test_a_key_that_two_jobs_have_answers_from_the_one_submitted_last(
    database: Database,
) -> None:
    first, second = earlier(database), earlier(database)
    assert make_reusable(database, wanted(), secret=None) == 14
    assert count_keys(database) == 5
    put(database, jobs, jobs.c.id == first, reusable_at=None)  # as a retry does
    assert make_reusable(database, wanted(), secret=None) == 7
    assert answers(database, first, ["text 2"])["text 2"].job_id == second


def test_an_older_job_that_ends_later_takes_no_key_for_good(database: Database) -> None:
    older, newer = (make_job(database, (2,), reuse=True) for _ in range(2))
    run(database, newer, "v1", "ham")
    run(database, older, "v1", "spam")
    purge_job(database, older, {})
    assert label_of(database, newer, "text 1", "v1") == "ham"


# -- runs of one job after another ----------------------------------------------------------------


def complete(
    database: Database, claimed: Claim, version: str, label: str, errors: tuple[int, ...] = ()
) -> None:
    """As a worker does that has this version of the model, with the keys of what it computed."""
    pinned = database.transact(pin_model, claimed.job.id, version)
    scope = job_scope(claimed.job, pinned, None)
    done = indexed(database, claimed, outcome(claimed, errors, label))
    done.answers = {scope.key(one): one.index for one in claimed.records if one.index not in errors}
    database.transact(complete_chunk, claimed, done, window=9)


def run(database: Database, job_id: str, *how: Any) -> None:
    for claimed in claim_all(database, job_id):
        complete(database, claimed, *how)


def label_of(database: Database, job_id: str, text: str, version: str) -> str | None:
    found = answers(database, job_id, [text], version).get(text)
    return None if found is None else found.label


def test_after_retry_all_no_result_answers_for_the_model_of_before(database: Database) -> None:
    job_id = make_job(database, (2,), reuse=True)
    run(database, job_id, "v1", "ham")
    assert label_of(database, job_id, "text 1", "v1") == "ham"
    database.transact(rerun_job, job_id)
    assert count_keys(database) == 0
    run(database, job_id, "v2", "spam")
    assert job_of(database, job_id).model_version == "v2"
    assert label_of(database, job_id, "text 1", "v1") is None
    assert label_of(database, job_id, "text 1", "v2") == "spam"


def test_retry_all_leaves_the_keys_of_other_jobs(database: Database) -> None:
    """Of two jobs with a text the one that wrote its key last has it."""
    first, second = (make_job(database, (2,), reuse=True) for _ in range(2))
    run(database, first, "v1", "ham")
    run(database, second, "v1", "spam")
    database.transact(rerun_job, first)
    assert label_of(database, first, "text 1", "v1") == "spam"


def test_keys_stay_after_a_retry_of_errors_which_goes_on_with_the_model(
    database: Database,
) -> None:
    job_id = make_job(database, (2,), reuse=True)
    run(database, job_id, "v1", "ham", (1,))
    database.transact(retry_job, job_id)
    run(database, job_id, "v2", "spam")
    assert job_of(database, job_id).model_version == "v1"
    assert label_of(database, job_id, "text 0", "v1") == "ham"
    assert label_of(database, job_id, "text 1", "v1") == "spam"


def test_a_chunk_that_ran_as_all_began_anew_writes_no_key(database: Database) -> None:
    job_id = make_job(database, (2, 1), reuse=True)
    old = claim(database, dispatch(database, job_id, 1)[0])
    assert old is not None
    database.transact(fail_job, job_id, "no model")
    database.transact(rerun_job, job_id)
    run(database, job_id, "v2", "spam")
    with pytest.raises(LeaseLostError):
        complete(database, old, "v1", "ham")
    assert label_of(database, job_id, "text 0", "v1") is None
    assert label_of(database, job_id, "text 0", "v2") == "spam"


def test_a_job_that_writes_its_keys_itself_is_not_read_for_them(database: Database) -> None:
    job_id = make_job(database, (2,), reuse=True)
    run(database, job_id, "commit-1", "ham")
    assert make_reusable(database, wanted(), secret=None) == 0


def test_an_older_job_answers_again_once_that_which_took_its_keys_is_gone(
    database: Database,
) -> None:
    older, taker = earlier(database), earlier(database)
    assert make_reusable(database, wanted(), secret=None) == 14
    assert answers(database, older, ["text 2"])["text 2"].job_id == taker
    purge_job(database, taker, {})
    assert make_reusable(database, wanted(), secret=None) == 7
    assert answers(database, older, ["text 2"])["text 2"].job_id == older


@pytest.mark.parametrize("left", ["mail bob@example.com now", "nothing"])
def test_so_it_does_once_a_row_of_that_one_is_masked(database: Database, left: str) -> None:
    older, taker = earlier_mails(database), earlier_mails(database)
    make_reusable(database, wanted(), secret=None)
    redact_job(database, taker, Masker(), {})
    assert make_reusable(database, wanted(), secret=None) == 3
    found = answers(database, older, [left])[left].job_id
    assert found == (taker if left == "nothing" else older)


def test_so_it_does_once_a_record_of_that_one_is_purged(database: Database) -> None:
    older, taker = earlier_mails(database), earlier_mails(database)
    make_reusable(database, wanted(), secret=None)
    purge_one(database, taker)
    assert make_reusable(database, wanted(), secret=None) == 3
    text = "mail bob@example.com now"
    assert answers(database, older, [text])[text].job_id == older


def test_the_oldest_job_goes_without_a_look_at_the_others(database: Database) -> None:
    oldest, younger = earlier(database), earlier(database)
    make_reusable(database, wanted(), secret=None)
    purge_job(database, oldest, {})
    assert make_reusable(database, wanted(), secret=None) == 0
    assert answers(database, younger, ["text 2"])["text 2"].job_id == younger


def test_no_older_job_of_another_model_is_looked_at_again(database: Database) -> None:
    other, taker = earlier(database, model_version="commit-2"), earlier(database)
    for version in ("commit-1", "commit-2"):
        make_reusable(database, spec(model_version=version, reuse=True), secret=None)
    purge_job(database, taker, {})
    assert job_of(database, other).reusable_at is not None


# -- what is changed while keys are made ----------------------------------------------------------


def purge_all(database: Database, job_id: str) -> None:
    purge_job(database, job_id, {})


def purge_one(database: Database, job_id: str) -> None:
    for found in find_records(database, {"r0"}, job_id):
        purge_records(database, found, {"r0"}, {})


def mask(database: Database, job_id: str) -> None:
    redact_job(database, job_id, Masker(), {})


def run_anew(database: Database, job_id: str) -> None:
    """As a job does that keeps no keys by itself."""
    database.transact(rerun_job, job_id)
    database.transact(pin_model, job_id, "commit-2")
    for claimed in claim_all(database, job_id):
        builders.complete(database, claimed, label="spam")


CHANGES = [purge_all, purge_one, mask, run_anew]


def earlier_mails(database: Database) -> str:
    """A job that ended with texts of which the first and last hold an address."""
    texts = ["mail bob@example.com now", "nothing", "to ann@example.com"]
    rows = [ResultRow(n, f"r{n}", text, label="ham") for n, text in enumerate(texts)]
    job_id: str = filled_job(database, rows).id
    values = {"model_version": "commit-1", "finished_at": 1.0}
    put(database, jobs, jobs.c.id == job_id, **values)
    return job_id


@pytest.mark.parametrize("change", CHANGES)
def test_no_key_is_left_of_what_is_removed_as_its_key_is_made(
    database: Database,
    change: Callable[[Database, str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job_id = earlier_mails(database)
    key, changing = ReuseScope.key, threading.Thread(target=change, args=(database, job_id))

    def key_as_it_changes(scope: ReuseScope, record: Record) -> bytes:
        if changing.ident is None:
            changing.start()
            changing.join(HEAD_START_SECONDS)
        return key(scope, record)

    monkeypatch.setattr(ReuseScope, "key", key_as_it_changes)
    make_reusable(database, wanted(), secret=None)
    changing.join()
    monkeypatch.undo()
    assert label_of(database, job_id, "mail bob@example.com now", "commit-1") is None
    assert count(database, reuse_keys, reuse_keys.c.record_index == 0) == 0


@pytest.mark.parametrize("change", CHANGES)
def test_no_key_is_made_of_what_was_changed_between_two_pages(
    database: Database,
    change: Callable[[Database, str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    by_threes(monkeypatch)
    monkeypatch.setattr(reuse, "FIRST_ROWS", 1)
    job_id = earlier_mails(database)
    changes = iter([change])

    def progress(_: int) -> None:
        for one in changes:
            one(database, job_id)

    make_reusable(database, wanted(), secret=None, progress=progress)
    assert count(database, reuse_keys, reuse_keys.c.record_index == 0) == 0
    assert label_of(database, job_id, "to ann@example.com", "commit-1") in (None, "ham")
    assert label_of(database, job_id, "to [EMAIL]", "commit-1") is None


# -- masked texts ---------------------------------------------------------------------------------


def test_a_masked_text_is_not_answered_with_the_label_of_the_text_that_it_was(
    database: Database,
) -> None:
    job_id = earlier_mails(database)
    redact_job(database, job_id, Masker(), {})
    assert make_reusable(database, wanted(), secret=None) == 0
    assert label_of(database, job_id, "mail [EMAIL] now", "commit-1") is None


def test_neither_is_it_after_a_retry_of_errors(database: Database) -> None:
    job_id = earlier_mails(database)
    assert make_reusable(database, wanted(), secret=None) == 3
    redact_job(database, job_id, Masker(), {})
    assert count_keys(database) == 1, "that of the text in which nothing was found"
    put(database, jobs, jobs.c.id == job_id, reusable_at=None)  # as a retry does
    assert make_reusable(database, wanted(), secret=None) == 0
    assert label_of(database, job_id, "nothing", "commit-1") == "ham"
    assert label_of(database, job_id, "mail [EMAIL] now", "commit-1") is None


def test_a_redaction_that_was_cut_off_counts(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    job_id = earlier_mails(database)
    monkeypatch.setattr(redaction, "finish_audit", killed)
    with pytest.raises(KeyboardInterrupt):
        redact_job(database, job_id, Masker(), {})
    assert make_reusable(database, wanted(), secret=None) == 0


def test_a_redaction_that_found_nothing_takes_no_answers(database: Database) -> None:
    job_id = earlier(database)
    redact_job(database, job_id, Masker(), {})
    assert make_reusable(database, wanted(), secret=None) == 7


def test_a_masked_text_is_answered_once_it_has_run_itself(database: Database) -> None:
    job_id = earlier_mails(database)
    redact_job(database, job_id, Masker(), {})
    database.transact(rerun_job, job_id)
    database.transact(pin_model, job_id, "commit-1")
    for claimed in claim_all(database, job_id):
        builders.complete(database, claimed, label="spam")
    assert make_reusable(database, wanted(), secret=None) == 3
    assert label_of(database, job_id, "mail [EMAIL] now", "commit-1") == "spam"


def test_keys_made_of_an_option_go_when_it_is_masked(database: Database) -> None:
    """The question that is one for all records is in the key of each of them."""
    job_id = earlier_mails(database)
    database.transact(keep_answers, job_id, {b"of the question": 1})
    question = {"question": "who is bob@example.com?"}
    put(database, jobs, jobs.c.id == job_id, task="question-answering", params=question)
    redact_job(database, job_id, Masker(), {})
    assert count_keys(database) == 0
