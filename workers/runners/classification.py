"""Text classification: one label (or several) and its score for each text.

Wraps ``AutoModelForSequenceClassification``. Scores are computed in fp32 and rounded to 6 digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import transformers

from textmill.core.errors import RecordError
from textmill.core.jobs import Record
from textmill.core.params import ClassificationParams, TaskParams
from textmill.workers.items import Item, ModelRequest, Output, equal_key
from textmill.workers.runners import devices, loading
from textmill.workers.runners.base import ModelRunner
from textmill.workers.runners.lengths import Encoded, fit_ids, truncation_mark
from textmill.workers.runners.loading import Loaded
from textmill.workers.runners.padding import pack_ids
from textmill.workers.runners.records import read_each, read_texts, sound

SCORE_DIGITS = 6

SOFTMAX, SIGMOID, RAW = "softmax", "sigmoid", "raw"

Ranked = tuple[list[int], list[float]]  # label indices and their scores, best first


class ClassificationRunner(ModelRunner):
    """One loaded classifier on one device. An item is a whole text."""

    def __init__(self, loaded: Loaded) -> None:
        super().__init__(loaded)
        config = loaded.model.config
        self._labels = [config.id2label.get(i, f"LABEL_{i}") for i in range(config.num_labels)]
        self._activation = _default_activation(config)

    @classmethod
    def load(cls, request: ModelRequest) -> ClassificationRunner:
        """Load a classifier; raises ModelLoadError that says what was found and expected."""
        auto_class = transformers.AutoModelForSequenceClassification
        return cls(loading.load_model(request, auto_class, outcome="labels"))

    def prepare(
        self, records: Sequence[Record], params: TaskParams
    ) -> list[list[Item] | RecordError]:
        """One item per record, or why it has none."""
        read = read_texts(records, params, ClassificationParams, "classification")
        ids = iter(self._tokenizer.encode([text for text, _ in sound(read)]))
        return read_each(read, lambda found: [self._item(next(ids), found[1])])

    def forward(self, items: Sequence[Item]) -> list[Ranked | None]:
        """Each item's labels and scores, best first; None where the model gave no finite number."""
        ids = [item.data.ids for item in items]
        logits = devices.run_on_device(self._device, lambda: self._logits(ids))
        return rank_scores(logits, str(items[0].group))

    def join(
        self, record: Record, items: Sequence[Item], raw: Sequence[Any], params: TaskParams
    ) -> Output:
        """The record's label, score and detail; raises RecordError("not_finite")."""
        item, ranked = items[0], raw[0]
        if ranked is None:
            raise RecordError("not_finite", "the model's scores are not finite numbers")
        output = self._output(ranked, item)
        output.input_tokens = len(item.data.ids)
        if cut := truncation_mark(output.input_tokens, item.data.tokens):
            output.detail = {**(output.detail or {}), **cut}
        return output

    def warm_up(self) -> None:
        """One small batch of a made-up text; with its special tokens, which BART looks for."""
        (ids,) = self._tokenizer.encode(["a a a a"])
        ids = ids or [self._tokenizer.pad_id]
        item = Item(len(ids), Encoded(ids, len(ids), ClassificationParams()), SOFTMAX)
        self.forward([item] * 4)

    def _item(self, ids: list[int], params: ClassificationParams) -> Item:
        encoded = fit_ids(ids, self._tokenizer, params)
        activation = self._activation_for(params)
        return Item(len(encoded.ids), encoded, activation, equal_key(encoded.ids, activation))

    def _activation_for(self, params: ClassificationParams) -> str:
        if params.multi_label is None:
            return self._activation
        if params.multi_label:
            return SIGMOID
        return SOFTMAX if len(self._labels) > 1 else RAW

    def _logits(self, ids: list[list[int]]) -> torch.Tensor:
        """The logits of a batch, fp32 on the CPU: one copy there and one back."""
        inputs = pack_ids(ids, self._tokenizer.pad_id, self._device)
        with torch.inference_mode():
            logits: torch.Tensor = self._model(**inputs).logits
            return logits.float().cpu()

    def _output(self, ranked: Ranked, item: Item) -> Output:
        order, scores = ranked
        labels = [self._labels[index] for index in order]
        params: ClassificationParams = item.data.params
        if item.group == RAW:
            return _regression(labels, scores)
        kept = dict(zip(labels[: params.top_k], scores, strict=False))
        if item.group == SOFTMAX:
            return Output(label=labels[0], score=scores[0], detail={"scores": kept})
        over = [
            label for label, score in zip(labels, scores, strict=True) if score >= params.threshold
        ]
        return Output(
            label=over[0] if over else None,
            score=scores[0],
            labels=over,
            detail={"labels": over, "scores": kept},
        )


def rank_scores(logits: torch.Tensor, activation: str) -> list[Ranked | None]:
    """Scores of each row, best first, ties by the lower label index; None if any is not finite."""
    if activation == SOFTMAX:
        scores = logits.softmax(dim=1)
    else:
        scores = logits.sigmoid() if activation == SIGMOID else logits
    finite = logits.isfinite().all(dim=1).tolist()
    ranked = scores.sort(dim=1, descending=True, stable=True)
    values = ranked.values.double().round(decimals=SCORE_DIGITS).tolist()
    rows = zip(ranked.indices.tolist(), values, finite, strict=True)
    return [(order, row) if good else None for order, row, good in rows]


def _regression(labels: list[str], values: list[float]) -> Output:
    if len(values) == 1:
        return Output(score=values[0])
    return Output(detail={"scores": dict(zip(labels, values, strict=True))})


def _default_activation(config: Any) -> str:
    """As transformers' text-classification pipeline decides it."""
    if config.problem_type == "regression":
        return RAW
    if config.problem_type == "multi_label_classification" or config.num_labels == 1:
        return SIGMOID
    return SOFTMAX
