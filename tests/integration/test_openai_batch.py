"""A batch in both databases: loaded, worked off, exported, run again."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openai import BaseModel
from openai.types import Completion, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion
from sqlalchemy import select

from textmill.core.errors import InputError, InvalidJobError, JobConflictError
from textmill.core.jobs import ChunkStatus, JobSpec, Record
from textmill.core.messages import ChunkMessage
from textmill.core.settings import load_settings
from textmill.core.stored_texts import StoreText
from textmill.db.chunks import ChunkOutcome, Claim, complete_chunk
from textmill.db.models import chunks, jobs, results
from textmill.db.queries import ResultFilter, iter_results
from textmill.db.record_purge import find_records, purge_records
from textmill.db.rerun import rerun_job
from textmill.db.results import ResultRow, to_json
from textmill.db.session import Database
from textmill.producer.openai_batch import open_batch, plan_batch
from textmill.producer.openai_batch.writer import BatchCounts, write_openai_batch
from textmill.producer.readers import ReadOptions
from textmill.producer.submit import Submitted, submit_job, validate_spec

from .. import builders
from ..builders import ALL, claim, count, dispatch, indexed, job_of, put
from ..submissions import Outbox, nothing_in

tables_url, postgresql, database = builders.tables_url, builders.postgresql, builders.database

CHAT, PLAIN, VECTORS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
HELLO = [{"role": "user", "content": "Hello"}]
VECTOR = np.array([0.1, -1 / 3, 1e-9], "<f4")


def line(custom_id: str, url: str, **body: Any) -> dict[str, Any]:
    body = {"model": "gpt-4o-mini", **body}
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def load(
    database: Database,
    folder: Path,
    *lines: Any,
    key: str | None = None,
    store_text: StoreText = StoreText.FULL,
) -> Submitted:
    """A job of these lines, for a model that is not here."""
    path = folder / "batch.jsonl"
    path.write_text("\n".join(one if isinstance(one, str) else json.dumps(one) for one in lines))
    reader = open_batch([path], ReadOptions(skip_bad=True))
    assert reader is not None
    with reader:
        plan = plan_batch(
            reader,
            task=None,
            model="org/model",
            aliases={},
            params={},
            columns={},
            id_column=None,
            store_text=store_text,
        )
        spec = JobSpec(
            task=plan.task, model=plan.model, params=plan.params, key=key, store_text=store_text
        )
        settings = load_settings(database_url="postgresql://elsewhere/x")
        spec, _ = validate_spec(spec, settings)
        return submit_job(database, Outbox(), spec, reader, hash_key=settings.hash_key_bytes)


def work(database: Database, job_id: str, errors: Mapping[int, str] | None = None) -> list[Record]:
    """Write what a worker would: answers, and errors for records by index."""
    done = []
    for claimed in _claims(database, job_id):
        rows, failed = [], []
        for one in claimed.records:
            code = (errors or {}).get(one.index)
            if code is None:
                rows.append(_answer(one, claimed.job.task))
            else:
                failed.append(one)
                text, extra = one.inputs["text"], to_json(one.extra)
                error = {"error_code": code, "error_message": f"it was {code}"}
                rows.append(ResultRow(one.index, one.record_id, text, b"h", extra=extra, **error))
        outcome = ChunkOutcome(rows, failed, {})
        database.transact(complete_chunk, claimed, indexed(database, claimed, outcome), window=ALL)
        done += claimed.records
    return done


def _claims(database: Database, job_id: str) -> list[Claim]:
    """Every chunk of the job; its messages lie in an Outbox, or are to be published yet."""
    dispatch(database, job_id)
    with database.read() as connection:
        own = (chunks.c.job_id == job_id, chunks.c.status == ChunkStatus.DISPATCHED.value)
        waiting = connection.execute(select(chunks.c.id, chunks.c.attempt).where(*own)).all()
    messages = [
        ChunkMessage(chunk_id, attempt, "default", "normal") for chunk_id, attempt in waiting
    ]
    return [found for one in messages if (found := claim(database, one)) is not None]


def _answer(one: Record, task: str) -> ResultRow:
    row = ResultRow(one.index, one.record_id, one.inputs["text"], b"h", extra=to_json(one.extra))
    row = row._replace(input_tokens=10 + one.index)
    if task == "embeddings":
        return row._replace(vector=(VECTOR + one.index).tobytes())
    reason = "length" if one.index % 2 else "stop"
    text = f'answer {one.index} "ü\u202e"\n'
    return row._replace(output=text, output_tokens=3, detail=to_json({"finish_reason": reason}))


def export(database: Database, job_id: str, out: Path) -> BatchCounts:
    job = job_of(database, job_id)
    return write_openai_batch(iter_results(database, job, ResultFilter(), page_rows=2), job, out)


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.read_text().splitlines()]


def check_line(found: dict[str, Any]) -> None:
    """The form of a line that the API reference gives."""
    assert list(found) == ["id", "custom_id", "response", "error"]
    assert found["id"].startswith("batch_req_")
    if found["response"] is not None:
        assert list(found["response"]) == ["status_code", "request_id", "body"]
        assert found["error"] is None


def bodies(path: Path, kind: type[BaseModel]) -> list[Any]:
    """The answers as the official package reads them, with nothing that it does not know."""
    read = []
    for found in lines_of(path):
        check_line(found)
        assert found["response"]["status_code"] == 200
        body = kind.model_validate(found["response"]["body"], strict=True)
        assert not body.model_extra
        assert body.model_dump(exclude_unset=True, mode="json") == found["response"]["body"]
        read.append(body)
    return read


def test_chats_come_back_as_the_official_package_reads_them(
    database: Database, tmp_path: Path
) -> None:
    lines = [
        line("a", CHAT, messages=HELLO),
        line("b", CHAT, messages=HELLO, n=3, model="gpt-4o"),
        line("c", CHAT, messages=HELLO),
    ]
    job_id = load(database, tmp_path, *lines).job_id
    put(database, jobs, jobs.c.id == job_id, model_version="sha256:1")
    assert len(work(database, job_id)) == 5

    counts = export(database, job_id, tmp_path / "out.jsonl")
    assert counts == BatchCounts(3, 0, 0, tmp_path / "out.errors.jsonl")
    assert not counts.errors_out.exists()
    assert [found["custom_id"] for found in lines_of(tmp_path / "out.jsonl")] == ["a", "b", "c"]
    first, second, third = bodies(tmp_path / "out.jsonl", ChatCompletion)
    (choice,) = first.choices
    assert choice.message.content == 'answer 0 "ü\u202e"\n'
    assert (choice.message.role, choice.index, choice.finish_reason) == ("assistant", 0, "stop")
    usage = (first.usage.prompt_tokens, first.usage.completion_tokens, first.usage.total_tokens)
    assert usage == (10, 3, 13)
    assert (first.model, second.model) == ("gpt-4o-mini", "gpt-4o")
    assert first.created == int(job_of(database, job_id).queued_at)
    assert first.system_fingerprint == second.system_fingerprint
    assert first.system_fingerprint.startswith("fp_")
    assert [choice.index for choice in second.choices] == [0, 1, 2]
    assert [choice.finish_reason for choice in second.choices] == ["length", "stop", "length"]
    # The prompt was one, whatever it was asked for.
    assert (second.usage.prompt_tokens, second.usage.completion_tokens) == (11, 9)
    assert len({first.id, second.id, third.id}) == 3

    export(database, job_id, tmp_path / "again.jsonl")
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "out.jsonl").read_bytes()


def test_completions_of_several_prompts(database: Database, tmp_path: Path) -> None:
    asked = line("a", PLAIN, prompt=["x", "y"], n=2)
    job_id = load(database, tmp_path, asked, line("b", PLAIN, prompt="z")).job_id
    work(database, job_id)
    export(database, job_id, tmp_path / "out.jsonl")
    first, second = bodies(tmp_path / "out.jsonl", Completion)
    assert [choice.text for choice in first.choices] == [
        f'answer {n} "ü\u202e"\n' for n in range(4)
    ]
    assert [choice.index for choice in first.choices] == [0, 1, 2, 3]
    assert first.usage.prompt_tokens == 10 + 12  # of the first choice of each prompt
    assert first.usage.completion_tokens == 12
    assert [choice.text for choice in second.choices] == ['answer 4 "ü\u202e"\n']


def test_embeddings_as_numbers_and_as_base64(database: Database, tmp_path: Path) -> None:
    lines = [
        line("a", VECTORS, input=["x", "y", "z"]),
        line("b", VECTORS, input="w", encoding_format="base64"),
    ]
    job_id = load(database, tmp_path, *lines).job_id
    work(database, job_id)
    export(database, job_id, tmp_path / "out.jsonl")
    first, second = (found["response"]["body"] for found in lines_of(tmp_path / "out.jsonl"))

    response = CreateEmbeddingResponse.model_validate(first, strict=True)
    assert [one.index for one in response.data] == [0, 1, 2]
    for number, one in enumerate(response.data):
        assert (np.array(one.embedding, "float32") == VECTOR + number).all()
    assert (response.usage.prompt_tokens, response.usage.total_tokens) == (33, 33)

    # As the official client decodes them.
    (given,) = second["data"]
    decoded = np.frombuffer(base64.b64decode(given["embedding"]), dtype="float32")
    assert (decoded == VECTOR + 3).all()
    given["embedding"] = decoded.tolist()
    CreateEmbeddingResponse.model_validate(second, strict=True)


def test_errors_are_in_a_file_of_their_own(database: Database, tmp_path: Path) -> None:
    lines = [
        line("a", CHAT, messages=HELLO),
        line("b", CHAT, messages=HELLO, logprobs=True),
        "{",
        line("c", CHAT, messages=HELLO),
        {**line("d", CHAT, messages=HELLO), "method": "GET"},
        line("e", CHAT, messages=HELLO, n=2),
        line("f", CHAT, messages=HELLO),
    ]
    submitted = load(database, tmp_path, *lines)
    assert (submitted.records, submitted.error_records) == (8, 3)
    work(database, submitted.job_id, {3: "prompt_too_long", 6: "not_finite"})
    counts = export(database, submitted.job_id, tmp_path / "out.jsonl")
    assert (counts.answers, counts.errors, counts.unfinished) == (2, 5, 0)
    assert [found["custom_id"] for found in lines_of(tmp_path / "out.jsonl")] == ["a", "f"]

    found = lines_of(tmp_path / "out.errors.jsonl")
    for one in found:
        check_line(one)
    assert [one["custom_id"] for one in found] == ["b", None, "c", "d", "e"]
    unsupported, broken, too_long, wrong_method, on_device = found
    assert broken["response"] is None
    assert broken["error"]["code"] == "bad_json"
    assert "line 3" in broken["error"]["message"]
    assert unsupported["response"]["status_code"] == 400
    error = unsupported["response"]["body"]["error"]
    assert error.pop("message").endswith("expected false, or no such field")
    assert error == {
        "type": "invalid_request_error",
        "param": "logprobs",
        "code": "unsupported_parameter",
    }
    assert too_long["response"]["body"]["error"] == {
        "message": "it was prompt_too_long",
        "type": "invalid_request_error",
        "param": None,
        "code": "context_length_exceeded",
    }
    assert wrong_method["response"]["body"]["error"]["code"] == "bad_row"
    assert on_device["response"]["status_code"] == 500
    assert on_device["response"]["body"]["error"]["type"] == "server_error"
    assert len({one["id"] for one in found}) == 5

    export(database, submitted.job_id, tmp_path / "again.jsonl")
    assert (tmp_path / "again.errors.jsonl").read_bytes() == (
        tmp_path / "out.errors.jsonl"
    ).read_bytes()


def test_a_batch_of_errors_alone(database: Database, tmp_path: Path) -> None:
    submitted = load(database, tmp_path, line("a", CHAT, messages=HELLO, logprobs=True))
    counts = export(database, submitted.job_id, tmp_path / "out.jsonl")
    assert (counts.answers, counts.errors) == (0, 1)
    assert (tmp_path / "out.jsonl").read_bytes() == b""


def test_lines_that_are_not_whole_yet_are_left_out(database: Database, tmp_path: Path) -> None:
    lines = [line(name, VECTORS, input=["x", "y"]) for name in "abc"]
    job_id = load(database, tmp_path, *lines).job_id
    work(database, job_id)
    with database.write() as connection:
        connection.execute(results.delete().where(results.c.record_index.in_([1, 2])))
    counts = export(database, job_id, tmp_path / "out.jsonl")
    assert (counts.answers, counts.unfinished) == (1, 2)
    assert [found["custom_id"] for found in lines_of(tmp_path / "out.jsonl")] == ["c"]


def test_files_that_exist_stay_as_they_are(database: Database, tmp_path: Path) -> None:
    (tmp_path / "out.errors.jsonl").write_text("mine")
    for fields in ({"logprobs": True}, {}):  # errors of another export are no part of this one
        job_id = load(database, tmp_path, line("a", CHAT, messages=HELLO, **fields)).job_id
        with pytest.raises(InvalidJobError, match=r"out\.errors\.jsonl exists; choose another"):
            export(database, job_id, tmp_path / "out.jsonl")
        assert not (tmp_path / "out.jsonl").exists()
    (tmp_path / "out.errors.jsonl").rename(tmp_path / "out.jsonl")
    with pytest.raises(InvalidJobError, match=r"out\.jsonl exists; choose another"):
        export(database, job_id, tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.glob("*out*")) == ["out.jsonl"]


def test_other_jobs_and_rows_that_lost_their_request_are_refused(
    database: Database, tmp_path: Path
) -> None:
    other = builders.make_job(database)
    with pytest.raises(InvalidJobError, match="was not submitted from an OpenAI batch file"):
        export(database, other, tmp_path / "out.jsonl")
    job_id = load(database, tmp_path, line("a", CHAT, messages=HELLO)).job_id
    work(database, job_id)
    put(database, results, results.c.job_id == job_id, extra=None)
    with pytest.raises(InvalidJobError, match=r"'a' of job \w+ has lost what it kept"):
        export(database, job_id, tmp_path / "out.jsonl")
    assert list(tmp_path.glob("*out*")) == []


@pytest.mark.parametrize("taken", ["two", "refused", "failed", "two refused failed"])
def test_lines_whose_records_were_purged_are_left_out(
    database: Database, tmp_path: Path, taken: str
) -> None:
    lines = [
        line("a", CHAT, messages=HELLO),
        line("two", CHAT, messages=HELLO, n=2),
        line("refused", CHAT, messages=HELLO, logprobs=True),
        line("failed", CHAT, messages=HELLO),
        line("b", CHAT, messages=HELLO),
        line("odd", CHAT, messages=HELLO, logprobs=True),
    ]
    job_id = load(database, tmp_path, *lines).job_id
    work(database, job_id, {4: "prompt_too_long"})
    ids = set(taken.split())
    (found,) = find_records(database, ids, job_id)
    purged = purge_records(database, found, ids, {})
    counts = export(database, job_id, tmp_path / "out.jsonl")
    assert counts.purged == purged == len(ids) + ("two" in ids)
    assert counts.unfinished == 0
    answered = [found["custom_id"] for found in lines_of(tmp_path / "out.jsonl")]
    assert answered == [name for name in ("a", "two", "b") if name not in ids]
    assert len(bodies(tmp_path / "out.jsonl", ChatCompletion)) == counts.answers == len(answered)
    errors = [found["custom_id"] for found in lines_of(tmp_path / "out.errors.jsonl")]
    assert errors == [name for name in ("refused", "failed", "odd") if name not in ids]


def test_every_record_runs_again_with_its_own_options(database: Database, tmp_path: Path) -> None:
    lines = [
        line("a", CHAT, messages=HELLO, temperature=0, max_tokens=5),
        line("b", CHAT, messages=HELLO, n=2, seed=5, stop=["x"]),
        line("c", CHAT, messages=HELLO, logprobs=True),
        line("d", CHAT, messages=HELLO, response_format={"type": "json_object"}),
    ]
    job_id = load(database, tmp_path, *lines).job_id
    first = work(database, job_id, {0: "not_finite"})
    assert [record.params is None for record in first] == [True, False, False, False]
    assert database.transact(rerun_job, job_id) == 4
    assert work(database, job_id) == first
    export(database, job_id, tmp_path / "out.jsonl")
    assert [found["custom_id"] for found in lines_of(tmp_path / "out.jsonl")] == ["a", "b", "d"]


def test_a_key_is_that_of_the_same_lines(database: Database, tmp_path: Path) -> None:
    first = load(database, tmp_path, line("a", CHAT, messages=HELLO), key="k")
    again = load(database, tmp_path, line("a", CHAT, messages=HELLO), key="k")
    assert (again.existing, again.job_id) == (True, first.job_id)
    with pytest.raises(JobConflictError, match="with other records"):
        load(database, tmp_path, line("a", CHAT, messages=HELLO, temperature=0), key="k")


@pytest.mark.parametrize("wrong", [line("a", CHAT, messages=HELLO), line("b", VECTORS, input="x")])
def test_what_shows_at_the_end_of_the_file_leaves_nothing(
    database: Database, tmp_path: Path, wrong: dict[str, Any]
) -> None:
    lines = [line("a", CHAT, messages=HELLO), wrong]
    with pytest.raises(InputError):
        load(database, tmp_path, *lines)
    assert nothing_in(database)
    assert count(database, jobs) == 0


def test_the_files_are_written_in_bounded_memory(tmp_path: Path, postgresql: Database) -> None:
    """Row by row: the first line is written before the last row is read."""
    job_id = load(
        postgresql, tmp_path, *(line(str(n), CHAT, messages=HELLO) for n in range(50))
    ).job_id
    work(postgresql, job_id)
    job = job_of(postgresql, job_id)
    rows: Sequence[Any] = list(iter_results(postgresql, job, ResultFilter()))

    def slowly() -> Any:
        for number, row in enumerate(rows * 200):
            if number == 9_999:
                (growing,) = tmp_path.glob(".out.jsonl.*")
                assert growing.stat().st_size > 1 << 20
            yield row

    assert write_openai_batch(slowly(), job, tmp_path / "out.jsonl").answers == 10_000
