"""Text classification: one label (or several) and its score for each text.

Wraps ``AutoModelForSequenceClassification``. Scores are computed in fp32 and rounded to 6 digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers

from textmill.core.checkpoints import open_checkpoint, require_architecture
from textmill.core.errors import RecordError
from textmill.core.jobs import Record
from textmill.core.params import ClassificationParams, TaskParams
from textmill.core.tasks import get_task
from textmill.workers.items import Item, ModelRequest, Output
from textmill.workers.runners import devices, loading
from textmill.workers.runners.records import check_text, own_params, read_each
from textmill.workers.runners.tokenizing import TextTokenizer, load_tokenizer

SCORE_DIGITS = 6

SOFTMAX, SIGMOID, RAW = "softmax", "sigmoid", "raw"

Ranked = tuple[list[int], list[float]]  # label indices and their scores, best first


@dataclass(frozen=True, slots=True)
class Encoded:
    """One text as the model reads it."""

    ids: list[int]
    tokens: int  # before truncation
    params: ClassificationParams


class ClassificationRunner:
    """One loaded classifier on one device. An item is a whole text."""

    def __init__(self, model: Any, tokenizer: TextTokenizer, device: torch.device) -> None:
        config = model.config
        self._model: Any = model
        self._tokenizer = tokenizer
        self._device = device
        self._labels = [config.id2label.get(i, f"LABEL_{i}") for i in range(config.num_labels)]
        self._activation = _default_activation(config)
        self.max_batch_tokens = devices.default_batch_tokens(device)
        self.memory_bytes = int(model.get_memory_footprint())

    @classmethod
    def load(cls, request: ModelRequest) -> ClassificationRunner:
        """Load a classifier; raises ModelLoadError that says what was found and expected."""
        device = devices.choose_device(request.device)
        dtype = devices.choose_dtype(request.dtype, device)
        checkpoint = open_checkpoint(request.model, request.revision)
        require_architecture(checkpoint, get_task(request.task))
        tokenizer = load_tokenizer(checkpoint)
        auto = transformers.AutoModelForSequenceClassification
        model = loading.load_model(auto, checkpoint, dtype, "labels")
        devices.run_on_device(device, lambda: model.to(device))
        return cls(model, tokenizer.fit(model), device)

    estimate_bytes = staticmethod(loading.estimate_bytes)

    def prepare(
        self, records: Sequence[Record], params: TaskParams
    ) -> list[list[Item] | RecordError]:
        """One item per record, or why it has none."""
        prepared = read_each(records, lambda record: _read(record, params))
        texts = [found[0] for found in prepared if not isinstance(found, RecordError)]
        encoded = iter(self._tokenizer.encode(texts))
        return [
            found if isinstance(found, RecordError) else self._item(next(encoded), found[1])
            for found in prepared
        ]

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
        if item.data.tokens > output.input_tokens:
            cut = {"truncated": True, "tokens": item.data.tokens}
            output.detail = {**(output.detail or {}), **cut}
        return output

    def warm_up(self) -> None:
        """One small batch of made-up tokens."""
        item = Item(8, Encoded([self._tokenizer.pad_id] * 8, 8, ClassificationParams()), SOFTMAX)
        self.forward([item] * 4)

    def close(self) -> None:
        """Free the model; outputs can still be joined."""
        self._model = None
        devices.release_memory(self._device)

    def _item(self, ids: list[int], params: ClassificationParams) -> list[Item] | RecordError:
        tokens = len(ids)
        if tokens == 0:
            return RecordError("empty_text", "the text has no tokens")
        limit = min(self._tokenizer.limit, params.max_length or self._tokenizer.limit)
        if tokens > limit:
            if params.on_long == "error":
                message = f"the text has {tokens} tokens, the limit is {limit}"
                return RecordError("text_too_long", message)
            ids = self._tokenizer.truncate(ids, limit)
        return [Item(len(ids), Encoded(ids, tokens, params), self._activation_for(params))]

    def _activation_for(self, params: ClassificationParams) -> str:
        if params.multi_label is None:
            return self._activation
        if params.multi_label:
            return SIGMOID
        return SOFTMAX if len(self._labels) > 1 else RAW

    def _logits(self, ids: list[list[int]]) -> torch.Tensor:
        """The logits of a batch, fp32 on the CPU: one copy there and one back."""
        longest = max(map(len, ids))
        pad = self._tokenizer.pad_id
        # The last column carries the lengths, so that ids and mask need a single copy.
        rows = [row + [pad] * (longest - len(row)) + [len(row)] for row in ids]
        packed = torch.tensor(rows)
        if self._device.type == "cuda":
            packed = packed.pin_memory()
        packed = packed.to(self._device, non_blocking=True)
        inputs = {
            "input_ids": packed[:, :-1],
            "attention_mask": torch.arange(longest, device=self._device) < packed[:, -1:],
        }
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


def _read(record: Record, params: TaskParams) -> tuple[str, ClassificationParams]:
    text = check_text("text", record.inputs.get("text"))
    return text, own_params(record, params, ClassificationParams, "classification")


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
