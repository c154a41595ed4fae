"""Translation by a model that writes text: each text whole, or its sentences one by one.

Such a model makes use of what is around a sentence, so a text is split only if the job asks for it
or the text is too long. Pieces are joined as the other models' are (see ``translation``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from textmill.core.jobs import Record
from textmill.core.languages import splitter_code
from textmill.core.params import TaskParams, TranslationParams
from textmill.workers.items import Item, Output
from textmill.workers.runners.decoding.requests import DecodeRequest, Generated
from textmill.workers.runners.generation import as_item
from textmill.workers.runners.lengths import refuse_long
from textmill.workers.runners.prompted import PromptedRunner
from textmill.workers.runners.sentences import (
    Span,
    cut_text,
    join_spans,
    split_sentences,
    whole_text,
)

GROWTH = 2  # tokens of a translation for each one of the text, if the job does not say how many


@dataclass(frozen=True, slots=True)
class Passage(DecodeRequest):
    """A prompt for a stretch of text, and the white space around that."""

    before: str = ""
    after: str = ""  # of the last one of a text
    cut: bool = False  # part of a sentence that was over the limit


class PromptedTranslation(PromptedRunner):
    """An item is a text, or where it is split a sentence or a piece of a long one."""

    TASK = "translation"

    def join(
        self, record: Record, items: Sequence[Item], raw: Sequence[Any], params: TaskParams
    ) -> Output:
        """The whole translation, and in ``detail`` what was split, cut or did not end."""
        passages: list[Passage] = [item.data for item in items]
        written: list[Generated] = list(raw)
        found = zip(passages, written, strict=True)
        parts = [(passage.before, one.text.strip()) for passage, one in found]
        detail: dict[str, Any] = {}
        if len(passages) > 1:
            detail["pieces"] = len(passages)
        if cut := sum(passage.cut for passage in passages):
            detail["cut_pieces"] = cut
        if any(one.finish_reason == "length" for one in written):
            detail["finish_reason"] = "length"
        return Output(
            output=join_spans(parts, passages[-1].after),
            detail=detail or None,
            input_tokens=sum(len(passage.ids) for passage in passages),
            output_tokens=sum(len(one.ids) for one in written),
        )

    def _items(self, record: Record, job_params: TaskParams) -> list[Item]:
        text, params = self._read(record, job_params, TranslationParams)
        spans, after = whole_text(text)
        too_long = params.on_long == "split" and not self._fits(text.strip(), params)
        if params.split == "sentences" or too_long:
            spans, after = split_sentences(text, splitter_code(params.source_lang))
        passages = [one for span in spans for one in self._passages(span, params)]
        passages[-1] = replace(passages[-1], after=after)
        return [as_item(passage) for passage in passages]

    def _passages(self, span: Span, params: TranslationParams) -> Iterator[Passage]:
        """The span's prompt; of one over the limit those of each piece of it."""
        if self._fits(span.text, params):
            yield self._passage(span, params)
            return
        if params.on_long == "error":
            raise self._refuse(span.text, params)
        before = span.before
        for piece in cut_text(span.text, lambda part: self._fits(part, params)):
            if not self._fits(piece.text, params):
                raise self._refuse(piece.text, params)
            yield self._passage(Span(before + piece.before, piece.text), params, cut=True)
            before = ""

    def _passage(self, span: Span, params: TranslationParams, *, cut: bool = False) -> Passage:
        return Passage(
            self._ask(span.text, params),
            self._room_for(span.text, params),
            eos_ids=self._eos_ids,
            before=span.before,
            cut=cut,
        )

    def _room_for(self, text: str, params: TranslationParams) -> int:
        """How many tokens the translation of a text may have."""
        new_tokens = self._new_tokens(params)
        if params.max_new_tokens is not None:
            return new_tokens
        return max(new_tokens, GROWTH * len(self._prompts.encode_bare(text)))

    def _fits(self, text: str, params: TranslationParams) -> bool:
        tokens = len(self._ask(text, params)) + self._room_for(text, params)
        return tokens <= self._limit(params)

    def _refuse(self, text: str, params: TranslationParams) -> Exception:
        room = self._limit(params) - self._room_for(text, params)
        return refuse_long(len(self._ask(text, params)), room)
