"""A task in one file: which parts of a text are names of persons, places and the like.

``TEXTMILL_PLUGINS=token_classification`` adds it, wherever Python finds this file. It is imported
by producers too, which may have no torch: so only methods that meet a model import that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import Field

from textmill.core.errors import RecordError
from textmill.core.jobs import Record
from textmill.core.params import TaskParams, TextParams
from textmill.core.tasks import Task, register
from textmill.workers.items import Item, ModelRequest, Output
from textmill.workers.runners.base import ModelRunner
from textmill.workers.runners.lengths import Encoded, fit_ids, truncation_mark
from textmill.workers.runners.records import read_each, read_texts, sound

TASK = "token-classification"


class TokenClassificationParams(TextParams):
    """Options of ``token-classification``."""

    min_score: float = Field(default=0, ge=0, le=1, description="leave out entities below this")


class TokenClassificationRunner(ModelRunner):
    """One loaded tagger on one device. An item is a whole text."""

    def __init__(self, loaded: Any) -> None:
        super().__init__(loaded)
        self._names: dict[int, str] = loaded.model.config.id2label

    @classmethod
    def load(cls, request: ModelRequest) -> TokenClassificationRunner:
        """Load a tagger; raises ModelLoadError that says what was found and expected."""
        import transformers

        from textmill.workers.runners import loading

        auto_class = transformers.AutoModelForTokenClassification
        return cls(loading.load_model(request, auto_class, outcome="tags"))

    def prepare(
        self, records: Sequence[Record], params: TaskParams
    ) -> list[list[Item] | RecordError]:
        """One item per record, or why it has none."""
        read = read_texts(records, params, TokenClassificationParams, TASK)
        texts = [text for text, _ in sound(read)]
        encodings = iter(self._tokenizer.encode_places(texts, special=True))
        return read_each(read, lambda found: [self._item(next(encodings), found[1])])

    def forward(self, items: Sequence[Item]) -> list[list[tuple[int, float]]]:
        """The likeliest tag of each token of each item, and its probability."""
        import torch

        from textmill.workers.runners import devices
        from textmill.workers.runners.padding import pack_ids

        def tag() -> list[list[tuple[int, float]]]:
            ids = [item.data[0].ids for item in items]
            with torch.inference_mode():
                inputs = pack_ids(ids, self._tokenizer.pad_id, self._device)
                best = self._model(**inputs).logits.float().softmax(dim=2).max(dim=2)
            rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
            return [list(zip(tags, scores, strict=True)) for tags, scores in rows]

        return devices.run_on_device(self._device, tag)

    def join(
        self, record: Record, items: Sequence[Item], raw: Sequence[Any], params: TaskParams
    ) -> Output:
        """The record's entities, in the order of the text."""
        encoded, places = items[0].data
        text = record.inputs["text"]
        entities = [
            {"entity": kind, "score": round(score, 6), "start": start, "end": end}
            | {"text": text[start:end]}
            for kind, score, start, end in self._entities(raw[0], places)
            if score >= encoded.params.min_score
        ]
        kinds = Counter(entity["entity"] for entity in entities)
        return Output(
            label=max(kinds, key=kinds.__getitem__) if kinds else None,
            labels=list(kinds),
            detail={"entities": entities} | truncation_mark(len(encoded.ids), encoded.tokens),
            input_tokens=len(encoded.ids),
        )

    def warm_up(self) -> None:
        """One small batch of made-up tokens."""
        ids = [self._tokenizer.pad_id] * 8
        self.forward([Item(8, (Encoded(ids, 8, TokenClassificationParams()), []))] * 4)

    def _item(self, encoding: Any, params: TokenClassificationParams) -> Item:
        encoded = fit_ids(encoding.ids, self._tokenizer, params)
        special = zip(encoding.offsets, encoding.special_tokens_mask, strict=True)
        places = [None if mask else place for place, mask in special]
        if len(encoded.ids) < len(places):
            places = self._tokenizer.truncate(places, len(encoded.ids))
        return Item(len(encoded.ids), (encoded, places))

    def _entities(
        self, tags: Sequence[tuple[int, float]], places: Sequence[tuple[int, int] | None]
    ) -> Iterator[tuple[str, float, int, int]]:
        """Neighbouring tokens of one kind, B- beginning a new one: kind, mean score, start, end.

        As aggregation_strategy="simple" of transformers' pipeline.
        """
        kind, scores, first, last = "O", [0.0], 0, 0
        for (tag, score), place in zip(tags, places, strict=False):
            if place is None:
                continue
            name = self._names[tag]
            begins, found = name.startswith("B-"), name.removeprefix("B-").removeprefix("I-")
            if found == kind and not begins:
                scores.append(score)
            else:
                if kind != "O":
                    yield kind, sum(scores) / len(scores), first, last
                kind, scores, first = found, [score], place[0]
            last = place[1]
        if kind != "O":
            yield kind, sum(scores) / len(scores), first, last


register(
    Task(
        name=TASK,
        description="the parts of a text that name something, and what they name",
        params=TokenClassificationParams,
        runner=f"{__name__}:TokenClassificationRunner",
        architecture="ForTokenClassification",
    )
)
