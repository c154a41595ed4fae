"""Labels of one's own for a model that writes text: which options are taken, and from columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from textmill.core.errors import InvalidJobError, RecordError
from textmill.core.jobs import JobSpec, Record
from textmill.core.params import ZeroShotParams
from textmill.core.settings import Settings
from textmill.core.tasks import get_task, read_own_params, validate_params
from textmill.producer.submit import validate_spec
from textmill.workers.items import ModelRequest
from textmill.workers.registry import load_runner

from ..tiny_generators import save_generator

TASK = "zero-shot-classification"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without a chat template."""
    return save_generator(tmp_path_factory.mktemp("plain") / "m", chat=False)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "expected labels that are not empty, such as a,b,c"),
        ({"labels": "a"}, "it chooses between labels, and 'a' is the only one"),
        ({"labels": "a,b", "template": "of {labels}?"}, "expected {text}"),
        ({"labels": "a,b", "template": "what?"}, "it names no column"),
        ({"labels": "a,b", "template": "{text"}, "has no counterpart"),
        ({"labels": "a,b", "system": " "}, "expected a text that is not empty"),
        ({"labels": "a,b", "system": "s", "chat": "off"}, "a system message needs a chat"),
        ({"labels": "a,b", "system": "s"}, "no chat template (neither"),
        ({"labels": "a,b", "chat": "on"}, "which --chat on needs"),
        ({"labels": "a,b", "multi_label": True}, "--multi-label is for models of natural"),
        ({"labels": "a,b", "hypothesis_template": "a {}"}, "--hypothesis-template is for models"),
    ],
)
def test_wrong_options_are_refused_at_submit(
    plain: Path, params: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidJobError) as caught:
        validate_spec(JobSpec(task=TASK, model=str(plain), params=params), Settings())
    assert message in str(caught.value)


def test_a_template_may_name_columns() -> None:
    params = ZeroShotParams(labels=("a", "b"), template="{title}: {body} ({labels}; {{x}})")
    assert params.fields() == ("title", "body")
    composition = params.composition()
    assert composition is not None
    assert composition.compose({"title": "t", "body": "{labels}"}) == {
        "text": "t: {labels} (a, b; {x})"
    }
    assert ZeroShotParams(labels=("a", "b"), template="{text}").composition() is None


def test_each_record_may_have_labels_in_a_column(plain: Path) -> None:
    task = get_task(TASK)
    params = validate_params(task, {"own_columns": {"labels": "choices"}})
    assert read_own_params(task, params, {"choices": "dog, fox"}) == {"labels": ["dog", "fox"]}
    assert read_own_params(task, params, {"choices": ["a,b", "c"]}) == {"labels": ["a,b", "c"]}
    with pytest.raises(RecordError, match=r"'choices'.*each label once, a twice"):
        read_own_params(task, params, {"choices": "a,a"})
    runner = load_runner(ModelRequest(TASK, str(plain), device="cpu"))
    own = Record(0, "0", {"text": "x"}, {"labels": ["dog", "fox"]})
    items, error = runner.prepare([own, Record(1, "1", {"text": "x"})], params)
    assert isinstance(items, list)
    assert isinstance(error, RecordError)
    assert "no labels of its own" in error.message
    composed = {"own_columns": {"labels": "choices"}, "template": "{title} {labels}?"}
    with pytest.raises(InvalidJobError, match=r"name their column: \{choices\}"):
        validate_params(task, composed)
    assert validate_params(task, {**composed, "template": "{title} {choices}?"})
