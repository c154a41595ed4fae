"""Extractive question answering: the part of a context that answers a question.

Wraps ``AutoModelForQuestionAnswering``. A context that is longer than the model reads is cut into
overlapping windows, which are the items; the best answer of all windows is the record's. How
answers are scored is said in ``spans``, and which of several windows counts in ``answers``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import transformers

from textmill.core.errors import RecordError
from textmill.core.jobs import Record
from textmill.core.params import QuestionAnsweringParams, TaskParams
from textmill.core.params.question_answering import DEFAULT_WINDOW
from textmill.workers.items import Item, ModelRequest, Output, equal_key
from textmill.workers.runners import devices, loading
from textmill.workers.runners.answers import Asked, Window, best_answer
from textmill.workers.runners.base import ModelRunner
from textmill.workers.runners.contexts import TokenizedContext, cut_windows
from textmill.workers.runners.loading import Loaded
from textmill.workers.runners.padding import pack_ids, pad_rows
from textmill.workers.runners.pairs import PairTemplate, pair_template, takes_segments
from textmill.workers.runners.records import check_text, own_params, read_each, sound
from textmill.workers.runners.spans import CANDIDATES, WindowSpans, find_spans

TASK = "question-answering"
DEFAULT_STRIDE = 128


class QuestionAnsweringRunner(ModelRunner):
    """One loaded model on one device. An item is a question with one window of its context."""

    def __init__(self, loaded: Loaded, template: PairTemplate) -> None:
        super().__init__(loaded)
        self._template = template
        cls_id = loaded.tokenizer.cls_id
        self._cls_at = template.head.index(cls_id) if cls_id in template.head else None
        self._segments = takes_segments(loaded)

    @classmethod
    def load(cls, request: ModelRequest) -> QuestionAnsweringRunner:
        """Load a model; raises ModelLoadError that says what was found and expected."""
        auto_class = transformers.AutoModelForQuestionAnswering
        loaded = loading.load_model(request, auto_class, outcome="answers")
        return cls(loaded, pair_template(loaded))

    def prepare(
        self, records: Sequence[Record], params: TaskParams
    ) -> list[list[Item] | RecordError]:
        """The windows of each record, or why it has none. Equal texts are tokenized once."""
        read = read_each(records, lambda record: _read(record, params))
        questions = self._questions(list(dict.fromkeys(one.question for one in sound(read))))
        contexts = self._contexts(list(dict.fromkeys(one.context for one in sound(read))))
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
        output = best_answer(windows, raw)
        output.input_tokens = sum(item.length for item in items)
        return output

    def warm_up(self) -> None:
        """One small batch of made-up records."""
        records = [Record(n, "", {"question": "a", "context": "a a a a"}) for n in range(4)]
        prepared = self.prepare(records, QuestionAnsweringParams())
        self.forward([item for items in prepared if isinstance(items, list) for item in items])

    def _questions(self, texts: list[str]) -> dict[str, list[int]]:
        return dict(zip(texts, self._tokenizer.encode_bare(texts), strict=True))

    def _contexts(self, texts: list[str]) -> dict[str, TokenizedContext]:
        found = zip(texts, self._tokenizer.encode_places(texts), strict=True)
        return {text: TokenizedContext.of(text, encoding) for text, encoding in found}

    def _windows(self, asked: Asked, question: list[int], context: TokenizedContext) -> list[Item]:
        """The record's items; raises RecordError where it cannot be read as it is."""
        tokens, params = len(context.ids), asked.params
        for name, length in (("question", len(question)), ("context", tokens)):
            if length == 0:
                raise RecordError("empty_text", f"the {name} has no tokens")
        if params.no_answer and self._cls_at is None:
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
            message = (
                f"the context takes {len(cuts)} windows, and max_windows is {params.max_windows}; "
                "allow more, or cut it with on_long: truncate"
            )
            raise RecordError("context_too_long", message)
        head = [*self._template.head, *question, *self._template.middle]
        return [self._item(Window(asked, head, context, first, after)) for first, after in cuts]

    def _item(self, window: Window) -> Item:
        ids, params = self._ids(window), window.asked.params
        key = equal_key(ids, len(window.head), params.max_answer_tokens, params.top_k)
        return Item(len(ids), window, key=key)

    def _ids(self, window: Window) -> list[int]:
        context = window.context.ids[window.first : window.after].tolist()
        return [*window.head, *context, *self._template.tail]

    def _room(
        self, params: QuestionAnsweringParams, window: int, question: int, tokens: int
    ) -> tuple[int, int]:
        """Tokens of the context in each window, and how many of them two windows share."""
        room = window - question - self._template.overhead
        overlap = params.stride
        if overlap is None:
            overlap = min(DEFAULT_STRIDE, max(room, 0) // 2)
        if room < 1 or (tokens > room and overlap >= room):
            least = f"more than {overlap} (stride)" if room >= 1 else "1"
            larger = window < self._tokenizer.limit
            advice = "ask for a larger window" if larger else "the model reads no larger window"
            raise RecordError(
                "question_too_long",
                f"the question has {question} tokens and leaves {max(room, 0)} of a window of "
                f"{window} to the context, expected {least}; {advice}",
            )
        return room, overlap

    def _find_spans(self, windows: Sequence[Window]) -> list[WindowSpans | None]:
        ids = [self._ids(window) for window in windows]
        inputs = pack_ids(ids, self._tokenizer.pad_id, self._device)
        bounds = torch.tensor(
            [
                (len(w.head), len(w.head) + w.after - w.first, w.asked.params.max_answer_tokens)
                for w in windows
            ],
            device=self._device,
        )
        if self._segments:
            rows = [self._segment_ids(window) for window in windows]
            inputs["token_type_ids"] = pad_rows(rows, 0, self._device)[:, :-1]
        candidates = max(CANDIDATES, *(2 * w.asked.params.top_k for w in windows))
        with torch.inference_mode():
            found = self._model(**inputs)
            return find_spans(
                found.start_logits, found.end_logits, bounds, self._cls_at, candidates
            )

    def _segment_ids(self, window: Window) -> list[int]:
        template = self._template
        question = len(window.head) - len(template.head) - len(template.middle)
        return template.segment_ids(question, window.after - window.first)


def _read(record: Record, params: TaskParams) -> Asked:
    own = own_params(record, params, QuestionAnsweringParams, TASK)
    inputs = record.inputs
    question = inputs.get("question") if own.question is None else own.question
    context = inputs.get("context") if own.context is None else own.context
    return Asked(check_text("question", question), check_text("context", context), own)
