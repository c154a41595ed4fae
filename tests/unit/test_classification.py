"""Classification with real, tiny, random models: outputs, parameters, models that are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from textmill.core.checkpoints import count_parameters
from textmill.core.errors import ModelLoadError, RecordError
from textmill.core.jobs import Record
from textmill.core.params import ClassificationParams
from textmill.workers.engine import Engine
from textmill.workers.items import DeviceLostError, DeviceOutOfMemoryError, ModelRequest, Output
from textmill.workers.registry import estimate_bytes, load_runner
from textmill.workers.runners import devices
from textmill.workers.runners.classification import ClassificationRunner, rank_scores

from ..tiny_models import LIMIT, SPECIAL, WORDS, save_model, save_tokenizer

TEXTS = ["good", "free win now call me", "the bad text " * 8, "", "you " * 200, "a good text of me"]

Found = list[Output | RecordError]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three labels, softmax."""
    labels = {0: "ham", 1: "spam", 2: "other"}
    return save_model(tmp_path_factory.mktemp("plain") / "model", id2label=labels)


@pytest.fixture
def copy(plain: Path, tmp_path: Path) -> Path:
    """The same, to be broken."""
    return Path(shutil.copytree(plain, tmp_path / "model"))


@pytest.fixture
def classify() -> Iterator[Callable[..., Found]]:
    """Classify texts through an engine with a budget in tokens."""
    engines: dict[tuple[Path, int], Engine] = {}

    def run(model: Path, texts: list[Any], tokens: int = 1024, **params: Any) -> Found:
        if (model, tokens) not in engines:
            request = ModelRequest("classification", str(model), device="cpu")
            engines[model, tokens] = Engine(lambda: load_runner(request), max_batch_tokens=tokens)
        records = [Record(n, str(n), {"text": text}) for n, text in enumerate(texts)]
        return engines[model, tokens].submit(records, ClassificationParams(**params)).wait(60)

    yield run
    for engine in engines.values():
        engine.close()


def as_output(found: Output | RecordError) -> Output:
    assert isinstance(found, Output), found
    return found


def as_error(found: Output | RecordError) -> RecordError:
    assert isinstance(found, RecordError), found
    return found


def load(model: Path | str, **fields: str) -> ClassificationRunner:
    return ClassificationRunner.load(ModelRequest("classification", str(model), **fields))


def refusal(model: Path | str, **fields: str) -> str:
    with pytest.raises(ModelLoadError) as caught:
        load(model, **fields)
    return str(caught.value)


def edit_json(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(content))


# -- outputs ---------------------------------------------------------------------------------


def test_outputs_equal_those_of_transformers(classify: Callable[..., Found], plain: Path) -> None:
    pipeline = transformers.pipeline("text-classification", model=str(plain), device="cpu")
    expected = [pipeline(text, top_k=None, truncation=True, max_length=LIMIT) for text in TEXTS]
    for found, scores in zip(classify(plain, TEXTS), expected, strict=True):
        output = as_output(found)
        assert output.label == scores[0]["label"]
        assert output.score == pytest.approx(scores[0]["score"], abs=1e-5)
        assert output.detail is not None
        assert list(output.detail["scores"]) == [score["label"] for score in scores]
        for score in scores:
            assert output.detail["scores"][score["label"]] == pytest.approx(
                score["score"], abs=1e-5
            )


def test_outputs_do_not_depend_on_the_batch(classify: Callable[..., Found], plain: Path) -> None:
    """One by one, all in one batch, and in another order: equal labels, scores within 1e-4."""
    texts = [" ".join(WORDS[i % 7 : i % 7 + i % 11]) * (1 + i % 3) for i in range(60)]
    alone = [as_output(o) for o in classify(plain, texts, tokens=1)]
    together = [as_output(o) for o in classify(plain, texts, tokens=10_000)]
    reverse = [as_output(o) for o in classify(plain, texts[::-1], tokens=200)][::-1]
    for one, two, three in zip(alone, together, reverse, strict=True):
        assert one.label == two.label == three.label
        assert one.score == pytest.approx(two.score, abs=1e-4)
        assert one.score == pytest.approx(three.score, abs=1e-4)
    assert len({output.label for output in alone}) > 1, "a model that always says the same"


def test_scores_are_rounded_to_six_digits(classify: Callable[..., Found], plain: Path) -> None:
    score = as_output(classify(plain, ["good text"])[0]).score
    assert score is not None
    assert score == round(score, 6)


def test_top_k_keeps_the_best_scores(classify: Callable[..., Found], plain: Path) -> None:
    full = as_output(classify(plain, ["free win"])[0])
    best = as_output(classify(plain, ["free win"], top_k=2)[0])
    assert full.detail is not None
    assert best.detail is not None
    assert list(best.detail["scores"].items()) == list(full.detail["scores"].items())[:2]


def test_a_long_text_is_cut_and_says_so(classify: Callable[..., Found], plain: Path) -> None:
    long, fitting = map(as_output, classify(plain, ["you " * 100, "you " * (LIMIT - 2)]))
    assert long.detail is not None
    assert long.detail["truncated"] is True
    assert long.detail["tokens"] == 102
    assert long.input_tokens == fitting.input_tokens == LIMIT
    assert long.score == pytest.approx(fitting.score, abs=1e-5), "[SEP] stays"
    assert fitting.detail is not None
    assert "truncated" not in fitting.detail


def test_on_long_error_refuses_a_long_text(classify: Callable[..., Found], plain: Path) -> None:
    long, short = classify(plain, ["you " * 20, "you"], on_long="error", max_length=16)
    assert as_error(long).code == "text_too_long"
    assert as_error(long).message == "the text has 22 tokens, the limit is 16"
    assert as_output(short).label is not None


def test_a_bad_text_costs_one_row(classify: Callable[..., Found], plain: Path) -> None:
    """A lone surrogate would break the tokenizer for the whole call; the others come out."""
    found = classify(plain, ["good", "a \ud800", None, 3, "bad"])
    assert [type(f).__name__ for f in found] == ["Output", *["RecordError"] * 3, "Output"]
    assert [as_error(f).code for f in found[1:4]] == ["invalid_input"] * 3
    assert as_error(found[1]).message == "'text' has half a surrogate pair at character 2"
    assert as_error(found[3]).message == "'text' is 3, expected a text"


def test_a_records_own_parameters_win(plain: Path) -> None:
    runner = load(plain)
    records = [
        Record(0, "0", {"text": "good"}, {"top_k": 1}),
        Record(1, "1", {"text": "good"}, {"top_q": 1}),
    ]
    items, error = runner.prepare(records, ClassificationParams())
    assert isinstance(items, list)
    output = runner.join(records[0], items, runner.forward(items), ClassificationParams())
    assert output.detail is not None
    assert len(output.detail["scores"]) == 1
    assert isinstance(error, RecordError)
    assert error.code == "invalid_params"
    assert "did you mean 'top_k'" in error.message


def test_multi_label_gives_every_label_over_the_threshold(
    classify: Callable[..., Found], tmp_path: Path
) -> None:
    model = save_model(
        tmp_path / "multi",
        id2label={0: "x", 1: "y", 2: "z"},
        problem_type="multi_label_classification",
    )
    output = as_output(classify(model, ["free win now"])[0])
    assert output.detail is not None
    scores = output.detail["scores"]
    over = [label for label, score in scores.items() if score >= 0.5]
    assert sum(scores.values()) != pytest.approx(1, abs=1e-3), "sigmoid, not softmax"
    assert output.labels == output.detail["labels"] == over
    assert output.label == (over[0] if over else None)

    none = as_output(classify(model, ["free win now"], threshold=1.0)[0])
    assert (none.label, list(none.labels), none.score) == (None, [], max(scores.values()))
    every = as_output(classify(model, ["free win now"], threshold=0.0)[0])
    assert list(every.labels) == list(scores)
    single = as_output(classify(model, ["free win now"], multi_label=False)[0])
    assert single.detail is not None
    assert sum(single.detail["scores"].values()) == pytest.approx(1, abs=1e-5)


def test_multi_label_can_be_asked_of_a_softmax_model(
    classify: Callable[..., Found], plain: Path
) -> None:
    output = as_output(classify(plain, ["free win now"], multi_label=True)[0])
    assert output.detail is not None
    assert "labels" in output.detail


def test_regression_gives_the_raw_value(classify: Callable[..., Found], tmp_path: Path) -> None:
    model = save_model(tmp_path / "value", num_labels=1, problem_type="regression")
    pipeline = transformers.pipeline("text-classification", model=str(model), device="cpu")
    output = as_output(classify(model, ["free win now"])[0])
    assert output.label is None
    assert output.score == pytest.approx(pipeline("free win now")[0]["score"], abs=1e-5)


def test_one_label_without_a_problem_type_is_a_sigmoid(
    classify: Callable[..., Found], tmp_path: Path
) -> None:
    model = save_model(tmp_path / "one", num_labels=1)
    pipeline = transformers.pipeline("text-classification", model=str(model), device="cpu")
    score = pipeline("free win now")[0]["score"]
    assert as_output(classify(model, ["free win now"])[0]).score == pytest.approx(score, abs=1e-5)
    over = as_output(classify(model, ["free win now"], threshold=score - 1e-3)[0])
    under = as_output(classify(model, ["free win now"], threshold=score + 1e-3)[0])
    assert (over.label, under.label) == ("LABEL_0", None)


def test_positions_of_roberta_start_after_its_padding(tmp_path: Path) -> None:
    """A position table of 34 rows with padding id 1 reads 32 tokens, not 34."""
    config = transformers.RobertaConfig(
        vocab_size=len(SPECIAL + WORDS),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=34,
        pad_token_id=1,
    )
    transformers.RobertaForSequenceClassification(config).save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    runner = load(tmp_path)
    record = Record(0, "0", {"text": "you " * 100})
    (items,) = runner.prepare([record], ClassificationParams())
    assert isinstance(items, list)
    assert items[0].length == 32
    assert runner.forward(items)[0] is not None


def test_scores_that_are_not_finite_cost_their_record_only(plain: Path) -> None:
    logits = torch.tensor([[0.0, float("nan")], [1.0, 2.0], [float("inf"), 0.0]])
    assert [row is None for row in rank_scores(logits, "softmax")] == [True, False, True]
    runner = load(plain)
    (items,) = runner.prepare([Record(0, "0", {"text": "a"})], ClassificationParams())
    assert isinstance(items, list)
    with pytest.raises(RecordError) as caught:
        runner.join(Record(0, "0", {}), items, [None], ClassificationParams())
    assert caught.value.code == "not_finite"


def test_ties_go_to_the_lower_label() -> None:
    assert rank_scores(torch.tensor([[1.0, 3.0, 3.0]]), "softmax")[0] == (
        [1, 2, 0],
        [0.468311, 0.468311, 0.063379],
    )


# -- loading ---------------------------------------------------------------------------------


def test_dtype_and_size(plain: Path) -> None:
    full, half = load(plain, dtype="auto", device="cpu"), load(plain, dtype="bf16", device="cpu")
    assert full._model.dtype == torch.float32
    assert half._model.dtype == torch.bfloat16
    request = ModelRequest("classification", str(plain), device="cpu")
    # the model also has a buffer of position ids
    assert 0 <= full.memory_bytes - estimate_bytes(request) < 1000
    assert estimate_bytes(ModelRequest("classification", "/no/such")) == 0


def test_close_frees_the_model_and_outputs_can_still_be_joined(plain: Path) -> None:
    runner = load(plain)
    record = Record(0, "0", {"text": "good"})
    (items,) = runner.prepare([record], ClassificationParams())
    assert isinstance(items, list)
    raw = runner.forward(items)
    runner.close()
    assert runner._model is None
    assert runner.join(record, items, raw, ClassificationParams()).label


def test_refuses_an_absent_folder() -> None:
    assert refusal("/no/such/model") == (
        "model folder '/no/such/model' does not exist on this machine"
    )


def test_refuses_a_hub_model_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "is no folder on this machine, is not in its cache" in refusal("nobody/nothing")
    assert "neither a folder on this machine nor a name on the hub" in refusal("not a/name/at all")


def test_refuses_a_revision_of_a_folder(plain: Path) -> None:
    assert "has no revision 'v1'" in refusal(plain, revision="v1")


def test_refuses_a_folder_without_config(copy: Path) -> None:
    (copy / "config.json").unlink()
    assert refusal(copy).endswith("has no config.json, so it is no transformers model")
    (copy / "some.Q4.gguf").touch()
    assert refusal(copy).endswith(f"; for a GGUF file name the file: {copy}/some.Q4.gguf")


def test_refuses_pickles_and_says_how_to_convert(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    message = refusal(copy)
    assert "no safetensors, only pytorch_model.bin" in message
    assert "save_pretrained" in message


def test_refuses_a_folder_without_weights(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    assert "lacks model.safetensors" in refusal(copy)


@pytest.mark.parametrize("size", [4, 100, -1])
def test_refuses_weights_that_are_cut_off(copy: Path, size: int) -> None:
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:size])
    message = refusal(copy)
    assert "model.safetensors is damaged" in message


def test_refuses_weights_that_are_no_safetensors(copy: Path) -> None:
    (copy / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0" + b"not json at all!")
    assert "model.safetensors is damaged" in refusal(copy)


def test_refuses_a_model_that_is_no_classifier(tmp_path: Path) -> None:
    model = save_model(tmp_path / "base", "BertModel")
    assert refusal(model) == (
        f"model {str(model)!r} cannot do classification: its config.json names BertModel, "
        "expected one that ends in ForSequenceClassification; such a model is for embeddings"
    )


def test_refuses_a_classifier_without_a_head(tmp_path: Path) -> None:
    """transformers would fill in random weights and go on."""
    model = save_model(tmp_path / "base", "BertModel")
    edit_json(model / "config.json", architectures=["BertForSequenceClassification"])
    message = refusal(model)
    assert "labels would be random" in message
    assert "classifier.weight" in message


def test_refuses_weights_of_another_shape(copy: Path) -> None:
    edit_json(copy / "config.json", hidden_size=64)
    assert "cannot be loaded" in refusal(copy)


def test_refuses_a_model_without_tokenizer(copy: Path) -> None:
    (copy / "tokenizer.json").unlink()
    assert "no tokenizer can be loaded" in refusal(copy)


def test_refuses_a_model_that_needs_remote_code(copy: Path) -> None:
    (copy / "evil.py").write_text("raise SystemExit('remote code ran')")
    edit_json(
        copy / "config.json",
        model_type="evil",
        auto_map={"AutoConfig": "evil.C", "AutoModelForSequenceClassification": "evil.M"},
    )
    message = refusal(copy)
    assert "trust_remote_code" in message or "evil" in message


def test_refuses_unknown_devices_and_dtypes(plain: Path) -> None:
    assert "unknown device 'gpu0'" in refusal(plain, device="gpu0")
    assert "no device 'cuda:99'" in refusal(plain, device="cuda:99")
    assert "unknown dtype 'int3'" in refusal(plain, dtype="int3", device="cpu")


def test_sharded_weights_are_counted_together(plain: Path, tmp_path: Path) -> None:
    model = transformers.AutoModelForSequenceClassification.from_pretrained(plain)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert not (tmp_path / "model.safetensors").exists()
    save_tokenizer(tmp_path)
    one = estimate_bytes(ModelRequest("classification", str(plain), device="cpu"))
    assert estimate_bytes(ModelRequest("classification", str(tmp_path), device="cpu")) == one
    assert count_parameters(plain / "model.safetensors") * 4 == one
    load(tmp_path)


# -- devices ---------------------------------------------------------------------------------


def test_what_a_failed_pass_means() -> None:
    cpu = torch.device("cpu")

    def fail(error: Exception) -> Callable[[], None]:
        def compute() -> None:
            raise error

        return compute

    with pytest.raises(DeviceOutOfMemoryError):
        devices.run_on_device(cpu, fail(torch.OutOfMemoryError("CUDA out of memory.")))
    with pytest.raises(DeviceOutOfMemoryError):
        devices.run_on_device(cpu, lambda: torch.empty(10**15))
    full = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
    with pytest.raises(DeviceOutOfMemoryError):
        devices.run_on_device(cpu, fail(RuntimeError(full)))
    with pytest.raises(DeviceLostError, match="device-side assert"):
        devices.run_on_device(cpu, fail(RuntimeError("CUDA error: device-side assert triggered")))
    with pytest.raises(RuntimeError, match="shape"):
        devices.run_on_device(cpu, fail(RuntimeError("shape mismatch")))


def test_the_module_prints_one_device_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    import runpy

    runpy.run_path(devices.__file__, run_name="__main__")
    assert capsys.readouterr().out.splitlines() == devices.list_devices()
