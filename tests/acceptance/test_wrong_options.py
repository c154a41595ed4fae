"""What a person mistypes with each task: one message, exit code 2, and nothing enqueued."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ..tiny_generators import save_generator
from ..tiny_models import save_model
from ..tiny_translators import save_m2m100, save_marian, save_t5
from ..unit.test_question_answering import save_model as save_reader
from .conftest import MODEL, Refusals, Shell

NAMES = ("contradiction", "neutral", "entailment")
FILES = {
    "texts.txt": "good\nfree win now call me\n",
    "table.csv": "id,text,question,context\n1,hello,who won?,The red team won.\n",
    "chats.csv": 'id,messages\n1,"[{""role"": ""user"", ""content"": ""hi""}]"\n2,hello there\n',
    "chat.jsonl": '{"messages": {"role": "user", "content": "hi"}}\n',
    "holes.jsonl": '{"text": "a", "country": "Peru"}\n{"text": "b"}\n',
    "empty": "",
    "empty.csv": "",
    "big.json": json.dumps({"type": "object", "description": "x" * 5_000_000}),
    "large.json": json.dumps({"type": "object", "description": "x" * 200_000}),
    "two.json": '{"type": "object", "required": ["a"], "additionalProperties": false}',
}


def _save_inference(folder: Path) -> Path:
    ids = {name: index for index, name in enumerate(NAMES)}
    return save_model(folder, id2label=dict(enumerate(NAMES)), label2id=ids)


MODELS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "generation": ("generation", save_generator),
    "labels": ("zero-shot-classification", _save_inference),
    "prompted-labels": ("zero-shot-classification", save_generator),
    "answers": ("question-answering", save_reader),
    "marian": ("translation", save_marian),
    "m2m": ("translation", save_m2m100),
    "t5": ("translation", save_t5),
    "prompted-translation": ("translation", save_generator),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The options that name task and model."""
    folder = tmp_path_factory.mktemp("models")
    return {
        name: ["--task", task, "--model", str(save(folder / name))]
        for name, (task, save) in MODELS.items()
    }


@pytest.fixture
def files(shell: Shell) -> None:
    """The inputs, in the folder in which the commands run."""
    for name, content in FILES.items():
        shell.write(name, content)
    (shell.folder / "folder").mkdir()
    (shell.folder / "latin.txt").write_bytes(b"caf\xe9")


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["empty"], ["empty: its format cannot be told by its name", "--format csv|"]),
        (["empty.csv"], ["empty.csv: is empty"]),
        (["folder"], ["folder: is a directory; expected a file of records"]),
        (["nothing"], ["nothing: no such file"]),
        (["*.csv"], ["*.csv: no such file"]),
        (["texts.txt", "chats.csv"], ["chats.csv: is csv, but texts.txt is text"]),
        (["table.csv", "--question-column", "id"], ["'question'", "the task reads: text"]),
        (["texts.txt", "--json-schema", "two.json"], ["--json-schema (an option of generation)"]),
        (["texts.txt", "--messages"], ["--messages (an option of generation)"]),
        (["texts.txt", "--source-lang", "en"], ["--source-lang (an option of translation)"]),
        (["texts.txt", "-source-lang", "en"], ["-source-lang (an option of translation)"]),
        (["table.csv", "--source-lang-column", "id"], ["'source_lang'", "reads: text"]),
        (["texts.txt", "--treshold", "1"], ["--treshold (did you mean '--threshold'?)"]),
        (["texts.txt", "--threshold", "50%"], ["'threshold'", "'50%'", "valid number"]),
        (["texts.txt", "--threshold", "2"], ["'threshold'", "'2'", "less than or equal to 1"]),
    ],
)
def test_classification(refusals: Refusals, words: list[str], parts: list[str]) -> None:
    refusals.check([*words, "--model", MODEL], *parts)


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--temperature", "-1"], ["'temperature'", "'-1'", "greater than or equal to 0"]),
        (["--temperature", "nan"], ["'temperature'", "'nan'", "finite"]),
        (["--top-p", "2", "--temperature", "1"], ["'top_p'", "'2'", "less than or equal to 1"]),
        (["--max-new-tokens", "0"], ["'max_new_tokens'", "'0'", "greater than or equal to 1"]),
        (["--max-new-tokens", "1e3"], ["'max_new_tokens'", "'1e3'", "valid integer"]),
        (["--seed", "abc"], ["'seed'", "'abc'", "valid integer"]),
        (["--seed", "-1"], ["'seed'", "'-1'", "greater than or equal to 0"]),
        (["--stop", ""], ["'stop'", "['']", "texts that are not empty"]),
        (["--stop"], ["--stop has no value"]),
        (["--system", ""], ["'system'", "a text that is not empty"]),
        (["--repetition-penalty", "0"], ["'repetition_penalty'", "'0'", "greater than 0"]),
        (["--on-long", "cut"], ["'on_long'", "'cut'", "'error' or 'truncate-left'"]),
        (["--chat", "yes"], ["'chat'", "'yes'", "'auto', 'on' or 'off'"]),
        (["--backend", "foo"], ["--backend (an option of translation, summarization)"]),
        (["--messages", "yes"], ["yes: no such file"]),
        (["--messages=maybe"], ["'messages'", "'maybe'", "boolean"]),
        (["--json-schema", "empty"], ["'json_schema'", "it is empty", '{"type": "object"}']),
        (["--json-schema", "large.json"], ["'json_schema'", "at most 100000 are allowed"]),
        (["--json-schema", "big.json"], ["--json-schema big.json: over 4 MiB"]),
        (["--json-schema", "folder"], ["--json-schema folder: Is a directory"]),
        (["--json-schema", ""], ["--json-schema : expected the name of a file"]),
        (["--json-schema", '{"type": 1}'], ['--json-schema {"type": 1}: ', "expected a file"]),
        (["--json-schema", "two.json"], ["nothing can fulfil the schema", "'a'"]),
        (["--system", "@latin.txt"], ["--system @latin.txt: not UTF-8 at byte 3", "convert"]),
    ],
)
def test_generation(
    refusals: Refusals, models: dict[str, list[str]], words: list[str], parts: list[str]
) -> None:
    few = ["--max-new-tokens", "9"]
    refusals.check(["texts.txt", *models["generation"], *few, *words], *parts)


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["chats.csv", "--messages"], ["chats.csv, line 3", "('hello there')", "--skip-bad"]),
        (["texts.txt", "--messages"], ["texts.txt, line 1", "no JSON ('good')"]),
        (["chat.jsonl", "--messages"], ["chat.jsonl, line 1", "expected a list with one object"]),
        (["table.csv", "--messages-column", "text"], ["'messages'", "reads: text"]),
        (["table.csv", "--template", "in {txt}"], ["no column 'txt' (did you mean 'text'?)"]),
        (["holes.jsonl", "--template", "{text} of {country}"], ["line 2", "'country' is missing"]),
    ],
)
def test_generation_from_a_file(
    refusals: Refusals, models: dict[str, list[str]], words: list[str], parts: list[str]
) -> None:
    refusals.check([*words, *models["generation"], "--max-new-tokens", "9"], *parts)


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("model", ["labels", "prompted-labels"])
@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ([], ["needs 'labels'", "such as a,b,c"]),
        (["--labels", ""], ["needs 'labels'", "such as a,b,c"]),
        (["--labels", ","], ["needs 'labels'", "such as a,b,c"]),
        (["--labels", "a", "--labels", " "], ["'labels'", "['a', ' ']", "not empty"]),
        (["--labels", "a,b,a"], ["'labels'", "['a,b,a']", "each label once, a twice"]),
        (["--labels", "a,b", "--labels", "c,d"], ["several lists", "expected one: a,b,c,d"]),
        (["--labels", "a,b", "c"], ["c: no such file"]),
        (["--labels", "--threshold", "1"], ["--labels has no value, --threshold follows"]),
        (["--labels", "a,b", "--threshold", "-1"], ["'threshold'", "'-1'"]),
        (["--labels", "a,b", "--hypothesis-template", "it is"], ["'it is'", "expected one {}"]),
        (["--labels", "a,b", "--template", "{text"], ["'template'", "no counterpart"]),
    ],
)
def test_zero_shot_classification(
    refusals: Refusals, models: dict[str, list[str]], model: str, words: list[str], parts: list[str]
) -> None:
    refusals.check(["texts.txt", *models[model], *words], *parts)


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["texts.txt"], ["no column is named 'question'; pass --question-column", "are: text"]),
        (["table.csv", "--question-column", "q"], ["no column 'q'", "columns are: id, text"]),
        (
            ["table.csv", "--question", "who?", "--question-column", "question"],
            ["'question'", "the task reads: context", "leave out --question-column"],
        ),
        (["table.csv", "--question", ""], ["'question'", "''", "not empty"]),
        (["table.csv", "--context", "@none.txt"], ["--context @none.txt: No such file"]),
        (["table.csv", "--context", "@folder"], ["--context @folder: Is a directory"]),
        (["table.csv", "--context", "@empty"], ["'context'", "not empty"]),
        (["table.csv", "--context", "@"], ["--context @: expected the name of a file"]),
        (["table.csv", "--context", "@big.json"], ["--context @big.json: over 4 MiB"]),
        (["table.csv", "--stride", "64", "--window", "64"], ["stride 64", "window 64"]),
        (["table.csv", "--stride", "300"], ["stride is 300", "windows of 48", "smaller --stride"]),
        (["table.csv", "--max-windows", "0"], ["'max_windows'", "'0'"]),
        (["table.csv", "--top-k", "100"], ["'top_k'", "'100'", "less than or equal to 20"]),
    ],
)
def test_question_answering(
    refusals: Refusals, models: dict[str, list[str]], words: list[str], parts: list[str]
) -> None:
    refusals.check([*words, *models["answers"]], *parts)


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("model", "words", "parts"),
    [
        ("marian", ["--target-lang", "de"], ["target_lang is 'de'", "the model knows: fr"]),
        ("marian", ["--target-lang", "en"], ["target_lang is 'en'", "the model knows: fr"]),
        ("marian", ["--target-lang", "fr,de"], ["target_lang is 'fr,de'", "knows: fr"]),
        ("marian", ["--source-lang", "fr"], ["source_lang is 'fr'", "the model knows: en"]),
        ("marian", ["--target-lang", ""], ["'target_lang'", "such as fr, fra or French"]),
        ("marian", ["--target-lang"], ["--target-lang has no value"]),
        ("marian", ["--backend", "foo"], ["'backend'", "'foo'", "'torch' or 'ctranslate2'"]),
        (
            "marian",
            ["--backend", "ctranslate2", "--dtype", "int8"],
            ["'ctranslate2'", "int8", "leave out --backend or --dtype"],
        ),
        ("marian", ["--num-beams", "0"], ["'num_beams'", "'0'"]),
        ("marian", ["--template", "{text}"], ["--template is for one that writes text"]),
        ("m2m", ["--target-lang", "de"], ["needs source_lang, such as fr, fra or French"]),
        ("m2m", ["--source-lang", "fr", "--target-lang", "French"], ["'fr'", "'French'", "same"]),
        ("t5", ["--source-lang", "en", "--target-lang", "eng"], ["'en'", "'eng'", "same"]),
        ("t5", ["--target-lang", "fr"], ["needs source_lang (or --prefix"]),
        ("prompted-translation", ["--target-lang", "xx"], ["'xx'", "no language of ISO 639"]),
        (
            "prompted-translation",
            ["--source-lang", "French", "--target-lang", "fra"],
            ["'French'", "'fra'", "the same language"],
        ),
    ],
)
def test_translation(
    refusals: Refusals, models: dict[str, list[str]], model: str, words: list[str], parts: list[str]
) -> None:
    refusals.check(["texts.txt", *models[model], *words], *parts)
