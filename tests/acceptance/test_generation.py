"""Generation as a person runs it: prompts, chats, templates, options of a record's own, errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from ..tiny_generators import save_generator
from ..tiny_models import save_model
from .conftest import Shell, assert_user_error

EOS = [2, 143]
PROMPTS = "the dog\na good text\nhow are you\nwhat is the capital of\non and on\n"
CHAT = [
    {"role": "user", "content": "how are you"},
    {"role": "assistant", "content": "I am fine"},
    {"role": "user", "content": "good morning"},
]
TABLE = "id,text,country,limit,heat,end\na,hello,France,5,,\nb,bye,Japan,,1.0,\nc,hi,Peru,,,t\n"
RUN = ["--task", "generation", "--devices", "cpu", "--max-new-tokens", "20", "--model"]


def rows_of(shell: Shell) -> list[dict[str, Any]]:
    return sorted(shell.rows("results"), key=lambda row: int(row["record_index"]))


def outputs(shell: Shell) -> list[str | None]:
    return [row["output"] for row in rows_of(shell)]


def answer(model: Path, given: str | list[dict[str, str]], tokens: int = 20) -> str:
    """The plain way: transformers, one record at a time."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    network = transformers.AutoModelForCausalLM.from_pretrained(model)
    if isinstance(given, str):
        ids = tokenizer(given).input_ids
    else:
        ids = tokenizer.apply_chat_template(given, add_generation_prompt=True)["input_ids"]
    found = network.generate(torch.tensor([ids]), max_new_tokens=tokens, do_sample=False)
    written = found[0, len(ids) :].tolist()
    end = next((n for n, token in enumerate(written) if token in EOS), tokens)
    text: str = tokenizer.decode(written[:end], skip_special_tokens=True)
    return text


def test_run_prompts_from_a_file(shell: Shell) -> None:
    model = save_generator(shell.folder / "model", chat=False, eos=EOS)
    done = shell.run("run", shell.write("texts.txt", PROMPTS), *RUN, model)

    assert done.returncode == 0, done.stderr
    assert "tokens/s written" in done.stdout
    rows = rows_of(shell)
    assert [row["text"] for row in rows] == PROMPTS.splitlines()
    assert [row["output"] for row in rows] == [answer(model, text) for text in PROMPTS.splitlines()]
    assert {row["detail"]["finish_reason"] for row in rows} <= {"stop", "length"}
    (job,) = shell.rows("jobs")
    for name in ("input_tokens", "output_tokens"):
        assert job[name] == sum(row[name] for row in rows) > 0
    watched = json.loads(shell.run("watch", "last", "--json").stdout.splitlines()[0])
    assert watched["output_tokens"] == job["output_tokens"]
    assert watched.keys() > {"records_per_second", "output_tokens_per_second"}


def test_run_chats_of_several_turns(shell: Shell) -> None:
    model = save_generator(shell.folder / "model", eos=EOS)
    chats = [CHAT, [{"role": "system", "content": "a good text"}, *CHAT], CHAT[2:], CHAT[1:]]
    lines = [json.dumps({"id": f"c{n}", "messages": chat}) for n, chat in enumerate(chats)]
    file = shell.write("chats.jsonl", "\n".join(lines))
    assert_user_error(shell.run("run", file, *RUN, model), "pass --messages")
    shell.assert_nothing_written()

    done = shell.run("run", file, *RUN, model, "--messages", "--id-column", "id")
    assert done.returncode == 0, done.stderr
    rows = rows_of(shell)
    assert [row["output"] for row in rows] == [answer(model, chat) for chat in chats]
    assert [json.loads(row["text"]) for row in rows] == chats

    first = outputs(shell)
    assert shell.run("retry", "last", "--all").returncode == 0
    assert shell.run("run", "--resume", "last", "--devices", "cpu").returncode == 0
    assert outputs(shell) == first


def test_run_a_template_and_options_from_columns(shell: Shell) -> None:
    """Drawn texts too, and all of it the same in a second run, which has other chunks."""
    model = save_generator(shell.folder / "model", eos=EOS)
    file = shell.write("texts.csv", TABLE)
    template = ["--template", "Say {text} in {country}", "--system", "a good text"]
    own = ["--max-new-tokens-column", "limit", "--temperature-column", "heat"]
    words = [*template, *own, "--stop-column", "end", "--id-column", "id"]
    done = shell.run("run", file, *RUN, model, *words)

    assert done.returncode == 0, done.stderr
    first, drawn, third = rows_of(shell)
    assert first["text"] == "Say hello in France"
    kept = {"text": "hello", "country": "France", "limit": "5", "heat": "", "end": ""}
    assert first["extra"] == kept
    chat = [{"role": "system", "content": "a good text"}, {"role": "user", "content": ""}]

    def asked(row: dict[str, Any], tokens: int = 20) -> str:
        return answer(model, [chat[0], {**chat[1], "content": row["text"]}], tokens)

    assert first["output"] == asked(first, 5)
    assert first["output_tokens"] <= 5
    assert drawn["output"] != asked(drawn)
    assert third["output"] == asked(third).partition("t")[0]
    assert third["detail"] == {"finish_reason": "stop"}

    before = outputs(shell)
    shell.env["TEXTMILL_PLUGINS"] = "small_chunks"
    assert shell.run("retry", "last", "--all").returncode == 0
    assert sorted(row["records"] for row in shell.rows("chunks") if row["status"] != "done") == [
        1,
        2,
    ]
    assert shell.run("run", "--resume", "last", "--devices", "cpu").returncode == 0
    assert outputs(shell) == before


def test_a_record_that_cannot_be_answered_costs_one_row(shell: Shell) -> None:
    model = save_generator(shell.folder / "model", eos=EOS)
    chats: list[Any] = [CHAT, [CHAT[0], CHAT[2]], [{"role": "user", "content": "on and on " * 60}]]
    chats += [[{"role": "user"}], CHAT]
    lines = "\n".join(json.dumps({"messages": chat}) for chat in chats)
    file = shell.write("chats.jsonl", lines)
    refused = shell.run("run", file, *RUN, model, "--messages")
    assert_user_error(refused, "chats.jsonl, line 4: message 1 has no content", "--skip-bad")
    shell.assert_nothing_written()

    done = shell.run("run", file, *RUN, model, "--messages", "--skip-bad")
    assert done.returncode == 3, done.stderr
    rows = rows_of(shell)
    codes = [None, "chat_template", "prompt_too_long", "invalid_messages", None]
    assert [row["error_code"] for row in rows] == codes
    assert "roles must alternate" in rows[1]["error_message"]
    assert "beside max_new_tokens, 20, there is room for 108" in rows[2]["error_message"]
    assert rows[0]["output"] == rows[4]["output"] == answer(model, CHAT)
    (job,) = shell.rows("jobs")
    assert (job["done_records"], job["error_records"]) == (2, 3)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--max-new-tokens", "0"], ["'max_new_tokens'", "greater than or equal to 1"]),
        (["--temperature", "hot"], ["'temperature'", "'hot'", "valid number"]),
        (["--top-p", "0.9"], ["top_p counts only for drawn tokens", "such as 0.7"]),
        (["--max-tokens", "9"], ["--max-tokens", "did you mean '--max-new-tokens'"]),
        (
            ["--template", "in {countri}"],
            ["'countri'", "did you mean 'country'", "columns are: id"],
        ),
        (["--template", "in {country"], ["'template'", "the brace '{' at character 4"]),
        (["--template", "nothing"], ["names no column"]),
        (["--template", "{id}", "--messages"], ["no template to fill"]),
        (["--template", "@no-such-file"], ["--template @no-such-file", "No such file"]),
        (["--max-new-tokens-column", "limits"], ["'limits'", "did you mean 'limit'"]),
        (["--max-new-tokens-column", "country"], ["line 2: column 'country'", "'France'"]),
        (["--seed-column", "text"], ["the column 'text' is used twice"]),
        (["--chat", "on"], ["no chat template", "--chat on needs"]),
        (["--system", "Be short."], ["no chat template", "--system needs"]),
        (["--messages"], ["no chat template", "--messages needs"]),
        (["--system", "Be short.", "--chat", "off"], ["a system message needs a chat"]),
        (["--max-new-tokens", "500"], ["the context of model", "128 tokens"]),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_enqueued(
    shell: Shell, words: list[str], parts: list[str]
) -> None:
    model = save_generator(shell.folder / "model", chat=False)
    file = shell.write("texts.csv", TABLE)
    options = ["--task", "generation", "--max-new-tokens", "20", "--text-column", "text"]
    if "--template" in words or "--messages" in words:
        options = options[:-2]
    assert_user_error(shell.run("submit", file, "--model", model, *options, *words), *parts)
    shell.assert_nothing_written()


def test_run_by_a_json_schema(shell: Shell) -> None:
    model = save_generator(shell.folder / "model", every_byte=True, context=512)
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"enum": [1, 22, None]}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    file = shell.write("texts.txt", PROMPTS)
    words = ["--max-new-tokens", "90", "--json-schema", shell.write("s.json", json.dumps(schema))]
    done = shell.run("run", file, *RUN, model, *words)

    assert done.returncode == 0, done.stderr
    rows = rows_of(shell)
    assert len(rows) == 5
    for row in rows:
        assert json.loads(row["output"]) == row["detail"]["json"]
        assert row["detail"]["json"].keys() == {"name", "age"}
        assert row["detail"]["json"]["age"] in (1, 22, None)
        assert len(row["detail"]["json"]["name"]) <= 8

    assert len(set(outputs(shell))) > 1

    words[1] = "3"
    done = shell.run("run", file, *RUN, model, *words)
    assert done.returncode == 3, done.stderr
    errors = [row["error_code"] for row in rows_of(shell) if row["error_code"]]
    assert errors == ["json_incomplete"] * 5


@pytest.mark.parametrize(
    ("schema", "words", "parts"),
    [
        (None, [], ["--json-schema", "s.json: No such file"]),
        ("{", [], ["'json_schema'", "not JSON: Expecting property name", "line 1, column 2"]),
        ("[1]", [], ["expected a JSON Schema, an object"]),
        ('{"type": "strng"}', [], ["no valid JSON Schema: 'strng'"]),
        ('{"type": "string", "minLength": 5, "maxLength": 2}', [], ["minLength (5) is greater"]),
        ('{"not": {}}', [], ["the keyword 'not', at $, is not supported"]),
        ("{}", ["--stop", "x"], ["stop texts would cut the JSON"]),
    ],
)
def test_a_wrong_schema_is_said_before_anything_is_enqueued(
    shell: Shell, schema: str | None, words: list[str], parts: list[str]
) -> None:
    model = save_generator(shell.folder / "model", chat=False)
    path = shell.folder / "s.json"
    if schema is not None:
        path.write_text(schema)
    options = ["--json-schema", path, *words]
    done = shell.run("run", shell.write("texts.txt", PROMPTS), *RUN, model, *options)
    assert_user_error(done, *parts)
    shell.assert_nothing_written()


def test_an_encoder_writes_no_texts(shell: Shell) -> None:
    model = save_model(shell.folder / "model", "BertModel")
    done = shell.run("run", shell.write("texts.txt", PROMPTS), *RUN, model)
    assert_user_error(done, "cannot do generation", "BertModel", "ends in ForCausalLM")
    shell.assert_nothing_written()
