"""Batches of jobs that keep no texts: nothing that a line says in words is in the tables."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai.types.chat import ChatCompletion
from sqlalchemy import select

from textmill.core.errors import RecordError
from textmill.core.stored_texts import StoreText
from textmill.db.chunks import complete_chunk
from textmill.db.models import payloads
from textmill.db.purge import purge_job
from textmill.db.session import Database
from textmill.db.vacuum import vacuum
from textmill.workers.items import Output
from textmill.workers.rows import Keeping, gather_outcome

from .. import builders
from ..builders import ALL, indexed, job_of
from ..canaries import KEY, canary, files_of, found_in, rows_of
from .test_openai_batch import (
    CHAT,
    PLAIN,
    _claims,
    bodies,
    check_line,
    export,
    line,
    lines_of,
    load,
)

tables_url, postgresql, database = builders.tables_url, builders.postgresql, builders.database

MODES = [StoreText.HASH, StoreText.NONE]
TEXT = [{"role": "user", "content": f"dear {canary('text', 0)}"}]
SCHEMA = {"type": "object", "properties": {canary("schema", 0): {"type": "string"}}}


@pytest.fixture(autouse=True)
def keyed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEXTMILL_HASH_KEY", KEY.decode())


def wrong_lines() -> Iterator[dict[str, Any]]:
    """Each says something wrong in words of its own."""
    said = iter(canary("wrong", index) for index in range(100))
    for fields in (
        {"messages": f"my secret is {next(said)}"},
        {"messages": [next(said)]},
        {"messages": [{"role": next(said), "content": "a"}]},
        {"messages": [{"role": "user", "content": {"to": next(said)}}]},
        {"messages": [{"role": "user", "content": "a", "name": next(said)}]},
        {"messages": [{"role": "user", "content": "a", next(said): 1}]},
        {"messages": [{"role": "user", "content": [{"type": next(said)}]}]},
        {"temperature": next(said)},
        {"stop": ["a", {"b": next(said)}]},
        {"verbosity": next(said)},
        {"tools": [{"description": next(said)}]},
        {next(said): "a field of no API"},
        {"response_format": {"type": next(said)}},
        {"response_format": as_schema({"type": "object", next(said): 1, "patternProperties": {}})},
        {"response_format": as_schema({"type": next(said)})},
        {"model": [next(said)]},
    ):
        yield line(str(next(iter(fields))), CHAT, **{"messages": TEXT, **fields})
    yield {**line("a", CHAT, messages=TEXT), "custom_id": [next(said)]}
    yield {**line("a", CHAT, messages=TEXT), "method": next(said)}
    yield {**line("a", CHAT, messages=TEXT), "url": [next(said)]}
    yield {**line("a", CHAT, messages=TEXT), "body": next(said)}


def as_schema(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}


def numbered(lines: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """With ids that differ, where they are ids."""
    return [
        one | {"custom_id": f"w{number}"} if isinstance(one["custom_id"], str) else one
        for number, one in enumerate(lines)
    ]


def run(database: Database, job_id: str, mode: StoreText) -> list[Any]:
    """What a worker does, with an error for every third record; returns what the records ask."""
    asked = []
    for claimed in _claims(database, job_id):
        outputs: list[Output | RecordError] = [
            RecordError("json_invalid", f"of {one.inputs['text']}")
            if one.index % 3 == 2
            else Output(output="hello", detail={"finish_reason": "stop"}, input_tokens=4)
            for one in claimed.records
        ]
        outcome = gather_outcome(claimed.records, outputs, "text", Keeping(mode, KEY))
        database.transact(complete_chunk, claimed, indexed(database, claimed, outcome), window=ALL)
        asked += claimed.records
    return asked


def stored(database: Database, job_id: str) -> str:
    """All that rows and job hold, as one text."""
    return str(job_of(database, job_id)) + str(rows_of(database, job_id))


@pytest.mark.parametrize("mode", StoreText)
def test_what_is_wrong_with_a_line_is_said_without_its_words(
    database: Database, tmp_path: Path, mode: StoreText
) -> None:
    first = line("good", CHAT, messages=TEXT)
    lines = numbered(wrong_lines())
    job_id = load(database, tmp_path, first, *lines, store_text=mode).job_id
    rows = rows_of(database, job_id)
    assert len(rows) == len(lines)
    for number, row in enumerate(rows):
        told = f"{row.error_message} {row.extra}"
        assert "batch.jsonl, line" in row.error_message
        assert (canary("wrong", number) in told) == (mode == StoreText.FULL), told
    said = " ".join(row.error_message for row in rows)
    if mode != StoreText.FULL:  # what was expected can still be read
        assert "temperature has a wrong value; expected a number from 0 to 100" in said
        assert "messages[0].name is not supported" in said
        assert "custom_id is missing or wrong; expected a text" in said
        assert [
            row.extra["openai"].get("param")
            for row in rows
            if "temperature has" in row.error_message
        ] == ["temperature"]


@pytest.mark.parametrize("mode", MODES)
def test_stop_texts_and_schemas_of_lines_are_in_no_row_and_not_in_the_job(
    database: Database, tmp_path: Path, mode: StoreText
) -> None:
    stops = [canary("stop", index) for index in range(3)]
    lines = [line(f"l{n}", CHAT, messages=TEXT, stop=stop) for n, stop in enumerate(stops)]
    lines += [line("schema", CHAT, messages=TEXT, response_format=as_schema(SCHEMA), n=2)]
    lines += [line("plain", CHAT, messages=TEXT, temperature=0.5)]
    for first in (0, 3):  # the first line's options are the job's
        job_id = load(database, tmp_path, *lines[first:], *lines[:first], store_text=mode).job_id
        asked = run(database, job_id, mode)
        found = [(one.params or {}).get("stop") for one in asked if one.record_id.startswith("l")]
        assert found == [[stop] for stop in stops]  # they count all the same
        schemas = [one.params["json_schema"] for one in asked if one.record_id == "schema"]
        assert len(schemas) == 2
        assert all(canary("schema", 0) in schema for schema in schemas)
        kept = stored(database, job_id)
        for word in (*stops, canary("schema", 0), canary("text", 0)):
            assert word not in kept
    full = load(database, tmp_path, *lines).job_id
    run(database, full, StoreText.FULL)
    assert all(word in stored(database, full) for word in (*stops, canary("schema", 0)))


@pytest.mark.parametrize("mode", MODES)
def test_the_two_files_of_a_batch_without_texts_are_of_the_same_form(
    database: Database, tmp_path: Path, mode: StoreText
) -> None:
    lines = [line(f"l{n}", CHAT, messages=TEXT, stop=canary("stop", n)) for n in range(3)]
    lines += [line("two", CHAT, messages=TEXT, n=2), *numbered(wrong_lines())]
    job_id = load(database, tmp_path, *lines, store_text=mode).job_id
    run(database, job_id, mode)
    counts = export(database, job_id, tmp_path / "out.jsonl")
    assert counts.answers == 3
    assert [found["custom_id"] for found in lines_of(tmp_path / "out.jsonl")] == ["l0", "l1", "two"]
    read = bodies(tmp_path / "out.jsonl", ChatCompletion)
    assert [len(body.choices) for body in read] == [1, 1, 2]
    errors = lines_of(tmp_path / "out.errors.jsonl")
    assert len(errors) == counts.errors
    for one in errors:
        check_line(one)
        error = one["error"] or one["response"]["body"]["error"]
        assert error["code"]
        assert isinstance(error["message"], str)
    written = json.dumps(errors)
    words = [canary("text", 0), canary("stop", 2)]
    words += [canary("wrong", number) for number in range(len(lines))]
    assert not [word for word in words if word in written]


@pytest.mark.parametrize("mode", MODES)
def test_no_file_of_the_database_has_a_word_of_such_a_batch(
    tmp_path: Path, database_url: str, request: pytest.FixtureRequest, mode: StoreText
) -> None:
    folder = None
    if not database_url.startswith("sqlite"):
        folder = request.getfixturevalue("postgres").folder
    stop, schema = canary("stop", 0), as_schema(SCHEMA)
    lines = [
        line("a", CHAT, messages=TEXT, stop=stop),
        line("b", CHAT, messages=TEXT, response_format=schema),
        *numbered(wrong_lines()),
    ]
    words = [canary("text", 0), stop, canary("schema", 0)]
    words += [canary("wrong", number) for number in range(len(lines) - 2)]
    for database in builders.with_tables(database_url):
        job_id = load(database, tmp_path, *lines, store_text=mode).job_id
        run(database, job_id, mode)
        with database.read() as connection:
            assert connection.scalars(select(payloads.c.chunk_id)).all() == []
        vacuum(database)
        assert found_in(files_of(database, folder), *words) == []
        full = load(database, tmp_path, *lines).job_id  # which has them where this test looks
        run(database, full, StoreText.FULL)
        assert len(found_in(files_of(database, folder), *words)) >= len(words)


def test_a_purge_takes_what_the_job_had_of_its_first_line(
    database: Database, tmp_path: Path
) -> None:
    stop = canary("stop", 0)
    lines = [line("a", PLAIN, prompt="x", stop=stop, max_tokens=7), line("b", PLAIN, prompt="y")]
    job_id = load(database, tmp_path, *lines).job_id
    schema = line("c", CHAT, messages=TEXT, response_format=as_schema(SCHEMA), max_tokens=7)
    other = load(database, tmp_path, schema).job_id
    for one in (job_id, other):
        run(database, one, StoreText.FULL)
    assert stop in job_of(database, job_id).params["stop"]
    assert canary("schema", 0) in job_of(database, other).params["json_schema"]
    for one in (job_id, other):
        purge_job(database, one, {})
        assert job_of(database, one).params["max_new_tokens"] == 7
        for word in (stop, canary("schema", 0), canary("text", 0)):
            assert word not in stored(database, one)
