"""Zero-shot classification with real, tiny, random models, held against transformers' pipeline."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from textmill.core.errors import InvalidJobError, ModelLoadError, RecordError
from textmill.core.jobs import JobSpec, Record
from textmill.core.params import ZeroShotParams
from textmill.core.settings import Settings
from textmill.core.tasks import get_task, validate_params
from textmill.producer.cli.task_options import split_arguments
from textmill.producer.submit import validate_spec
from textmill.workers.engine import Engine
from textmill.workers.items import ModelRequest, Output
from textmill.workers.registry import load_runner
from textmill.workers.runners.zero_shot import ZeroShotRunner, rank_labels

from ..tiny_models import LIMIT, SPECIAL, WORDS, save_model, save_tokenizer

TASK = "zero-shot-classification"
TEXTS = ["good", "free win now call me", "the bad text " * 9, "you " * 200, "a good text of me"]
LABELS = ["spam", "ham", "good text", "call me now"]
TEMPLATE = "the text {} ."

Classify = Callable[..., list[Output | RecordError]]


def save_nli(folder: Path, *names: str) -> Path:
    ids = {name: index for index, name in enumerate(names)}
    save_model(folder, id2label=dict(enumerate(names)), label2id=ids)
    save_tokenizer(folder, model_input_names=["input_ids", "token_type_ids", "attention_mask"])
    return folder


@pytest.fixture(scope="module")
def nli(tmp_path_factory: pytest.TempPathFactory) -> Path:
    names = ("contradiction", "neutral", "Entailment")
    return save_nli(tmp_path_factory.mktemp("nli") / "model", *names)


@pytest.fixture
def classify() -> Iterator[Classify]:
    """Classify texts through an engine with a budget in tokens."""
    engines: list[Engine] = []

    def run(
        model: Path, texts: list[Any], tokens: int = 1024, **params: Any
    ) -> list[Output | RecordError]:
        request = ModelRequest(TASK, str(model), device="cpu")
        engine = Engine(lambda: load_runner(request), max_batch_tokens=tokens)
        engines.append(engine)
        records = [Record(n, str(n), {"text": text}) for n, text in enumerate(texts)]
        given = {"labels": LABELS, "hypothesis_template": TEMPLATE, **params}
        return engine.submit(records, ZeroShotParams(**given)).wait(60)

    yield run
    for engine in engines:
        engine.close()


def as_output(found: Output | RecordError) -> Output:
    assert isinstance(found, Output), found
    return found


def assert_as_pipeline(
    found: list[Output | RecordError], model: Path, labels: list[str], **options: Any
) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(model, model_max_length=LIMIT)
    # The tiny tokenizer pads to 12 tokens by itself, as published ones do; one text needs none.
    tokenizer.backend_tokenizer.no_padding()
    pipeline = transformers.pipeline(TASK, model=str(model), tokenizer=tokenizer, device="cpu")
    for text, one in zip(TEXTS, found, strict=True):
        expected = pipeline(text, labels, hypothesis_template=TEMPLATE, **options)
        output = as_output(one)
        assert output.detail is not None
        scores = output.detail["scores"]
        assert list(scores) == expected["labels"]
        assert list(scores.values()) == pytest.approx(expected["scores"], abs=1e-4)
        assert output.score == pytest.approx(expected["scores"][0], abs=1e-4)


# -- outputs ---------------------------------------------------------------------------------


def test_one_of_several_labels_as_the_pipeline(classify: Classify, nli: Path) -> None:
    found = classify(nli, TEXTS)
    assert_as_pipeline(found, nli, LABELS)
    assert all(
        sum(as_output(o).detail["scores"].values()) == pytest.approx(1, abs=1e-5) for o in found
    )
    assert len({as_output(o).label for o in found}) > 1, "a model that always says the same"
    for one in map(as_output, found):
        assert one.label == next(iter((one.detail or {})["scores"]))


def test_independent_labels_as_the_pipeline(classify: Classify, nli: Path) -> None:
    found = classify(nli, TEXTS, multi_label=True)
    assert_as_pipeline(found, nli, LABELS, multi_label=True)
    for one in map(as_output, found):
        assert one.detail is not None
        over = [label for label, score in one.detail["scores"].items() if score >= 0.5]
        assert one.labels == one.detail["labels"] == over
        assert one.label == (over[0] if over else None)
    none = as_output(classify(nli, ["good"], multi_label=True, threshold=1.0)[0])
    assert (none.label, none.labels) == (None, [])


def test_a_single_label_is_weighed_against_contradiction(classify: Classify, nli: Path) -> None:
    """By the softmax over one label its score would always be 1."""
    found = classify(nli, TEXTS, labels=["spam"])
    assert_as_pipeline(found, nli, ["spam"])
    assert len({as_output(one).score for one in found}) > 1


@pytest.mark.parametrize(
    "names",
    [
        ("entailment", "neutral", "contradiction"),
        ("entailment", "not_entailment"),
        ("not_entailment", "entailment"),
    ],
)
def test_the_labels_of_the_model_may_be_in_any_order(
    classify: Classify, tmp_path: Path, names: tuple[str, ...]
) -> None:
    model = save_nli(tmp_path / "m", *names)
    assert_as_pipeline(classify(model, TEXTS), model, LABELS)
    assert_as_pipeline(classify(model, TEXTS, multi_label=True), model, LABELS, multi_label=True)


def test_contradiction_is_found_by_its_name(classify: Classify, tmp_path: Path) -> None:
    """The pipeline would take the first label, neutral here, for it."""
    model = save_nli(tmp_path / "m", "neutral", "entailment", "contradiction")
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    loaded = transformers.AutoModelForSequenceClassification.from_pretrained(model).eval()
    ids = tokenizer("good", "the text spam .", padding=False, return_tensors="pt")
    with torch.inference_mode():
        logits = loaded(**ids).logits[0]
    expected = float(logits[[1, 2]].softmax(0)[0])
    config = json.loads((model / "config.json").read_text())
    del config["label2id"]  # one of the two directions is enough
    (model / "config.json").write_text(json.dumps(config))
    output = as_output(classify(model, ["good"], labels=["spam"])[0])
    assert output.score == pytest.approx(expected, abs=1e-4)


def test_a_model_without_segment_ids(classify: Classify, tmp_path: Path) -> None:
    config = transformers.RobertaConfig(
        vocab_size=len(SPECIAL + WORDS),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=LIMIT + 1,
        type_vocab_size=1,
        pad_token_id=0,
        initializer_range=0.7,
        id2label={0: "contradiction", 1: "entailment"},
        label2id={"contradiction": 0, "entailment": 1},
    )
    torch.manual_seed(7)
    transformers.RobertaForSequenceClassification(config).save_pretrained(tmp_path)
    save_tokenizer(tmp_path, model_input_names=["input_ids", "attention_mask"])
    assert_as_pipeline(classify(tmp_path, TEXTS), tmp_path, LABELS)


def test_outputs_do_not_depend_on_the_batch(classify: Classify, nli: Path) -> None:
    texts = [f"{'good bad ' * (n % 9)}spam" for n in range(40)]
    alone = [as_output(one) for one in classify(nli, texts, tokens=1)]
    together = [as_output(one) for one in classify(nli, texts[::-1], tokens=10_000)][::-1]
    for one, two in zip(alone, together, strict=True):
        assert one.label == two.label
        assert one.score == pytest.approx(two.score, abs=1e-4)


def test_labels_of_many_records_share_batches(nli: Path) -> None:
    runner = ZeroShotRunner.load(ModelRequest(TASK, str(nli), device="cpu"))
    records = [Record(n, str(n), {"text": text}) for n, text in enumerate(TEXTS)]
    prepared = runner.prepare(records, ZeroShotParams(labels=("spam", "ham")))
    items = [item for one in prepared if isinstance(one, list) for item in one]
    assert len(items) == 2 * len(TEXTS)
    assert {item.group for item in items} == {None}


def test_a_records_own_labels_win(nli: Path) -> None:
    runner = ZeroShotRunner.load(ModelRequest(TASK, str(nli), device="cpu"))
    params = ZeroShotParams(labels=("spam", "ham"))
    records = [
        Record(0, "0", {"text": "good"}, {"labels": ["you", "me", "now"]}),
        Record(1, "1", {"text": "good"}, {"labels": ["me", "me"]}),
    ]
    items, error = runner.prepare(records, params)
    assert isinstance(items, list)
    output = runner.join(records[0], items, runner.forward(items), params)
    assert (output.detail or {})["scores"].keys() == {"you", "me", "now"}
    assert isinstance(error, RecordError)
    assert error.code == "invalid_params"


def test_only_the_text_is_cut(classify: Classify, nli: Path) -> None:
    long, short = map(as_output, classify(nli, ["you " * 100, "you"]))
    assert long.detail is not None
    # 100 and [CLS] [SEP] [SEP] and "the text call me now ."
    assert (long.detail["truncated"], long.detail["tokens"]) == (True, 109)
    assert long.input_tokens == len(LABELS) * LIMIT
    assert "truncated" not in (short.detail or {})
    (error,) = classify(nli, ["you " * 100], on_long="error")
    assert isinstance(error, RecordError)
    assert (error.code, error.message) == (
        "text_too_long",
        "the text has 109 tokens, the limit is 32",
    )
    (error,) = classify(nli, ["you"], labels=["spam " * 40, "ham"])
    assert isinstance(error, RecordError)
    assert "a label's sentence has 46 tokens" in error.message


def test_a_bad_text_costs_one_row(classify: Classify, nli: Path) -> None:
    found = classify(nli, ["good", "a \ud800", "", "bad"])
    codes = [one.code if isinstance(one, RecordError) else None for one in found]
    assert codes == [None, "invalid_input", "empty_text", None]


def test_ties_go_to_the_label_named_first() -> None:
    output = rank_labels(
        [[1.0, 0.0], [3.0, 0.0], [3.0, 1.0]], ZeroShotParams(labels=("a", "b", "c"))
    )
    assert list((output.detail or {})["scores"]) == ["b", "c", "a"]
    assert rank_labels([[800.0, -800.0]], ZeroShotParams(labels=("a",))).score == 1.0


def test_scores_that_are_not_finite_are_an_error(nli: Path) -> None:
    runner = ZeroShotRunner.load(ModelRequest(TASK, str(nli), device="cpu"))
    record, params = Record(0, "0", {"text": "good"}), ZeroShotParams(labels=("a",))
    (items,) = runner.prepare([record], params)
    assert isinstance(items, list)
    with pytest.raises(RecordError) as caught:
        runner.join(record, items, [[float("nan"), 0.0]], params)
    assert caught.value.code == "not_finite"


# -- options ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "labels"),
    [
        (["--labels", "a,b, c d"], ("a", "b", "c d")),
        (["--labels", "a", "--labels", "b"], ("a", "b")),
        (["--labels", "yes, please", "--labels", "no"], ("yes, please", "no")),
        (["--labels=alone"], ("alone",)),
    ],
)
def test_labels_on_the_command_line(words: list[str], labels: tuple[str, ...]) -> None:
    given = split_arguments(["in.csv", *words], TASK, []).params
    params = validate_params(get_task(TASK), given)
    assert isinstance(params, ZeroShotParams)
    assert params.labels == labels
    # A worker reads them again as they are stored.
    assert validate_params(get_task(TASK), params.model_dump()) == params


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "expected labels that are not empty, such as a,b,c"),
        ({"labels": ","}, "expected labels that are not empty"),
        ({"labels": ["a", " "]}, "expected labels that are not empty"),
        ({"labels": "a,b,a"}, "each label once, a twice"),
        ({"labels": "a", "hypothesis_template": "no place"}, "expected one {}, the place"),
        ({"labels": "a", "hypothesis_template": "{} {}"}, "expected one {}, the place"),
        ({"label": "a"}, "did you mean 'labels'"),
    ],
)
def test_wrong_options_are_refused_at_submit(
    nli: Path, params: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidJobError) as caught:
        validate_spec(JobSpec(task=TASK, model=str(nli), params=params), Settings())
    assert message in str(caught.value)


def test_a_model_that_knows_no_entailment_is_refused(tmp_path: Path) -> None:
    model = save_nli(tmp_path / "m", "ham", "spam")
    with pytest.raises(InvalidJobError) as caught:
        validate_spec(JobSpec(task=TASK, model=str(model), params={"labels": "a"}), Settings())
    assert "none of its labels begins with 'entail' (ham, spam)" in str(caught.value)
    with pytest.raises(ModelLoadError) as loading:
        load_runner(ModelRequest(TASK, str(model), device="cpu"))
    assert str(loading.value) == str(caught.value)
