"""OpenAI batch files through the installed command: run, export, refusals, Python."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from openai.types import Completion, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion

from ..tiny_generators import save_generator
from ..tiny_models import save_model
from .conftest import TEXTMILL, Refusals, Shell, assert_user_error

CHAT, PLAIN, VECTORS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
HELLO = [{"role": "user", "content": "how are you"}]
CPU = ["--devices", "cpu"]


def line(custom_id: str, url: str = CHAT, **body: Any) -> dict[str, Any]:
    asked: dict[str, dict[str, Any]] = {
        CHAT: {"messages": HELLO, "max_tokens": 12},
        PLAIN: {"prompt": "the dog"},
        VECTORS: {"input": "the dog"},
    }
    body = {"model": "gpt-4o-mini", **asked.get(url, {}), **body}
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def batch(shell: Shell, *lines: Any, name: str = "batch.jsonl") -> Path:
    return shell.write(name, "".join(json.dumps(one) + "\n" for one in lines))


def answers(path: Path) -> dict[str, Any]:
    found = [json.loads(text) for text in path.read_text().splitlines()]
    return {one["custom_id"]: one["response"]["body"] for one in found}


def test_chats_run_are_exported_and_run_again(shell: Shell) -> None:
    model = save_generator(shell.folder / "model", every_byte=True, context=512)
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]}
    asked = {"name": "n", "schema": schema | {"additionalProperties": False}}
    as_schema = {"type": "json_schema", "json_schema": asked}
    lines = [
        line("greedy", temperature=0),
        line("drawn"),
        line("seeded", seed=5, messages=[{"role": "developer", "content": "a good text"}, *HELLO]),
        line("same", seed=5, messages=[{"role": "system", "content": "a good text"}, *HELLO]),
        line("three", n=3, temperature=2),
        line("json", response_format=as_schema, max_tokens=60),
        line("odds", logprobs=True),
        line("picture", messages=[{"role": "user", "content": [{"type": "image_url"}]}]),
        line("long", messages=[{"role": "user", "content": "on and on " * 300}]),
        line("free", max_tokens=None, temperature=0),
    ]
    alias = ["--model-alias", f"gpt-4o-mini={model}"]
    done = shell.run("run", batch(shell, *lines), *alias, *CPU)
    assert done.returncode == 3, done.stderr
    told = f"OpenAI batch file: 10 chat completions, model gpt-4o-mini -> {model}\n"
    assert told in done.stderr
    assert "--format openai-batch --out answers.jsonl" in done.stdout

    def export(name: str) -> tuple[bytes, bytes]:
        exported = shell.run("results", "last", "--format", "openai-batch", "--out", name)
        assert exported.returncode == 0, exported.stderr
        errors = name.replace(".jsonl", ".errors.jsonl")
        assert exported.stderr == f"7 answers in {name}\n3 errors in {errors}\n"
        return (shell.folder / name).read_bytes(), (shell.folder / errors).read_bytes()

    first = export("answers.jsonl")
    found = {
        name: ChatCompletion.model_validate(body, strict=True)
        for name, body in answers(shell.folder / "answers.jsonl").items()
    }
    assert list(found) == ["greedy", "drawn", "seeded", "same", "three", "json", "free"]
    texts = {name: [c.message.content for c in one.choices] for name, one in found.items()}
    assert texts["seeded"] == texts["same"]
    assert texts["drawn"] != texts["greedy"]
    assert len(set(texts["three"])) == 3
    assert json.loads(texts["json"][0] or "") in ({"a": 1}, {"a": 2})
    usage = found["free"].usage
    assert usage is not None
    was_cut = found["free"].choices[0].finish_reason == "length"
    assert was_cut == (usage.total_tokens == 512), "it had what the prompt leaves of the context"
    codes = {
        name: body["error"]["code"]
        for name, body in answers(shell.folder / "answers.errors.jsonl").items()
    }
    assert codes == {
        "odds": "unsupported_parameter",
        "picture": "unsupported_parameter",
        "long": "context_length_exceeded",
    }

    # The same texts from inputs that were rebuilt from the rows.
    assert shell.run("retry", "last", "--all").returncode == 0
    assert shell.run("run", "--resume", "last", *CPU).returncode == 3
    assert export("again.jsonl") == first


def test_completions_and_embeddings(shell: Shell) -> None:
    model = save_generator(shell.folder / "model")
    prompts = line("several", PLAIN, prompt=["the dog", "a good text"], temperature=0, max_tokens=9)
    given = json.dumps(prompts) + "\n" + json.dumps(line("one", PLAIN))
    path = shell.write("prompts.jsonl.gz", gzip.compress(given.encode()))
    done = shell.run("run", path, "--model", model, *CPU)
    assert done.returncode == 0, done.stderr
    assert "OpenAI batch file: 2 completions, model gpt-4o-mini -> " in done.stderr
    export = ["results", "last", "--format", "openai-batch", "--out"]
    assert shell.run(*export, "texts.jsonl").returncode == 0
    several, one = (
        Completion.model_validate(body) for body in answers(shell.folder / "texts.jsonl").values()
    )
    assert len(several.choices) == 2
    assert one.usage is not None
    assert one.usage.completion_tokens <= 16, "the API's default of completions"

    encoder = save_model(shell.folder / "encoder", "BertModel")
    lines = [line("a", VECTORS, input=["the dog", "a text"]), line("b", VECTORS, dimensions=3)]
    lines += [line("c", VECTORS, dimensions=10**6), line("d", VECTORS, input="word " * 2000)]
    done = shell.run("run", batch(shell, *lines), "--model", encoder, *CPU)
    assert done.returncode == 3, done.stderr
    assert shell.run(*export, "vectors.jsonl").returncode == 0
    found = {
        name: CreateEmbeddingResponse.model_validate(body)
        for name, body in answers(shell.folder / "vectors.jsonl").items()
    }
    assert [one.index for one in found["a"].data] == [0, 1]
    assert [len(one.embedding) for one in found["b"].data] == [3]
    errors = answers(shell.folder / "vectors.errors.jsonl")
    assert [body["error"]["code"] for body in errors.values()] == [
        *("invalid_params", "context_length_exceeded")
    ]

    # Of a line whose record was purged nothing is written; how many there are is said.
    purge = ["purge", "--job", "last", "--record-id", "d", "--record-id", "a", "--yes"]
    assert shell.run(*purge, "--no-vacuum").returncode == 0
    left = shell.run(*export, "left.jsonl")
    told = "1 answer in left.jsonl\n1 error in left.errors.jsonl\n"
    assert left.stderr == told + "note: 3 records were purged and left out\n"
    assert list(answers(shell.folder / "left.jsonl")) == ["b"]
    assert list(answers(shell.folder / "left.errors.jsonl")) == ["c"]


def test_a_dry_run_a_key_and_stdin(shell: Shell) -> None:
    model = save_generator(shell.folder / "model")
    path = batch(shell, line("a"), line("b", n=2), line("c", logprobs=True))
    alias = ["--model-alias", f"gpt-4o-mini={model}"]
    dry = shell.run("submit", path, *alias, "--dry-run", "--max-new-tokens", "7")
    assert dry.returncode == 0, dry.stderr
    assert "OpenAI batch file: 3 chat completions, model gpt-4o-mini -> " in dry.stderr
    assert "would submit 4 records in about 1 chunk (1 bad)" in dry.stderr
    shell.assert_nothing_written()

    first = shell.submit(path, *alias, "--key", "k")
    again = shell.run("submit", path, *alias, "--key", "k")
    assert again.stdout.strip() == first
    assert "already; nothing was submitted" in again.stderr
    (job,) = shell.rows("jobs")
    assert (job["task"], job["name"], job["model"]) == ("generation", "batch.jsonl", str(model))

    piped = ["submit", "-", "--format", "openai-batch", *alias]
    done = shell.run(*piped, stdin=path.read_text())
    assert done.returncode == 0, done.stderr
    assert len(shell.rows("jobs")) == 2


def test_from_python(shell: Shell) -> None:
    model = save_generator(shell.folder / "model")
    batch(shell, line("a"), line("b", n=2))
    shell.env["PATH"] = f"{TEXTMILL.parent}:{shell.env['PATH']}"
    source = f"""
import json
from textmill import InvalidJobError, submit
aliases = {{"gpt-4o-mini": {str(model)!r}}}
lines = [json.loads(text) for text in open("batch.jsonl")]
for given in ("batch.jsonl", lines, (one for one in lines)):
    job = submit(given, model_alias=aliases, temperature=0)
    print(job._row().task, job.counts()["total"], job._row().params["openai_batch"])
other, task = {{"model_alias": {{"o3": "./m"}}}}, {{"model_alias": aliases, "task": "embeddings"}}
for wrong in ({{}}, other, task):
    try:
        submit("batch.jsonl", **wrong)
    except InvalidJobError as error:
        print(error)
try:
    submit([{{"text": "a"}}], model_alias=aliases)
except InvalidJobError as error:
    print(error)
try:
    submit([{{"text": "a"}}])
except InvalidJobError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", source],
        cwd=shell.folder,
        env=shell.env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *jobs, nothing, other, task, no_batch, no_model = done.stdout.splitlines()
    assert jobs == ["generation 3 /v1/chat/completions"] * 3
    for message in (nothing, other):
        assert "no model is named for gpt-4o-mini (2 lines)" in message
    assert "'generation', not 'embeddings'" in task
    assert "the input is none" in no_batch
    assert no_model == "no model is given; expected a folder, a GGUF file or a hub name"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_generator(tmp_path_factory.mktemp("model") / "model")


@pytest.mark.parametrize(
    ("lines", "words", "parts"),
    [
        ([line("a")], [], ["no model is named for gpt-4o-mini (1 line)", "--model-alias"]),
        ([line("a"), line("b", model="o3")], ["ALIAS"], ["no model is named for o3 (1 line)"]),
        ([line("a"), line("b", VECTORS)], ["MODEL"], ["mixes endpoints", "(1 line: 2)"]),
        ([line("a"), line("a")], ["MODEL"], ["line 2: the custom_id 'a'", "line 1"]),
        ([line("a"), line("b") | {"method": "GET"}], ["MODEL"], ["line 2: method is \"GET\""]),
        ([line("a"), {"text": "b"}], ["MODEL"], ["line 2: custom_id is null", "--skip-bad"]),
        ([line("a", "/v1/responses")], ["MODEL"], ["for /v1/responses, which is not supported"]),
        ([line("a")], ["MODEL", "ALIAS"], ["serves every name", "one of the two"]),
        ([line("a")], ["ALIAS", "--model-alias", "o3"], ["'o3'; expected NAME=FOLDER"]),
        ([line("a")], ["MODEL", "--task", "embeddings"], ["'generation', not 'embeddings'"]),
        ([line("a")], ["MODEL", "--template", "{body}"], ["what --template would"]),
        ([line("a")], ["MODEL", "--id-column", "custom_id"], ["what --id-column would"]),
        ([line("a")], ["MODEL", "--prefix", "x"], ["no option --prefix", "embeddings"]),
        ([line("a")], ["MODEL", "--max-new-tokens", "x"], ["'max_new_tokens'", "'x'"]),
        ([line("a", VECTORS)], ["MODEL", "--max-new-tokens", "5"], ["task 'embeddings' has"]),
        ([{"text": "a"}], ["MODEL", "--format", "openai-batch"], ["the first line is no line of"]),
        ([{"text": "a"}], ["ALIAS"], ["--model-alias is for OpenAI batch files"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line(
    refusals: Refusals,
    shell: Shell,
    model: Path,
    lines: list[Any],
    words: list[str],
    parts: list[str],
) -> None:
    meant = {"MODEL": ["--model", str(model)], "ALIAS": ["--model-alias", f"gpt-4o-mini={model}"]}
    options = [part for word in words for part in meant.get(word, [word])]
    refusals.check([batch(shell, *lines), *options], *parts)


def test_models_that_cannot_do_it(refusals: Refusals, shell: Shell) -> None:
    plain = save_generator(shell.folder / "plain", chat=False)
    refusals.check([batch(shell, line("a")), "--model", plain], "no chat template", f"{CHAT} needs")
    encoder = save_model(shell.folder / "encoder", "BertModel")
    refusals.check([batch(shell, line("a")), "--model", encoder], "cannot do generation")
    refusals.check([batch(shell, line("a")), "--model", "./not-there"], "does not exist")


def test_exports_that_cannot_be(shell: Shell, model: Path) -> None:
    export = ["results", "last", "--format", "openai-batch"]
    words = ["--task", "generation", "--model", model, "--max-new-tokens", "9"]
    shell.submit(shell.write("texts.txt", "a\nb\n"), *words)
    out = shell.folder / "out.jsonl"
    refused = shell.run(*export, "--out", out)
    assert_user_error(refused, "was not submitted from an OpenAI batch file", "--format jsonl")
    shell.submit(batch(shell, line("a")), "--model", model)
    assert_user_error(shell.run(*export), "pass --out answers.jsonl")
    assert_user_error(shell.run(*export, "--out", out, "--errors"), "leave out filters")
    assert_user_error(shell.run(*export, "--out", out, "--limit", "1"), "leave out filters")
    assert not out.exists()
    done = shell.run(*export, "--out", out)
    assert done.returncode == 0
    assert "note: the job is queued; 1 of its records have no result" in done.stderr
    assert_user_error(shell.run(*export, "--out", out), "out.jsonl exists; choose another name")


def test_rows_with_such_columns_are_rows(shell: Shell, model: Path) -> None:
    """They are read as ever: by a template, or by the column that is named."""
    rows = [{"custom_id": "a", "method": "POST", "url": "/a", "body": "the dog"}]
    words = ["--task", "generation", "--model", model, "--max-new-tokens", "9", "--dry-run"]
    done = shell.run("submit", batch(shell, *rows), *words, "--text-column", "body")
    assert done.returncode == 0, done.stderr
    assert "OpenAI" not in done.stderr
    as_rows = ["--format", "jsonl", "--text-column", "custom_id", *words]
    done = shell.run("submit", batch(shell, line("a")), *as_rows)
    assert done.returncode == 0, done.stderr
    assert "columns  text = 'custom_id'" in done.stderr
