"""Extractive question answering: the part of a context that answers a question.

Wraps ``AutoModelForQuestionAnswering``. A context that is longer than the model reads is cut into
overlapping windows, which are the items; the best answer of all windows is the record's. How
answers are scored is said in ``spans``, where "no answer" is better in ``_null_margin``.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers

from textmill.core.checkpoints import open_checkpoint, require_architecture
from textmill.core.errors import RecordError
from textmill.core.jobs import Record
from textmill.core.params import QuestionAnsweringParams, TaskParams
from textmill.core.tasks import get_task
from textmill.workers.items import Item, ModelRequest, Output
from textmill.workers.runners import devices, loading
from textmill.workers.runners.pairs import (
    PairTokenizer,
    TokenizedContext,
    cut_windows,
    load_pair_tokenizer,
)
from textmill.workers.runners.records import check_text, own_params, read_each
from textmill.workers.runners.spans import CANDIDATES, Span, WindowSpans, find_spans

TASK = "question-answering"
SCORE_DIGITS = 6
DEFAULT_WINDOW = 384
DEFAULT_STRIDE = 128


@dataclass(frozen=True, slots=True)
class Asked:
    """One record's question, context and parameters."""

    question: str
    context: str
    params: QuestionAnsweringParams


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens ``first`` to ``after`` - 1 of a context, behind a question."""

    asked: Asked
    head: list[int]  # all ids before the context
    context: TokenizedContext
    first: int
    after: int


class QuestionAnsweringRunner:
    """One loaded model on one device. An item is a question with one window of its context."""

    def __init__(self, model: Any, tokenizer: PairTokenizer, device: torch.device) -> None:
        self._model: Any = model
        self._tokenizer = tokenizer
        self._device = device
        takes_types = "token_type_ids" in inspect.signature(model.forward).parameters
        self._uses_types = tokenizer.uses_types and takes_types
        self.max_batch_tokens = devices.default_batch_tokens(device)
        self.memory_bytes = int(model.get_memory_footprint())

    @classmethod
    def load(cls, request: ModelRequest) -> QuestionAnsweringRunner:
        """Load a model; raises ModelLoadError that says what was found and expected."""
        device = devices.choose_device(request.device)
        dtype = devices.choose_dtype(request.dtype, device)
        checkpoint = open_checkpoint(request.model, request.revision)
        require_architecture(checkpoint, get_task(request.task))
        tokenizer = load_pair_tokenizer(checkpoint)
        auto = transformers.AutoModelForQuestionAnswering
        model = loading.load_model(auto, checkpoint, dtype, "answers")
        devices.run_on_device(device, lambda: model.to(device))
        return cls(model, tokenizer.fit(model), device)

    estimate_bytes = staticmethod(loading.estimate_bytes)

    def prepare(
        self, records: Sequence[Record], params: TaskParams
    ) -> list[list[Item] | RecordError]:
        """The windows of each record, or why it has none. Equal texts are tokenized once."""
        read = read_each(records, lambda record: _read(record, params))
        asked = [found for found in read if isinstance(found, Asked)]
        questions = self._tokenizer.encode_questions(one.question for one in asked)
        contexts = self._tokenizer.encode_contexts(one.context for one in asked)
        return read_each(
            read, lambda one: self._windows(one, questions[one.question], contexts[one.context])
        )

    def forward(self, items: Sequence[Item]) -> list[WindowSpans | None]:
        """Each window's best spans; None where the model gave no finite numbers."""
        windows = [item.data for item in items]
        return devices.run_on_device(self._device, lambda: self._find_spans(windows))

    def join(
        self, record: Record, items: Sequence[Item], raw: Sequence[Any], params: TaskParams
    ) -> Output:
        """The best answer of all windows; raises RecordError("not_finite") or ("no_span")."""
        if None in raw:
            raise RecordError("not_finite", "the model's scores are not finite numbers")
        windows: list[Window] = [item.data for item in items]
        asked, context = windows[0].asked, windows[0].context
        ranked = _rank(windows, raw)
        answers = list(_answers(context, ranked, asked.params))
        if not answers:
            raise RecordError("no_span", "no token of the context stands for any of its characters")
        best = answers[0]
        detail: dict[str, Any] = {"question": asked.question}
        if asked.params.no_answer:
            margin = _null_margin(ranked[0], raw)
            empty = margin > (asked.params.no_answer_threshold or 0.0)
            if empty:
                best = {"answer": "", "score": _null_score(raw), "start": 0, "end": 0}
            detail |= {"no_answer": empty, "no_answer_margin": round(margin, SCORE_DIGITS)}
        detail |= {"start": best["start"], "end": best["end"]}
        if asked.params.top_k > 1:
            detail["answers"] = answers
        if len(windows) > 1:
            detail["windows"] = len(windows)
        if windows[-1].after < len(context.ids):
            detail |= {"truncated": True, "tokens": len(context.ids)}
        return Output(
            output=best["answer"],
            score=best["score"],
            detail=detail,
            input_tokens=sum(item.length for item in items),
        )

    def warm_up(self) -> None:
        """One small batch of made-up records."""
        records = [Record(n, "", {"question": "a", "context": "a a a a"}) for n in range(4)]
        prepared = self.prepare(records, QuestionAnsweringParams())
        self.forward([item for items in prepared if isinstance(items, list) for item in items])

    def close(self) -> None:
        """Free the model; outputs can still be joined."""
        self._model = None
        devices.release_memory(self._device)

    def _windows(self, asked: Asked, question: list[int], context: TokenizedContext) -> list[Item]:
        """The record's items; raises RecordError where it cannot be read as it is."""
        tokens, params = len(context.ids), asked.params
        for name, length in (("question", len(question)), ("context", tokens)):
            if length == 0:
                raise RecordError("empty_text", f"the {name} has no tokens")
        if params.no_answer and self._tokenizer.cls_at is None:
            message = "the model has no [CLS] token, whose score is that of 'no answer'"
            raise RecordError("invalid_params", message)
        window = min(params.window or DEFAULT_WINDOW, self._tokenizer.limit)
        room, overlap = self._room(params, window, len(question), tokens)
        cuts = cut_windows(tokens, room, overlap)
        if len(cuts) > 1 and params.on_long == "truncate":
            cuts = cuts[:1]
        if len(cuts) > 1 and params.on_long == "error":
            message = f"the context has {tokens} tokens, the question leaves {room} of {window}"
            raise RecordError("context_too_long", message)
        if len(cuts) > params.max_windows:
            message = f"the context takes {len(cuts)} windows, the limit is {params.max_windows}"
            raise RecordError("context_too_long", message)
        head = self._tokenizer.head(question)
        extra = len(question) + self._tokenizer.special
        return [
            Item(extra + after - first, Window(asked, head, context, first, after))
            for first, after in cuts
        ]

    def _room(
        self, params: QuestionAnsweringParams, window: int, question: int, tokens: int
    ) -> tuple[int, int]:
        """Tokens of the context in each window, and how many of them two windows share."""
        room = window - question - self._tokenizer.special
        overlap = params.stride
        if overlap is None:
            overlap = min(DEFAULT_STRIDE, max(room, 0) // 2)
        if room < 1 or (tokens > room and overlap >= room):
            least = f"more than {overlap} (stride)" if room >= 1 else "1"
            raise RecordError(
                "question_too_long",
                f"the question has {question} tokens and leaves {max(room, 0)} of a window of "
                f"{window} to the context, expected {least}; ask for a larger window",
            )
        return room, overlap

    def _find_spans(self, windows: Sequence[Window]) -> list[WindowSpans | None]:
        """One copy to the device, one pass, and the few best spans back."""
        ids = [self._tokenizer.join(w.head, w.context.ids[w.first : w.after]) for w in windows]
        longest = max(map(len, ids))
        padding = self._tokenizer.pad_id
        # The last columns carry all lengths and limits, so that a single copy is needed.
        packed = torch.tensor(
            [
                row
                + [padding] * (longest - len(row))
                + [len(row), len(w.head), len(w.head) + w.after - w.first]
                + [w.asked.params.max_answer_tokens]
                for row, w in zip(ids, windows, strict=True)
            ]
        )
        if self._device.type == "cuda":
            packed = packed.pin_memory()
        packed = packed.to(self._device, non_blocking=True)
        position = torch.arange(longest, device=self._device)
        inputs = {"input_ids": packed[:, :-4], "attention_mask": position < packed[:, -4:-3]}
        if self._uses_types:
            first, second = self._tokenizer.types
            inputs["token_type_ids"] = torch.where(position < packed[:, -3:-2], first, second)
        candidates = max(CANDIDATES, *(2 * w.asked.params.top_k for w in windows))
        with torch.inference_mode():
            found = self._model(**inputs)
            return find_spans(
                found.start_logits,
                found.end_logits,
                packed[:, -3:],
                self._tokenizer.cls_at,
                candidates,
            )


@dataclass(frozen=True, slots=True)
class _Ranked:
    """A span of the whole context, and the sum of its logits."""

    span: Span
    logit: float


def _read(record: Record, params: TaskParams) -> Asked:
    own = own_params(record, params, QuestionAnsweringParams, TASK)
    inputs = record.inputs
    question = inputs.get("question") if own.question is None else own.question
    context = inputs.get("context") if own.context is None else own.context
    return Asked(check_text("question", question), check_text("context", context), own)


def _rank(windows: Sequence[Window], raw: Sequence[WindowSpans]) -> list[_Ranked]:
    """All windows' spans in tokens of the whole context, best first, ties by their place."""
    ranked = [
        _Ranked(
            Span(span.log_score, window.first + span.first, window.first + span.last),
            span.log_score + found.log_norm,
        )
        for window, found in zip(windows, raw, strict=True)
        for span in found.spans
    ]
    ranked.sort(key=lambda one: (-one.span.log_score, one.span.first, one.span.last))
    return ranked


def _answers(
    context: TokenizedContext, ranked: Sequence[_Ranked], params: QuestionAnsweringParams
) -> Iterator[dict[str, Any]]:
    """The best answers, ``top_k`` at most; of those that are the same characters the best."""
    seen: set[tuple[int, int]] = set()
    for one in ranked:
        if len(seen) == params.top_k:
            return
        place = context.characters(one.span.first, one.span.last, whole_words=params.whole_words)
        start, end = place
        if start < end and place not in seen:
            seen.add(place)
            score = round(math.exp(one.span.log_score), SCORE_DIGITS)
            yield {
                "answer": context.text[start:end],
                "score": score,
                "start": start,
                "end": end,
            }


def _null_margin(best: _Ranked, raw: Sequence[WindowSpans]) -> float:
    """How far the logits of "no answer" are above the best answer's.

    Of "no answer" the window counts that is the least sure of it, because elsewhere in the context
    there usually is none; ``null_score_diff_threshold`` in SQuAD 2's evaluation of BERT
    (https://github.com/google-research/bert/blob/master/run_squad.py).
    """
    return min(found.null_logit or 0.0 for found in raw) - best.logit


def _null_score(raw: Sequence[WindowSpans]) -> float:
    """The smallest probability of "no answer" of any window, as transformers 4 scored it."""
    least = min((found.null_logit or 0.0) - found.log_norm for found in raw)
    return round(math.exp(least), SCORE_DIGITS)
