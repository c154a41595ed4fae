"""Translation: each text in another language, sentence by sentence.

A record's items are its sentences, because the models were trained on sentences; the white space
between them is kept. A sentence over the model's limit is cut at words, and the row says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from textmill.core.errors import InvalidJobError, RecordError
from textmill.core.jobs import Record
from textmill.core.languages import splitter_code
from textmill.core.model_languages import Direction, Telling
from textmill.core.params import TaskParams, TranslationParams
from textmill.workers.items import Item, Output, equal_key
from textmill.workers.runners.lengths import refuse_long
from textmill.workers.runners.records import read_each, read_texts, sound
from textmill.workers.runners.sentences import (
    Span,
    cut_text,
    join_spans,
    split_sentences,
    whole_text,
)
from textmill.workers.runners.seq2seq import Seq2SeqRunner, Writing, all_written

TASK = "translation"


@dataclass(frozen=True, slots=True)
class Piece:
    """One stretch of a text as the model reads it, and the white space around it."""

    ids: list[int]
    before: str
    after: str  # of the last piece of a text
    cut: bool  # part of a sentence that was over the limit


@dataclass(frozen=True, slots=True)
class Text:
    """One record's text in sentences, and how it is to be translated."""

    spans: list[Span]
    after: str
    direction: Direction
    params: TranslationParams


class TranslationRunner(Seq2SeqRunner):
    """One loaded model on one device. An item is a sentence, or a piece of a long one."""

    def prepare(
        self, records: Sequence[Record], params: TaskParams
    ) -> list[list[Item] | RecordError]:
        """The pieces of each record, or why it has none. Equal sentences are tokenized once."""
        found = read_texts(records, params, TranslationParams, TASK)
        texts = read_each(found, lambda one: self._split(*one))
        ids = self._encode_all(sound(texts))
        return read_each(texts, lambda text: self._items(text, ids))

    def join(
        self, record: Record, items: Sequence[Item], raw: Sequence[Any], params: TaskParams
    ) -> Output:
        """The whole translation, and in ``detail`` what was split, cut or did not end.

        Raises RecordError("not_finite").
        """
        pieces: list[Piece] = [item.data for item in items]
        written = all_written(raw)
        texts = [self._tokenizer.decode(one.ids) for one in written]
        parts = [(piece.before, text) for piece, text in zip(pieces, texts, strict=True)]
        detail: dict[str, Any] = {}
        if len(pieces) > 1:
            detail["pieces"] = len(pieces)
        if cut := sum(piece.cut for piece in pieces):
            detail["cut_pieces"] = cut
        if not all(one.ended for one in written):
            detail["finish_reason"] = "length"
        return Output(
            output=join_spans(parts, pieces[-1].after),
            detail=detail or None,
            input_tokens=sum(item.length for item in items),
            output_tokens=sum(len(one.ids) for one in written),
        )

    def _split(self, text: str, params: TranslationParams) -> Text:
        """The sentences; raises RecordError for an empty text or a language nobody knows."""
        try:
            direction = self._tokenizer.languages.resolve(
                params.source_lang, params.target_lang, params.prefix
            )
        except InvalidJobError as error:
            raise RecordError("invalid_params", str(error)) from None
        if not text.strip():
            raise RecordError("empty_text", "the text is empty, or nothing but white space")
        spans, after = whole_text(text)
        limit = self._room(direction, params)
        by_sentences = params.split != "long"
        if by_sentences or len(self._encode(direction, text)) > limit:
            language = direction.source or params.source_lang
            if by_sentences or params.on_long == "split":
                spans, after = split_sentences(text, splitter_code(language))
        return Text(spans, after, direction, params)

    def _encode_all(self, texts: Sequence[Text]) -> dict[str, list[int]]:
        """The ids of every sentence with its prefix."""
        dressed = [text.direction.prefix + span.text for text in texts for span in text.spans]
        unique = list(dict.fromkeys(dressed))
        return dict(zip(unique, self._tokenizer.encode(unique), strict=True))

    def _encode(self, direction: Direction, text: str) -> list[int]:
        return self._tokenizer.encode([direction.prefix + text])[0]

    def _items(self, text: Text, encoded: dict[str, list[int]]) -> list[Item]:
        """The record's items; raises RecordError("text_too_long") or ("empty_text")."""
        writing = self._group(text)
        head, tail = self._around(text.direction)
        # Characters that a tokenizer drops are no words; they stay as what lies between.
        found: list[Piece] = []
        waiting = ""
        for span in text.spans:
            before = waiting + span.before
            waiting = ""
            for piece in self._pieces(text, span, encoded):
                if piece.ids:
                    found.append(
                        Piece([*head, *piece.ids, *tail], before + piece.before, "", piece.cut)
                    )
                    before = ""
            waiting = before
        if not found:
            raise RecordError("empty_text", "the text has no tokens")
        last = found[-1]
        found[-1] = Piece(last.ids, last.before, waiting + text.after, last.cut)
        return [
            Item(len(piece.ids), piece, writing, equal_key(piece.ids, writing)) for piece in found
        ]

    def _pieces(self, text: Text, span: Span, encoded: dict[str, list[int]]) -> Iterator[Piece]:
        """The span's tokens; of one over the limit those of each piece of it."""
        direction, params = text.direction, text.params
        ids = encoded[direction.prefix + span.text]
        room = self._room(direction, params)
        if len(ids) <= room:
            yield Piece(ids, "", "", cut=False)
            return
        if params.on_long == "error":
            raise refuse_long(len(ids), room)
        pieces = cut_text(span.text, lambda part: len(self._encode(direction, part)) <= room)
        for part in pieces:
            ids = self._encode(direction, part.text)
            if len(ids) > room:
                raise refuse_long(len(ids), room)
            yield Piece(ids, part.before, "", cut=True)

    def _room(self, direction: Direction, params: TranslationParams) -> int:
        head, tail = self._around(direction)
        return self._tokenizer.input_limit(params.max_length) - len(head) - len(tail)

    def _around(self, direction: Direction) -> tuple[list[int], list[int]]:
        """The tokens before and after each text."""
        head, tail = self._tokenizer.wrapping(direction.source)
        if self._tokenizer.languages.telling == Telling.TARGET_TOKEN and direction.target:
            head = [self._tokenizer.token_id(direction.target), *head]
        return head, tail

    def _group(self, text: Text) -> Writing:
        target = None
        if self._tokenizer.languages.telling == Telling.CODES and text.direction.target:
            target = self._tokenizer.token_id(text.direction.target)
        return self._writing(text.params, forced_bos_token_id=target)
