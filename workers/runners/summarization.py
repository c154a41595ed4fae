"""Summarization by an encoder-decoder model: BART, Pegasus, T5 and their kin.

An item is a whole text. What the model's own config says of the task (T5's prefix and beams) counts
as its settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from textmill.core.errors import RecordError
from textmill.core.jobs import Record
from textmill.core.params import SummarizationParams, TaskParams
from textmill.workers.items import Item, Output, equal_key
from textmill.workers.runners.lengths import refuse_long, truncation_mark
from textmill.workers.runners.records import read_each, read_texts, sound
from textmill.workers.runners.seq2seq import Seq2SeqModel, Seq2SeqRunner, all_written

TASK = "summarization"
OWN_SETTINGS = (
    "early_stopping",
    "length_penalty",
    "max_length",
    "min_length",
    "no_repeat_ngram_size",
    "num_beams",
)


@dataclass(frozen=True, slots=True)
class Document:
    """A text as the model reads it."""

    ids: list[int]
    tokens: int  # before truncation


class SummarizationRunner(Seq2SeqRunner):
    """One loaded model on one device. An item is a whole text."""

    def __init__(self, loaded: Seq2SeqModel) -> None:
        super().__init__(loaded)
        tasks = loaded.checkpoint.config.get("task_specific_params")
        own = tasks.get(TASK) if isinstance(tasks, dict) else None
        own = own if isinstance(own, dict) else {}
        self._prefix = str(own.get("prefix") or "")
        for name in OWN_SETTINGS:
            if own.get(name) is not None:
                setattr(self._settings, name, own[name])
        if own.get("max_length") is not None:
            self._settings.max_new_tokens = None

    def prepare(
        self, records: Sequence[Record], params: TaskParams
    ) -> list[list[Item] | RecordError]:
        """One item per record, or why it has none."""
        read = read_texts(records, params, SummarizationParams, TASK)
        ids = iter(self._tokenizer.encode([self._dress(*found) for found in sound(read)]))
        return read_each(read, lambda found: [self._item(next(ids), *found)])

    def join(
        self, record: Record, items: Sequence[Item], raw: Sequence[Any], params: TaskParams
    ) -> Output:
        """The summary, and in ``detail`` what was cut or did not end.

        Raises RecordError("not_finite").
        """
        document: Document = items[0].data
        (written,) = all_written(raw)
        detail = truncation_mark(len(document.ids), document.tokens)
        if not written.ended:
            detail["finish_reason"] = "length"
        return Output(
            output=self._tokenizer.decode(written.ids),
            detail=detail or None,
            input_tokens=len(document.ids),
            output_tokens=len(written.ids),
        )

    def _dress(self, text: str, params: SummarizationParams) -> str:
        return (self._prefix if params.prefix is None else params.prefix) + text

    def _item(self, ids: list[int], text: str, params: SummarizationParams) -> Item:
        """Raises RecordError for a text that is empty, or over the limit where that is an error."""
        if not text.strip():
            raise RecordError("empty_text", "the text is empty, or nothing but white space")
        head, tail = self._tokenizer.wrapping(None)
        limit = self._tokenizer.input_limit(params.max_length)
        room, tokens = limit - len(head) - len(tail), len(ids) + len(head) + len(tail)
        if tokens > limit and params.on_long == "error":
            raise refuse_long(tokens, limit)
        document = Document([*head, *ids[:room], *tail], tokens)
        writing = self._writing(params, min_new_tokens=params.min_new_tokens)
        key = equal_key(document.ids, writing)
        return Item(len(document.ids), document, writing, key)
