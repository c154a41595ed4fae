"""A model that is not for the task, or not whole: said before anything is enqueued."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from ..tiny_generators import save_generator
from ..tiny_gguf import save_gguf
from ..tiny_models import save_model
from ..tiny_translators import save_bart, save_marian
from ..unit.test_question_answering import save_model as save_reader
from .conftest import Refusals, Shell

TABLE = "id,text,question,context\n1,the dog,who?,the team\n"
TEXT = ["--text-column", "text"]
WORDS: dict[str, list[str]] = {
    "classification": TEXT,
    "question-answering": [],
    "translation": TEXT,
    "summarization": TEXT,
    "embeddings": TEXT,
    "generation": [*TEXT, "--max-new-tokens", "9"],
    "zero-shot-classification": [*TEXT, "--labels", "a,b"],
}
ENTAILMENT = {0: "contradiction", 1: "neutral", 2: "entailment"}
IDS = {name: index for index, name in ENTAILMENT.items()}

# By kind: how it is made, its class, and the tasks it can do.
PROMPTED = ["translation", "summarization", "generation", "zero-shot-classification"]
KINDS: dict[str, tuple[Callable[[Path], Path], str, list[str]]] = {
    "encoder": (lambda at: save_model(at, "BertModel"), "BertModel", ["embeddings"]),
    "masked": (lambda at: save_model(at, "BertForMaskedLM"), "BertForMaskedLM", ["embeddings"]),
    "classifier": (save_model, "BertForSequenceClassification", ["classification", "embeddings"]),
    "inference": (
        lambda at: save_model(at, id2label=ENTAILMENT, label2id=IDS),
        "BertForSequenceClassification",
        ["classification", "embeddings", "zero-shot-classification"],
    ),
    "reader": (save_reader, "BertForQuestionAnswering", ["question-answering", "embeddings"]),
    "translator": (save_marian, "MarianMTModel", ["translation"]),
    "summarizer": (save_bart, "BartForConditionalGeneration", ["translation", "summarization"]),
    "generator": (save_generator, "LlamaForCausalLM", [*PROMPTED, "embeddings"]),
    "gguf": (save_gguf, "llamaForCausalLM", PROMPTED),
}


@pytest.fixture(scope="module")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A model of this kind, made once."""
    folder = tmp_path_factory.mktemp("models")

    @cache
    def make(kind: str) -> Path:
        save = KINDS[kind][0]
        return save(folder / (f"{kind}.gguf" if kind == "gguf" else kind))

    return make


def _words(shell: Shell, task: str, model: Path, kind: str) -> list[str | Path]:
    words: list[str | Path] = [shell.write("in.csv", TABLE), "--task", task, "--model", model]
    if task == "translation" and kind in ("generator", "gguf"):
        words += ["--target-lang", "fr"]
    return [*words, *WORDS[task]]


@pytest.mark.parametrize("task", WORDS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_task_with_every_kind_of_model(
    shell: Shell, refusals: Refusals, model_of: Callable[[str], Path], kind: str, task: str
) -> None:
    """What it cannot do it says, with the class that was found and what that class is for."""
    model = model_of(kind)
    words = _words(shell, task, model, kind)
    _, found, able = KINDS[kind]
    if task in able:
        code, _, err = refusals.submit(*words, "--dry-run")
        assert code == 0, err
        return
    parts = [f"{str(model)!r} cannot do "]
    if kind == "classifier" and task == "zero-shot-classification":
        parts += ["begins with 'entail'", "MNLI"]
    elif task == "embeddings" and kind != "gguf":
        parts += ["an encoder with a decoder"]
    else:
        first = next(name for name in WORDS if name in able)
        parts += [found, "such a model is for", first]
    refusals.check(words, *parts)


def test_a_model_folder_that_is_not_whole(
    shell: Shell, refusals: Refusals, model_of: Callable[[str], Path]
) -> None:
    whole = model_of("generator")
    texts = shell.write("texts.txt", "the dog\n")
    run = [texts, "--task", "generation", "--max-new-tokens", "9", "--model"]

    bare = shell.folder / "bare"
    bare.mkdir()
    shutil.copy(whole / "config.json", bare)
    refusals.check([*run, bare], str(bare), "lacks model.safetensors", "copy the whole model")

    mute = shutil.copytree(whole, shell.folder / "mute")
    for path in [*mute.glob("token*"), *mute.glob("chat*")]:
        path.unlink()
    refusals.check([*run, mute], str(mute), "has no tokenizer", "AutoTokenizer")

    refusals.check([*run, whole / "config.json"], "is a file", "the folder it lies in")
    refusals.check([*run, whole, "--revision", "v1"], "is a folder", "'v1'", "leave it out")
    refusals.check([*run, whole, "--dtype", "int3"], "'int3'", "auto, fp32, bf16, fp16, int8")
    refusals.check([*run[:3], "--model", whole], "max_new_tokens is 256", "128", "--max-new-tokens")


@pytest.mark.parametrize(
    ("size", "says"),
    [(0, "0 bytes end within its header"), (300, "300 bytes end within its header"), (-10, "says")],
)
@pytest.mark.parametrize("task", ["generation", "summarization", "classification"])
def test_a_gguf_file_that_is_cut_off(
    shell: Shell,
    refusals: Refusals,
    model_of: Callable[[str], Path],
    task: str,
    size: int,
    says: str,
) -> None:
    whole = model_of("gguf").read_bytes()
    cut = shell.write("cut.gguf", whole[:size])
    words = [shell.write("texts.txt", "the dog\n"), "--task", task, "--model", cut]
    refusals.check(words, str(cut), says, "cut off", "fetch or copy it again")
