"""Embeddings with real, tiny, random models: vectors, options, folders that say how, refusals."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from huggingface_hub.utils import filter_repo_objects

from textmill.core import hub
from textmill.core.errors import InvalidJobError, ModelLoadError, RecordError
from textmill.core.jobs import JobSpec, Record
from textmill.core.params import EmbeddingsParams
from textmill.core.settings import Settings
from textmill.producer.submit import validate_spec
from textmill.workers.engine import Engine
from textmill.workers.items import ModelRequest, Output
from textmill.workers.registry import load_runner
from textmill.workers.runners.embeddings import EmbeddingsRunner

from ..tiny_models import LIMIT, save_model

TEXTS = ["good", "free win now call me", "the bad text " * 8, "you " * 200, "a good text of me"]
ST = "sentence_transformers.models"
MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": f"{ST}.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{ST}.Pooling"},
]
NORMALIZE = {"idx": 2, "name": "2", "path": "2_Normalize", "type": f"{ST}.Normalize"}

Embed = Callable[..., list[Output | RecordError]]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose folder says nothing of sentence-transformers."""
    return save_model(tmp_path_factory.mktemp("plain") / "model", "BertModel")


@pytest.fixture
def embed() -> Iterator[Embed]:
    """Embed texts through an engine with a budget in tokens."""
    engines: list[Engine] = []

    def run(
        model: Path, texts: list[Any], tokens: int = 1024, **params: Any
    ) -> list[Output | RecordError]:
        request = ModelRequest("embeddings", str(model), device="cpu")
        engine = Engine(lambda: load_runner(request), max_batch_tokens=tokens)
        engines.append(engine)
        records = [Record(n, str(n), {"text": text}) for n, text in enumerate(texts)]
        return engine.submit(records, EmbeddingsParams(**params)).wait(60)

    yield run
    for engine in engines:
        engine.close()


def vectors(found: list[Output | RecordError]) -> np.ndarray:
    blobs = []
    for output in found:
        assert isinstance(output, Output), output
        assert (output.label, output.score, output.output) == (None, None, None)
        blobs.append(np.frombuffer(output.vector or b"", "<f4"))
    return np.stack(blobs)


def one_by_one(
    model: Path, texts: list[str], pooling: str, limit: int = LIMIT, kind: Any = None
) -> np.ndarray:
    """The vectors of plain transformers, one text at a time, not normalized."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    loaded = (kind or transformers.AutoModel).from_pretrained(model).eval()
    rows = []
    for text in texts:
        ids = tokenizer(text, truncation=True, max_length=limit, padding=False, return_tensors="pt")
        with torch.inference_mode():
            hidden = loaded(ids["input_ids"]).last_hidden_state[0]
        rows.append({"cls": hidden[0], "last": hidden[-1], "mean": hidden.mean(dim=0)}[pooling])
    return torch.stack(rows).numpy()


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def sentence_folder(folder: Path, pooling: dict[str, Any], *more: dict[str, Any]) -> Path:
    """A model in the layout of sentence-transformers."""
    save_model(folder, "BertModel")
    (folder / "modules.json").write_text(json.dumps([*MODULES, *more]))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder


# -- vectors ---------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@pytest.mark.parametrize("normalize", [True, False])
def test_vectors_equal_those_of_transformers(
    embed: Embed, plain: Path, pooling: str, normalize: bool
) -> None:
    found = vectors(embed(plain, TEXTS, pooling=pooling, normalize=normalize))
    expected = one_by_one(plain, TEXTS, pooling)
    expected = unit(expected) if normalize else expected
    assert found == pytest.approx(expected, abs=1e-5)


def test_vectors_do_not_depend_on_the_batch(embed: Embed, plain: Path) -> None:
    texts = [f"{'good bad ' * (n % 9)}spam" for n in range(40)]
    alone = vectors(embed(plain, texts, tokens=1))
    assert vectors(embed(plain, texts, tokens=10_000)) == pytest.approx(alone, abs=1e-5)
    assert vectors(embed(plain, texts[::-1], tokens=200))[::-1] == pytest.approx(alone, abs=1e-5)


def test_mean_and_length_1_are_the_default_of_a_plain_folder(embed: Embed, plain: Path) -> None:
    expected = unit(one_by_one(plain, TEXTS, "mean"))
    assert vectors(embed(plain, TEXTS)) == pytest.approx(expected, abs=1e-5)


def test_a_model_with_another_head_gives_vectors(embed: Embed, tmp_path: Path) -> None:
    """It is saved without the pooler, which no vector needs."""
    model = save_model(tmp_path / "masked", "BertForMaskedLM")
    expected = unit(one_by_one(model, TEXTS, "mean"))
    assert vectors(embed(model, TEXTS)) == pytest.approx(expected, abs=1e-5)


def test_fewer_dimensions_are_the_first_ones_at_length_1(embed: Embed, plain: Path) -> None:
    expected = unit(one_by_one(plain, TEXTS, "mean")[:, :5])
    assert vectors(embed(plain, TEXTS, dimensions=5)) == pytest.approx(expected, abs=1e-5)


def test_a_prefix_is_put_before_each_text(embed: Embed, plain: Path) -> None:
    expected = vectors(embed(plain, ["call me good", "call me bad"]))
    found = vectors(embed(plain, ["good", "bad"], prefix="call me "))
    assert found == pytest.approx(expected, abs=1e-6)


def test_a_long_text_is_cut_and_says_so(embed: Embed, plain: Path) -> None:
    long, fitting = embed(plain, ["you " * 100, "you " * (LIMIT - 2)])
    assert isinstance(long, Output)
    assert isinstance(fitting, Output)
    assert long.detail == {"truncated": True, "tokens": 102}
    assert fitting.detail is None
    assert long.input_tokens == fitting.input_tokens == LIMIT


def test_bad_records_cost_their_own_row(embed: Embed, plain: Path) -> None:
    found = embed(plain, ["you " * 20, "a \ud800", "you"], on_long="error", max_length=16)
    codes = [one.code if isinstance(one, RecordError) else None for one in found]
    assert codes == ["text_too_long", "invalid_input", None]
    (error,) = embed(plain, ["you"], dimensions=33)
    assert isinstance(error, RecordError)
    assert error.message == "dimensions is 33, the model's vectors have 32"


def test_a_vector_that_is_not_finite_is_an_error(plain: Path) -> None:
    runner = EmbeddingsRunner.load(ModelRequest("embeddings", str(plain), device="cpu"))
    record = Record(0, "0", {"text": "good"})
    (items,) = runner.prepare([record], EmbeddingsParams())
    assert isinstance(items, list)
    with pytest.raises(RecordError) as caught:
        runner.join(record, items, [np.array([1, np.nan], "float32")], EmbeddingsParams())
    assert caught.value.code == "not_finite"


# -- what the folder says --------------------------------------------------------------------


def test_the_folder_says_pooling_and_length(embed: Embed, tmp_path: Path) -> None:
    cls = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    raw = sentence_folder(tmp_path / "raw", cls)
    assert vectors(embed(raw, TEXTS)) == pytest.approx(one_by_one(raw, TEXTS, "cls"), abs=1e-5)

    normal = sentence_folder(tmp_path / "normal", {"pooling_mode": "lasttoken"}, NORMALIZE)
    expected = one_by_one(normal, TEXTS, "last")
    assert vectors(embed(normal, TEXTS)) == pytest.approx(unit(expected), abs=1e-5)
    over = vectors(embed(normal, TEXTS, normalize=False, pooling="mean"))
    assert over == pytest.approx(one_by_one(normal, TEXTS, "mean"), abs=1e-5)


def test_the_folder_says_limit_and_prompt(embed: Embed, tmp_path: Path) -> None:
    model = sentence_folder(tmp_path / "m", {"pooling_mode_mean_tokens": True})
    (model / "sentence_bert_config.json").write_text('{"max_seq_length": 10}')
    prompts = {"prompts": {"query": "call me "}, "default_prompt_name": "query"}
    (model / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    found = embed(model, TEXTS)
    expected = one_by_one(model, [f"call me {text}" for text in TEXTS], "mean", limit=10)
    assert vectors(found) == pytest.approx(expected, abs=1e-5)
    without = vectors(embed(model, TEXTS, prefix=""))
    assert without == pytest.approx(one_by_one(model, TEXTS, "mean", limit=10), abs=1e-5)


def test_of_a_hub_model_the_pooling_is_fetched_and_other_formats_are_not() -> None:
    files = ["config.json", "modules.json", "1_Pooling/config.json", "tokenizer.json"]
    others = ["onnx/config.json", "openvino/x.json", "1_Dense/model.safetensors", "2_Dense/a.json"]
    kept = filter_repo_objects(
        [*files, *others], allow_patterns=list(hub.FILES), ignore_patterns=list(hub.IGNORED)
    )
    assert list(kept) == files


# -- refusals --------------------------------------------------------------------------------


def refusals(model: Path, **params: Any) -> str:
    """What submit says of a model; the worker must say the same where it can know."""
    spec = JobSpec(task="embeddings", model=str(model), params=params)
    with pytest.raises(InvalidJobError) as caught:
        validate_spec(spec, Settings())
    if not params:
        with pytest.raises(ModelLoadError) as loading:
            load_runner(ModelRequest("embeddings", str(model), device="cpu"))
        assert str(loading.value) == str(caught.value)
    return str(caught.value)


def test_steps_and_poolings_of_other_kinds_are_refused(tmp_path: Path) -> None:
    """Vectors without them would be others than the model's own."""
    dense = {"idx": 2, "name": "2", "path": "2_Dense", "type": f"{ST}.Dense"}
    model = sentence_folder(tmp_path / "dense", {"pooling_mode_mean_tokens": True}, dense)
    assert "modules.json has the step Dense" in refusals(model)
    highest = sentence_folder(tmp_path / "max", {"pooling_mode_max_tokens": True})
    assert "its pooling is max_tokens; expected one of cls, mean, last" in refusals(highest)
    both = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}
    assert "mean_tokens and cls_token" in refusals(sentence_folder(tmp_path / "both", both))
    apart = {"pooling_mode_mean_tokens": True, "include_prompt": False}
    assert "pools without its prompt" in refusals(sentence_folder(tmp_path / "apart", apart))
    (model / "modules.json").write_text('{"a": 1}')
    assert "is damaged" in refusals(model)
    (model / "modules.json").write_text("[")
    assert "modules.json is not JSON" in refusals(model)


def test_a_model_of_encoder_and_decoder_is_refused(tmp_path: Path) -> None:
    config = transformers.T5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=8, num_layers=1)
    transformers.T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    spec = JobSpec(task="embeddings", model=str(tmp_path))
    with pytest.raises(InvalidJobError, match=r"an encoder with a decoder \(t5\)"):
        validate_spec(spec, Settings())


def test_more_dimensions_than_the_model_has_are_refused(plain: Path) -> None:
    assert "dimensions is 33, and the vectors of model" in refusals(plain, dimensions=33)
    assert "greater than or equal to 1" in refusals(plain, dimensions=0)


def test_weights_that_are_missing_are_refused(tmp_path: Path) -> None:
    model = save_model(tmp_path / "m", "BertModel")
    config = json.loads((model / "config.json").read_text()) | {"num_hidden_layers": 3}
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelLoadError, match="its vectors would be random"):
        load_runner(ModelRequest("embeddings", str(model), device="cpu"))
