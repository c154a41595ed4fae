"""OpenAI batches as streams of records: recognised, expanded, counted, refused."""

from __future__ import annotations

import gzip
import itertools
import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from textmill.core.errors import InputError, InvalidJobError
from textmill.core.jobs import BadRecord, Record
from textmill.core.params import GenerationParams
from textmill.core.stored_texts import StoreText
from textmill.core.tasks import get_task, read_own_params, validate_params
from textmill.producer.openai_batch import (
    BatchReader,
    open_batch,
    open_batch_objects,
    parse_aliases,
    plan_batch,
)
from textmill.producer.openai_batch.plan import BatchPlan
from textmill.producer.readers import ReadOptions

CHAT, PLAIN, VECTORS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"


def line(
    custom_id: Any, url: Any = CHAT, model: Any = "gpt-4o-mini", **body: Any
) -> dict[str, Any]:
    asked: dict[Any, dict[str, Any]] = {
        CHAT: {"messages": [{"role": "user", "content": "Hello"}]},
        PLAIN: {"prompt": "Hello"},
        VECTORS: {"input": "Hello"},
    }
    whole = {"model": model, **asked.get(url, {}), **body}
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": whole}


def write(path: Path, *lines: Any) -> Path:
    texts = [one if isinstance(one, str) else json.dumps(one) for one in lines]
    path.write_text("\n".join(texts) + "\n")
    return path


def open_one(path: Path, **options: Any) -> BatchReader:
    found = open_batch([path], ReadOptions(**options))
    assert found is not None
    return found


def plan(reader: BatchReader, **given: Any) -> BatchPlan:
    usual: dict[str, Any] = {"task": None, "model": "", "aliases": {}, "params": {}}
    usual |= {"columns": {}, "id_column": None, "store_text": StoreText.FULL}
    return plan_batch(reader, **usual | given)


def read(path: Path, **options: Any) -> list[Record | BadRecord]:
    with open_one(path, **options) as reader:
        plan(reader, model="m")
        return list(reader)


def refusal(*lines: Any, folder: Path, aliases: dict[str, str] | None = None) -> str:
    """What is said of a file, in one line."""
    path = write(folder / "batch.jsonl", *lines)
    with open_one(path) as reader, pytest.raises(InputError) as caught:
        plan(reader, aliases=aliases) if aliases is not None else plan(reader, model="m")
        list(reader)
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(str(folder), "F")


# -- recognition -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        (line("a"), True),
        (line("a", "/chat/completions"), True),  # as Azure has it
        (line(5), True),  # and then refused with its line
        ({**line("a"), "note": "x"}, True),
        ({**line("a"), "body": "Hello"}, False),
        ({**line("a"), "url": "/index.html"}, False),
        ({**line("a"), "url": None}, False),
        ({"custom_id": "a", "url": CHAT, "body": {}}, False),
        ({"method": "POST", "url": CHAT, "body": {}}, False),
        ({"custom_id": "a", "method": "POST", "url": CHAT, "text": "Hello"}, False),
        ({"text": "Hello"}, False),
        ([line("a")], False),
    ],
)
def test_a_batch_is_recognised_by_its_first_line(
    tmp_path: Path, first: Any, expected: bool
) -> None:
    path = write(tmp_path / "some.jsonl", first, line("b"))
    found = open_batch([path], ReadOptions())
    if found is not None:
        found.close()
    # A first line that is no object is passed over here, and refused when it is reached.
    assert (found is not None) is (expected or isinstance(first, list))
    assert open_batch([path], ReadOptions(format="jsonl")) is None


def test_what_is_no_json_lines_is_no_batch(tmp_path: Path) -> None:
    for name in ("batch.txt", "batch.csv"):
        assert open_batch([write(tmp_path / name, line("a"))], ReadOptions()) is None
    assert open_batch([tmp_path / "not-there.jsonl"], ReadOptions()) is None
    assert open_batch(["-"], ReadOptions()) is None


def test_objects_are_recognised_and_none_is_lost() -> None:
    reader, rest = open_batch_objects(iter([line("a"), line("b")]), ReadOptions())
    assert reader is not None
    plan(reader, model="m")
    assert [record.record_id for record in reader] == ["a", "b"]
    assert list(rest) == []
    rows = [{"text": "x"}, {"text": "y"}]
    reader, rest = open_batch_objects(iter(rows), ReadOptions())
    assert reader is None
    assert list(rest) == rows


def test_a_format_that_is_asked_for_is_required(tmp_path: Path) -> None:
    path = write(tmp_path / "some.log", line("a"))
    with open_one(path, format="openai-batch") as reader:
        assert reader.endpoint.url == CHAT
    path = write(tmp_path / "some.jsonl", {"text": "x"})
    with pytest.raises(InputError, match="the first line is no line of an OpenAI batch; expected"):
        open_batch([path], ReadOptions(format="openai-batch"))


def test_an_endpoint_that_is_not_supported_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "batch.jsonl", line("a", "/v1/responses"))
    with pytest.raises(InputError, match="for /v1/responses, which is not supported; expected one"):
        open_batch([path], ReadOptions())


# -- records ---------------------------------------------------------------------------------


def test_a_line_becomes_a_record(tmp_path: Path) -> None:
    path = write(tmp_path / "batch.jsonl", line("a", max_tokens=5), line("b", max_tokens=6))
    with open_one(path) as reader:
        job = plan(reader, aliases={"gpt-4o-mini": "./m"})
        assert (job.task, job.model) == ("generation", "./m")
        assert job.params["openai_batch"] == CHAT
        assert reader.extra_columns == ("openai",)
        chat = {"text": '[{"role": "user", "content": "Hello"}]'}
        own = {"max_new_tokens": 6}
        assert list(reader) == [
            Record(0, "a", chat, None, {"openai": {"model": "gpt-4o-mini"}}),
            Record(1, "b", chat, own, {"openai": {"model": "gpt-4o-mini", "params": own}}),
        ]
        assert reader.census.describe() == (
            "OpenAI batch file: 2 chat completions, model gpt-4o-mini -> ./m"
        )


def test_several_texts_and_choices_become_records_that_lie_together(tmp_path: Path) -> None:
    first = line("a", PLAIN, prompt=["x", "y"], n=2, seed=3)
    path = write(tmp_path / "batch.jsonl", first, line("b", PLAIN, n=2), line("c", PLAIN))
    records = read(path)
    assert [record.index for record in records] == list(range(7))
    assert [record.record_id for record in records] == ["a"] * 4 + ["b"] * 2 + ["c"]
    assert all(isinstance(record, Record) for record in records)
    sound = [record for record in records if isinstance(record, Record)]
    assert [record.inputs["text"] for record in sound] == [*"xxyy", *["Hello"] * 3]
    # Of a line with a seed each choice has its draws; without one each record has its own.
    assert [(record.params or {}).get("draws", "job's") for record in sound] == [
        *("job's", "1", "job's", "1"),
        *(None, "b 1", None),
    ]
    assert [(record.params or {}).get("seed", "job's") for record in sound[4:]] == [0, 0, 0]
    about = [record.extra["openai"] for record in sound if record.extra]
    assert [(one.get("part"), one.get("parts"), one.get("n")) for one in about] == [
        *((part, 4, 2) for part in range(4)),
        *((0, 2, 2), (1, 2, 2)),
        (None, None, None),
    ]


def test_embeddings_of_lists(tmp_path: Path) -> None:
    lines = [line("a", VECTORS, input=["x", "y", "z"], encoding_format="base64")]
    lines.append(line("b", VECTORS, input=["w"], dimensions=8))
    records = read(write(tmp_path / "batch.jsonl", *lines))
    assert [(record.record_id, record.index) for record in records] == [
        *(("a", 0), ("a", 1), ("a", 2), ("b", 3))
    ]
    assert records[1] == Record(
        *(1, "a", {"text": "y"}, None),
        {"openai": {"model": "gpt-4o-mini", "part": 1, "parts": 3, "base64": True}},
    )
    own = {"dimensions": 8}
    about = {"model": "gpt-4o-mini", "params": own}
    assert records[3] == Record(3, "b", {"text": "w"}, own, {"openai": about})


def test_a_rerun_finds_the_options_again(tmp_path: Path) -> None:
    lines = [line("a"), line("b", temperature=0, stop=["x"], n=2)]
    with open_one(write(tmp_path / "batch.jsonl", *lines)) as reader:
        job = plan(reader, model="m")
        records = [record for record in reader if isinstance(record, Record)]
    task = get_task("generation")
    params = validate_params(task, job.params)
    assert isinstance(params, GenerationParams)
    assert params.reads_own
    for record in records:
        assert read_own_params(task, params, record.extra or {}) == record.params
    assert [record.params is None for record in records] == [True, False, False]


def test_other_keys_of_a_line_are_kept(tmp_path: Path) -> None:
    path = write(tmp_path / "batch.jsonl", {**line("a"), "source": "crm"}, line("b"))
    with open_one(path) as reader:
        plan(reader, model="m")
        assert reader.extra_columns == ("openai", "source")
        first, second = reader
    assert first.extra == {"openai": {"model": "gpt-4o-mini"}, "source": "crm"}
    assert second.extra == {"openai": {"model": "gpt-4o-mini"}}


def test_a_line_that_cannot_be_honoured_is_an_error_row(tmp_path: Path) -> None:
    lines = [line("a", logprobs=True), line("b"), line("c", messages=[]), line("d", model=None)]
    path = write(tmp_path / "batch.jsonl", *lines)
    first, second, third, fourth = read(path)
    assert first == BadRecord(
        *(0, "a", "unsupported_parameter"),
        f"{path}, line 1: logprobs is true, which is not supported; expected false, or no such "
        "field",
        {"openai": {"model": "gpt-4o-mini", "param": "logprobs"}},
    )
    assert isinstance(second, Record)
    assert second.index == 1
    assert isinstance(third, BadRecord)
    assert (third.index, third.record_id, third.code) == (2, "c", "invalid_messages")
    assert isinstance(fourth, BadRecord)
    assert (fourth.code, fourth.extra) == (
        *("invalid_params", {"openai": {"model": None, "param": "model"}}),
    )


def test_nul_is_replaced_as_in_every_input(tmp_path: Path) -> None:
    path = write(tmp_path / "batch.jsonl", line("a", PLAIN, prompt="x\0y"))
    (record,) = read(path)
    assert isinstance(record, Record)
    assert record.inputs == {"text": "x\ufffdy"}


def test_files_are_read_one_after_another_and_compressed(tmp_path: Path) -> None:
    one = write(tmp_path / "one.jsonl", line("a"), "", line("b"))
    two = tmp_path / "two.jsonl.gz"
    two.write_bytes(gzip.compress((json.dumps(line("c")) + "\n" + json.dumps(line("b"))).encode()))
    reader = open_batch([one, two], ReadOptions())
    assert reader is not None
    plan(reader, model="m")
    found = []
    with pytest.raises(InputError) as caught:
        found.extend(reader)
    assert str(caught.value) == (
        f"{two}, line 2: the custom_id 'b' is that of another line too, {one}, line 3; expected "
        "each id once"
    )
    assert [(record.index, record.record_id) for record in found if isinstance(record, Record)] == [
        *enumerate("abcb")
    ]


def test_the_limit_counts_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "batch.jsonl", line("a", n=2), line("b", n=2), line("c"))
    assert [record.record_id for record in read(path, limit=2)] == ["a", "a", "b", "b"]


def test_reading_takes_the_memory_of_one_line() -> None:
    """100,000 lines of 1 kB; what they are is not kept, and nothing is read ahead."""
    taken = 0

    def lines() -> Iterator[dict[str, Any]]:
        nonlocal taken
        for number in range(100_000):
            taken += 1
            yield line(f"id {number}", PLAIN, prompt="x" * 1000)

    reader, _ = open_batch_objects(lines(), ReadOptions())
    assert reader is not None
    plan(reader, model="m")
    records = iter(reader)
    assert len(list(itertools.islice(records, 1000))) == 1000
    assert taken <= 1200
    tracemalloc.start()
    assert sum(1 for _ in itertools.islice(records, 10_000)) == 10_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 << 20


# -- what is refused -------------------------------------------------------------------------


def test_all_names_without_a_model_are_told_at_once(tmp_path: Path) -> None:
    lines = [line(str(n), model=name) for n, name in enumerate(["a b", "o3", "o3", "gpt-4o"])]
    assert refusal(*lines, folder=tmp_path, aliases={}) == (
        "F/batch.jsonl: no model is named for a b (1 line), o3 (2 lines), gpt-4o (1 line); pass "
        "--model-alias 'a b=FOLDER', once for each, or --model FOLDER for all names"
    )
    aliases = {"a b": "./m", "o3": "./m"}
    assert "no model is named for gpt-4o (1 line); pass --model-alias gpt-4o=FOLDER, or" in refusal(
        *lines, folder=tmp_path, aliases=aliases
    )


def test_names_of_one_model_are_one_job_and_of_two_are_not(tmp_path: Path) -> None:
    lines = [line("1", model="a"), line("2", model="b")]
    path = write(tmp_path / "batch.jsonl", *lines)
    with open_one(path) as reader:
        plan(reader, aliases={"a": str(tmp_path / "m"), "b": f"{tmp_path}/./m", "c": "./other"})
        assert len(list(reader)) == 2
    message = refusal(*lines, folder=tmp_path, aliases={"a": "./one", "b": "./two"})
    assert message == (
        "F/batch.jsonl names several models: a -> ./one (1 line), b -> ./two (1 line); a job has "
        "one, so split the file: jq -c 'select(.body.model == \"a\")' F/batch.jsonl > part.jsonl"
    )


def test_a_model_serves_every_name(tmp_path: Path) -> None:
    path = write(tmp_path / "batch.jsonl", line("1", model="a"), line("2", model="b"))
    with open_one(path) as reader:
        assert plan(reader, model="./m").model == "./m"
        assert len(list(reader)) == 2
        assert reader.census.describe().endswith("models a, b -> ./m")


def test_nothing_more_is_made_of_a_file_that_cannot_be_a_job(tmp_path: Path) -> None:
    """It is read to its end for the message, and would be written in vain."""
    lines = [line("1"), line("2", VECTORS), *(line(str(n)) for n in range(3, 9))]
    with open_one(write(tmp_path / "batch.jsonl", *lines)) as reader:
        plan(reader, model="m")
        made = []
        with pytest.raises(InputError, match="7 lines: 1, 3, 4, 5, 6"):
            made.extend(reader)
        assert [record.record_id for record in made] == ["1"]


def test_mixed_endpoints_are_told_with_their_lines(tmp_path: Path) -> None:
    lines = [line("1"), line("2", VECTORS), line("3"), *(line(f"x{n}", VECTORS) for n in range(6))]
    lines.append(line("9", "/chat/completions", messages=[{"role": "user", "content": "a"}]))
    assert refusal(*lines, folder=tmp_path) == (
        "F/batch.jsonl mixes endpoints: /v1/chat/completions (3 lines: 1, 3, 10); /v1/embeddings "
        "(7 lines: 2, 4, 5, 6, 7, …); a job has one, so split the file: jq -c 'select(.url == "
        '"/v1/chat/completions")\' F/batch.jsonl > part.jsonl'
    )


def test_a_custom_id_that_comes_twice_is_told_with_both_lines(tmp_path: Path) -> None:
    assert refusal(line("a"), "", line("b"), line("a"), folder=tmp_path) == (
        "F/batch.jsonl, line 4: the custom_id 'a' is that of another line too, F/batch.jsonl, line "
        "1; expected each id once"
    )


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({**line("x"), "method": "GET"}, 'line 2: method is "GET"; expected "POST"'),
        ({**line("x"), "method": None}, 'line 2: method is null; expected "POST"'),
        ({**line("x"), "url": 5}, "line 2: url is 5; expected a text such as"),
        ({**line("x"), "body": []}, "line 2: body is []; expected an object"),
        (line(""), 'line 2: custom_id is ""; expected a text, another one in each line'),
        (line(7), "line 2: custom_id is 7; expected a text"),
        ({**line("x"), "openai": 1}, "line 2: the key 'openai' is taken"),
        ("{", "line 2: the line is not JSON"),
        ("[1]", "line 2: the line is a list; expected a JSON object"),
    ],
)
def test_a_line_of_the_wrong_form_is_refused_or_skipped(
    tmp_path: Path, given: Any, part: str
) -> None:
    lines = [line("a", n=2), given, line("b")]
    message = refusal(*lines, folder=tmp_path)
    assert part in message
    assert "--skip-bad" in message
    records = read(tmp_path / "batch.jsonl", skip_bad=True)
    assert [record.index for record in records] == [0, 1, 2, 3]
    bad = records[2]
    assert isinstance(bad, BadRecord)
    has_id = isinstance(given, dict) and given["custom_id"] == "x"
    assert bad.record_id == ("x" if has_id else "2")
    assert (bad.extra is None) is not has_id


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ({"task": "classification"}, ["'generation', not 'classification'", "--format jsonl"]),
        ({"params": {"template": "{text}"}}, ["whose lines say what --template would"]),
        ({"params": {"messages": True}}, ["--messages"]),
        ({"params": {"own_columns": {"seed": "s"}}}, ["--seed-column"]),
        ({"columns": {"text": "t"}}, ["--text-column"]),
        ({"id_column": "id"}, ["--id-column"]),
        ({"aliases": {"gpt-4o-mini": "./a"}}, ["--model m serves every name", "one of the two"]),
        ({"params": {"temperature": "hot"}}, ["'temperature'", "'hot'"]),
        ({"params": {"dimensions": 5}}, ["no option 'dimensions' (an option of embeddings)"]),
    ],
)
def test_what_contradicts_the_file_is_refused(
    tmp_path: Path, given: dict[str, Any], parts: list[str]
) -> None:
    with (
        open_one(write(tmp_path / "batch.jsonl", line("a"))) as reader,
        pytest.raises(InvalidJobError) as caught,
    ):
        plan(reader, **{"model": "m", **given})
    for part in parts:
        assert part in str(caught.value)


def test_a_file_that_names_no_model_needs_one(tmp_path: Path) -> None:
    path = write(tmp_path / "batch.jsonl", line("a", model=None))
    with open_one(path) as reader, pytest.raises(InputError, match="no line names a model; pass"):
        plan(reader)


def test_aliases_of_the_command_line() -> None:
    assert parse_aliases(["gpt-4o=./a=b", "o3=org/model", "o3=org/model"]) == {
        "gpt-4o": "./a=b",
        "o3": "org/model",
    }
    for wrong in ("gpt-4o", "gpt-4o=", "=./a"):
        with pytest.raises(InvalidJobError, match="expected NAME=FOLDER"):
            parse_aliases([wrong])
    with pytest.raises(InvalidJobError, match=r"names \./a and \./b for 'o3'"):
        parse_aliases(["o3=./a", "o3=./b"])
