"""Translation and summarization by tiny random models that write text, against ``generate``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from textmill.core.errors import InvalidJobError, RecordError
from textmill.core.jobs import JobSpec, Record
from textmill.core.settings import Settings
from textmill.core.tasks import get_task, validate_params
from textmill.producer.submit import validate_spec
from textmill.workers.engine import Engine
from textmill.workers.items import ModelRequest, Output
from textmill.workers.registry import load_runner

from ..tiny_generators import CONTEXT, save_generator
from ..tiny_translators import save_bart, save_marian

EOS = [2, 143]
TEXTS = ["the dog", "a good text", "how are you today? I am fine", "Ωß 你好"]
FRENCH = {"source_lang": "en", "target_lang": "fr"}
SHORT = "{text} ({source_lang}, {target_lang})"

Found = list[Output | RecordError]
Do = Callable[..., Found]


@pytest.fixture(scope="module")
def chatty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_generator(tmp_path_factory.mktemp("chatty") / "m", eos=EOS)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_generator(tmp_path_factory.mktemp("plain") / "m", chat=False, eos=EOS)


@pytest.fixture(scope="module")
def do() -> Iterator[Do]:
    """Texts through the engine of a task and model, which is kept for the module."""
    engines: dict[tuple[str, Path], Engine] = {}

    def run(task: str, model: Path, texts: list[str], **params: Any) -> Found:
        if (task, model) not in engines:
            request = ModelRequest(task, str(model), device="cpu")
            engines[task, model] = Engine(lambda: load_runner(request))
        records = [Record(n, str(n), {"text": text}) for n, text in enumerate(texts)]
        return (
            engines[task, model].submit(records, validate_params(get_task(task), params)).wait(60)
        )

    yield run
    for engine in engines.values():
        engine.close()


def as_output(found: Output | RecordError) -> Output:
    assert isinstance(found, Output), found
    return found


def as_error(found: Output | RecordError) -> RecordError:
    assert isinstance(found, RecordError), found
    return found


class Reference:
    """The plain way: transformers, one prompt at a time."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self.model = transformers.AutoModelForCausalLM.from_pretrained(folder)

    def ids(self, prompt: str, system: str | None = None) -> list[int]:
        if not self.tokenizer.chat_template:
            ids: list[int] = self.tokenizer(prompt).input_ids
            return ids
        chat = [{"role": "system", "content": system}] if system else []
        chat.append({"role": "user", "content": prompt})
        written: list[int] = self.tokenizer.apply_chat_template(
            chat, add_generation_prompt=True, return_dict=False
        )
        return written

    def answer(self, ids: list[int], tokens: int) -> tuple[str, bool]:
        """The text without white space at its ends, and whether it came to its own end."""
        found = self.model.generate(torch.tensor([ids]), max_new_tokens=tokens, do_sample=False)
        new = found[0, len(ids) :].tolist()
        end = next((n for n, token in enumerate(new) if token in EOS), len(new))
        text: str = self.tokenizer.decode(new[:end], skip_special_tokens=True)
        return text.strip(), end < len(new)


def assert_as_reference(found: Output | RecordError, answer: tuple[str, bool], read: int) -> None:
    output = as_output(found)
    text, ended = answer
    assert output.output == text
    assert (output.detail or {}).get("finish_reason") == (None if ended else "length")
    assert output.input_tokens == read


# -- outputs ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "system"), [("chatty", None), ("chatty", "a good text"), ("plain", None)]
)
def test_translations_are_those_of_generate(
    request: pytest.FixtureRequest, do: Do, kind: str, system: str | None
) -> None:
    model: Path = request.getfixturevalue(kind)
    reference = Reference(model)
    params: dict[str, Any] = {**FRENCH, "template": SHORT, "max_new_tokens": 30, "system": system}
    ends = set()
    for text, found in zip(TEXTS, do("translation", model, TEXTS, **params), strict=True):
        ids = reference.ids(f"{text} (English, French)", system)
        answer = reference.answer(ids, 30)
        ends.add(answer[1])
        assert_as_reference(found, answer, len(ids))
    assert ends == {True, False} or system, "texts that all end the same way show little"


@pytest.mark.parametrize("kind", ["chatty", "plain"])
def test_summaries_are_those_of_generate(request: pytest.FixtureRequest, do: Do, kind: str) -> None:
    model: Path = request.getfixturevalue(kind)
    reference = Reference(model)
    params: dict[str, Any] = {"template": "{text} is short:", "max_new_tokens": 30}
    for text, found in zip(TEXTS, do("summarization", model, TEXTS, **params), strict=True):
        ids = reference.ids(f"{text} is short:")
        assert_as_reference(found, reference.answer(ids, 30), len(ids))


@pytest.mark.parametrize(
    ("task", "params", "prompt"),
    [
        (
            "translation",
            FRENCH,
            "Translate the text from English to French. Answer with the translation only.\n\nx {y}",
        ),
        (
            "translation",
            {"target_lang": "German"},
            "Translate the text to German. Answer with the translation only.\n\nx {y}",
        ),
        (
            "translation",
            {"template": "In Swiss German: {text}"},
            "In Swiss German: x {y}",
        ),
        (
            "summarization",
            {},
            "Summarize the text in a few sentences. Answer with the summary only.\n\nx {y}",
        ),
    ],
)
def test_the_prompts(do: Do, plain: Path, task: str, params: dict[str, Any], prompt: str) -> None:
    (found,) = do(task, plain, ["x {y}"], max_new_tokens=2, **params)
    reference = Reference(plain)
    ids = reference.ids(prompt)
    assert_as_reference(found, reference.answer(ids, 2), len(ids))


def test_equal_texts_are_written_once(plain: Path) -> None:
    runner = load_runner(ModelRequest("translation", str(plain), device="cpu"))

    def key(text: str, **params: Any) -> bytes | None:
        given = {**FRENCH, "template": SHORT, "max_new_tokens": 5, **params}
        checked = validate_params(get_task("translation"), given)
        (items,) = runner.prepare([Record(0, "0", {"text": text})], checked)
        assert isinstance(items, list)
        return items[0].key

    same = key("dog")
    assert same is not None
    assert key(" dog\n") == same
    assert same not in (key("fox"), key("dog", target_lang="de"), key("dog", max_new_tokens=6))


# -- long texts ------------------------------------------------------------------------------


def test_a_long_text_is_translated_by_sentences(do: Do, plain: Path) -> None:
    """With the white space it had; a short one is one piece, unless the job says otherwise."""
    reference = Reference(plain)
    sentences = ["how are you today?", "I am fine, thank you.", "The dog says: good morning!"]
    long = "\n\n".join(sentences)
    params: dict[str, Any] = {"template": "{text}:", "max_new_tokens": 20, "source_lang": "en"}
    parts = [reference.answer(reference.ids(f"{one}:"), 20)[0] for one in sentences]

    (whole,) = do("translation", plain, [f" {long}\n"], **params)
    answer, _ = reference.answer(reference.ids(f"{long}:"), 20)
    assert as_output(whole).output == f" {answer}\n"
    assert "pieces" not in (as_output(whole).detail or {})
    limit = len(reference.ids(f"{long}:")) + 19
    for more in ({"max_length": limit}, {"split": "sentences"}):
        (found,) = do("translation", plain, [f" {long}\n"], **params, **more)
        output = as_output(found)
        assert output.output == f" {parts[0]}\n\n{parts[1]}\n\n{parts[2]}\n"
        assert (output.detail or {})["pieces"] == 3
        read = sum(len(reference.ids(f"{one}:")) for one in sentences)
        assert output.input_tokens == read
    (error,) = do("translation", plain, [long], **params, max_length=limit, on_long="error")
    assert as_error(error).code == "text_too_long"


def test_a_long_sentence_is_cut_at_words(do: Do, plain: Path) -> None:
    reference = Reference(plain)
    params: dict[str, Any] = {"template": "{text}:", "max_new_tokens": 6, "max_length": 20}
    (found,) = do("translation", plain, ["on and on ABC DEF GHI JKL"], **params)
    output = as_output(found)
    detail = output.detail or {}
    assert detail["cut_pieces"] == detail["pieces"] >= 2
    lengths = [len(reference.ids(f"{text}:")) for text in ("on and on ABC", "DEF GHI JKL")]
    assert detail["pieces"] > 2 or output.input_tokens == sum(lengths)
    (error,) = do("translation", plain, ["x"], **{**params, "template": "{text}" + ": x" * 20})
    assert as_error(error).code == "text_too_long"


def test_a_long_text_loses_its_end_inside_the_prompt(do: Do, chatty: Path) -> None:
    reference = Reference(chatty)
    params: dict[str, Any] = {"template": "{text} is short:", "max_new_tokens": 20}
    long = "x" * 200  # a token each
    (found,) = do("summarization", chatty, [long], **params)
    given = len(reference.ids(f"{long} is short:"))
    ids = reference.ids(f"{'x' * (200 - (given - (CONTEXT - 20)))} is short:")
    assert len(ids) == CONTEXT - 20
    assert_as_reference(found, reference.answer(ids, 20), len(ids))
    detail = as_output(found).detail or {}
    assert (detail["truncated"], detail["tokens"]) == (True, given)
    (error,) = do("summarization", chatty, [long], **params, on_long="error")
    assert as_error(error).code == "text_too_long"


def test_a_translation_may_be_twice_as_long_as_its_text(plain: Path) -> None:
    runner = load_runner(ModelRequest("translation", str(plain), device="cpu"))
    given = validate_params(get_task("translation"), {"template": "{text}", "max_length": 40})
    short, long = "x", "x" * 11
    for text, room in ((short, 20), (long, 22)):
        (items,) = runner.prepare([Record(0, "0", {"text": text})], given)
        assert isinstance(items, list)
        assert items[0].length == len(text) + room


# -- records and options ---------------------------------------------------------------------


@pytest.mark.parametrize(("task", "params"), [("translation", FRENCH), ("summarization", {})])
def test_a_bad_text_costs_one_row(do: Do, plain: Path, task: str, params: dict[str, Any]) -> None:
    given = ["dog", "a \ud800", " \n"]
    found = do(task, plain, given, max_new_tokens=3, **params)
    codes = [one.code if isinstance(one, RecordError) else None for one in found]
    assert codes == [None, "invalid_input", "empty_text"]


@pytest.mark.parametrize(
    ("task", "params", "message"),
    [
        ("translation", {}, "it needs target_lang, such as fr, fra or French"),
        ("translation", {"target_lang": "Frensh"}, "'Frensh', which is no language of ISO 639"),
        ("translation", {"target_lang": "Frensh"}, "did you mean 'French'"),
        ("translation", {"target_lang": "pt-BR"}, "write what you mean into the prompt"),
        ("translation", {"target_lang": "fr", "template": "{text}?"}, "has no place {target_lang}"),
        ("translation", {"template": "{text} {target_lang}"}, "it needs target_lang"),
        ("translation", {**FRENCH, "num_beams": 4}, "--num-beams is for a model with an encoder"),
        ("translation", {**FRENCH, "backend": "ctranslate2"}, "--backend is for a model with an"),
        ("translation", {**FRENCH, "prefix": "x"}, "--prefix is for a model with an encoder"),
        ("translation", {**FRENCH, "max_new_tokens": 128}, "the context of model"),
        ("translation", {**FRENCH, "system": "s"}, "no chat template (neither"),
        ("translation", {**FRENCH, "template": "{title} {text}"}, "it names {title}; expected"),
        ("summarization", {"template": "Summarize."}, "it names no column"),
        ("summarization", {"template": "{text} {target_lang}"}, "it names {target_lang}; expected"),
        ("summarization", {"min_new_tokens": 3}, "--min-new-tokens is for a model with an encoder"),
        ("summarization", {"system": "s", "chat": "off"}, "a system message needs a chat"),
        ("summarization", {"max_new_tokens": 50, "max_length": 50}, "leaves no room for a text"),
    ],
)
def test_wrong_options_are_refused_at_submit(
    do: Do, plain: Path, task: str, params: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidJobError) as caught:
        validate_spec(JobSpec(task=task, model=str(plain), params=params), Settings())
    assert message in str(caught.value)


def test_wrong_options_that_only_the_worker_sees_are_error_rows(do: Do, plain: Path) -> None:
    """A model of the hub may not be known before."""
    for task, params, code in (
        ("translation", {**FRENCH, "num_beams": 2}, "invalid_params"),
        ("translation", {}, "invalid_params"),
        ("summarization", {"max_new_tokens": 500}, "invalid_params"),
        ("summarization", {"system": "s"}, "no_chat_template"),
    ):
        assert as_error(do(task, plain, ["dog"], **params)[0]).code == code


def test_prompts_are_not_for_models_with_an_encoder(do: Do, tmp_path: Path) -> None:
    marian, bart = save_marian(tmp_path / "marian"), save_bart(tmp_path / "bart")
    for task, model, params, option in (
        ("translation", marian, {"template": "{text}"}, "--template"),
        ("summarization", bart, {"system": "s"}, "--system"),
        ("summarization", bart, {"chat": "on"}, "--chat"),
    ):
        with pytest.raises(InvalidJobError) as caught:
            validate_spec(JobSpec(task=task, model=str(model), params=params), Settings())
        error = as_error(do(task, model, ["dog"], **params)[0])
        for said in (str(caught.value), error.message):
            assert f"{option} is for one that writes text by a prompt" in said
