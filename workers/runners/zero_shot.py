"""Zero-shot classification: scores for labels of the user's own, by a model that knows inference.

Each label is a hypothesis about the text, and its score how far the text entails it; as
transformers' ZeroShotClassificationPipeline defines it
(https://huggingface.co/docs/transformers/main_classes/pipelines), after Yin et al. 2019
(https://arxiv.org/abs/1909.00161). Scores are computed in fp32 and rounded to 6 digits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers

from textmill.core.errors import RecordError
from textmill.core.inference_labels import InferenceLabels, find_inference_labels
from textmill.core.jobs import Record
from textmill.core.params import TaskParams, ZeroShotParams
from textmill.workers.items import Item, ModelRequest, Output, equal_key
from textmill.workers.runners import devices, loading
from textmill.workers.runners.base import ModelRunner
from textmill.workers.runners.lengths import refuse_long, token_limit, truncation_mark
from textmill.workers.runners.loading import Loaded
from textmill.workers.runners.padding import pack_ids, pad_rows
from textmill.workers.runners.pairs import PairTemplate, pair_template, takes_segments
from textmill.workers.runners.ranking import rank_scores, softmax
from textmill.workers.runners.records import read_each, read_texts, sound

TASK = "zero-shot-classification"


@dataclass(frozen=True, slots=True)
class Pair:
    """One text with one label's hypothesis, as the model reads them."""

    ids: list[int]
    segments: list[int]
    tokens: int  # before truncation
    params: ZeroShotParams


class ZeroShotRunner(ModelRunner):
    """One loaded model on one device. An item is a text with one label; its row two logits."""

    def __init__(self, loaded: Loaded, labels: InferenceLabels, template: PairTemplate) -> None:
        super().__init__(loaded)
        self._columns = [labels.entailment, labels.contradiction]
        self._template = template
        self._segments = takes_segments(loaded)

    @classmethod
    def load(cls, request: ModelRequest) -> ZeroShotRunner:
        """Load a model; raises ModelLoadError that says what was found and expected."""
        loaded = loading.load_model(
            request, transformers.AutoModelForSequenceClassification, outcome="scores"
        )
        name = loaded.checkpoint.name
        labels = find_inference_labels(name, loaded.model.config.to_dict())
        return cls(loaded, labels, pair_template(loaded))

    def prepare(
        self, records: Sequence[Record], params: TaskParams
    ) -> list[list[Item] | RecordError]:
        """One item per label of each record, or why it has none."""
        read = read_texts(records, params, ZeroShotParams, TASK)
        premises = iter(self._tokenizer.encode_bare([text for text, _ in sound(read)]))
        # Most records share their options.
        hypotheses = {own: self._hypotheses(own) for own in {own for _, own in sound(read)}}
        return read_each(
            read, lambda found: self._items(next(premises), hypotheses[found[1]], found[1])
        )

    def forward(self, items: Sequence[Item]) -> list[list[float]]:
        """Each item's logits of entailment and contradiction."""
        pairs = [item.data for item in items]
        return devices.run_on_device(self._device, lambda: self._logits(pairs))

    def join(
        self, record: Record, items: Sequence[Item], raw: Sequence[Any], params: TaskParams
    ) -> Output:
        """The record's best label, its score, and all scores; raises RecordError("not_finite")."""
        pairs = [item.data for item in items]
        if not all(math.isfinite(logit) for row in raw for logit in row):
            raise RecordError("not_finite", "the model's scores are not finite numbers")
        output = rank_labels(raw, pairs[0].params)
        longest = max(pairs, key=lambda pair: pair.tokens)
        cut = truncation_mark(len(longest.ids), longest.tokens)
        output.detail = {**(output.detail or {}), **cut}
        output.input_tokens = sum(len(pair.ids) for pair in pairs)
        return output

    def warm_up(self) -> None:
        """One small batch of made-up tokens."""
        ids = self._template.join([self._tokenizer.pad_id] * 4, [self._tokenizer.pad_id] * 4)
        pair = Pair(ids, self._template.segment_ids(4, 4), len(ids), ZeroShotParams(labels=("a",)))
        self.forward([Item(len(ids), pair)] * 4)

    def _hypotheses(self, params: ZeroShotParams) -> list[list[int]]:
        template = params.hypothesis_template
        return self._tokenizer.encode_bare(
            [template.replace("{}", label) for label in params.labels]
        )

    def _items(
        self, premise: list[int], hypotheses: list[list[int]], params: ZeroShotParams
    ) -> list[Item]:
        if problem := params.record_problem(causal=False):
            raise RecordError("invalid_params", problem)
        if not premise:
            raise RecordError("empty_text", "the text has no tokens")
        limit = token_limit(self._tokenizer, params)
        longest = max(map(len, hypotheses)) + self._template.overhead
        if longest >= limit:
            message = f"a label's sentence has {longest} tokens, the limit with a text is {limit}"
            raise RecordError("invalid_params", message)
        if len(premise) + longest > limit and params.on_long == "error":
            raise refuse_long(len(premise) + longest, limit)
        return [self._item(premise, hypothesis, limit, params) for hypothesis in hypotheses]

    def _item(
        self, premise: list[int], hypothesis: list[int], limit: int, params: ZeroShotParams
    ) -> Item:
        """Of a pair that is too long only the text is cut, as the pipeline does."""
        template = self._template
        fixed = len(hypothesis) + template.overhead
        kept = self._tokenizer.cut_body(premise, limit - fixed)
        ids = template.join(kept, hypothesis)
        segments = template.segment_ids(len(kept), len(hypothesis)) if self._segments else []
        pair = Pair(ids, segments, len(premise) + fixed, params)
        return Item(len(ids), pair, key=equal_key(ids, len(kept)))

    def _logits(self, pairs: Sequence[Pair]) -> list[list[float]]:
        inputs = pack_ids([pair.ids for pair in pairs], self._tokenizer.pad_id, self._device)
        if self._segments:
            packed = pad_rows([pair.segments for pair in pairs], 0, self._device)
            inputs["token_type_ids"] = packed[:, :-1]
        with torch.inference_mode():
            logits = self._model(**inputs).logits
            rows: list[list[float]] = logits[:, self._columns].float().cpu().tolist()
            return rows


def rank_labels(logits: Sequence[Sequence[float]], params: ZeroShotParams) -> Output:
    """The output for one (entailment, contradiction) pair of logits per label, in their order.

    One of several labels: softmax of their entailments. Independent labels, or one label alone:
    softmax of entailment against contradiction for each. Ties go to the label named first.
    """
    if params.multi_label or len(logits) == 1:
        scores = [softmax(row)[0] for row in logits]
    else:
        scores = softmax([entailment for entailment, _ in logits])
    return rank_scores(scores, params)
