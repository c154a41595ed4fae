"""Embeddings: one vector for each text, the model's token vectors pooled to one.

Wraps ``AutoModel``. Does what sentence-transformers does with the same folder: its pooling, its
prompt, its length limit (see ``textmill.core.sentences``). Vectors are float32, little endian.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import transformers

from textmill.core.errors import RecordError
from textmill.core.jobs import Record
from textmill.core.params import EmbeddingsParams, TaskParams
from textmill.core.sentences import SentenceDefaults, check_embedder, read_defaults
from textmill.workers.items import Item, ModelRequest, Output, equal_key
from textmill.workers.runners import devices, loading
from textmill.workers.runners.base import ModelRunner
from textmill.workers.runners.lengths import Encoded, fit_ids, truncation_mark
from textmill.workers.runners.loading import Loaded
from textmill.workers.runners.padding import pack_ids
from textmill.workers.runners.records import read_each, read_texts, sound

SMALLEST_LENGTH = 1e-12  # as torch.nn.functional.normalize, so that a vector of zeros stays one


class EmbeddingsRunner(ModelRunner):
    """One loaded model on one device. An item is a whole text; a batch has one kind of pooling."""

    def __init__(self, loaded: Loaded, defaults: SentenceDefaults) -> None:
        super().__init__(loaded)
        tokenizer = loaded.tokenizer
        self._defaults = defaults
        self._width = int(loaded.model.config.get_text_config().hidden_size)
        tokenizer.limit = min(tokenizer.limit, defaults.max_tokens or tokenizer.limit)

    @classmethod
    def load(cls, request: ModelRequest) -> EmbeddingsRunner:
        """Load a model; raises ModelLoadError that says what was found and expected."""
        # Models of other heads are saved without the pooler, which nothing here reads.
        loaded = loading.load_model(
            request, transformers.AutoModel, outcome="vectors", unused="pooler"
        )
        checkpoint = loaded.checkpoint
        check_embedder(checkpoint.name, checkpoint.folder, checkpoint.config, None)
        defaults = read_defaults(checkpoint.name, checkpoint.folder)
        loaded.model.config.use_cache = False  # a decoder would keep what only generation reads
        return cls(loaded, defaults)

    def prepare(
        self, records: Sequence[Record], params: TaskParams
    ) -> list[list[Item] | RecordError]:
        """One item per record, or why it has none."""
        read = read_texts(records, params, EmbeddingsParams, "embeddings")
        ids = iter(self._tokenizer.encode([self._dress(*found) for found in sound(read)]))
        return read_each(read, lambda found: [self._item(next(ids), found[1])])

    def forward(self, items: Sequence[Item]) -> list[np.ndarray]:
        """Each item's pooled vector, float32, neither cut nor normalized yet."""
        ids = [item.data.ids for item in items]
        pooling = str(items[0].group)
        return list(devices.run_on_device(self._device, lambda: self._vectors(ids, pooling)))

    def join(
        self, record: Record, items: Sequence[Item], raw: Sequence[Any], params: TaskParams
    ) -> Output:
        """The record's vector; raises RecordError("not_finite")."""
        encoded = items[0].data
        vector = self._finish(raw[0], encoded.params)
        read = len(encoded.ids)
        detail = truncation_mark(read, encoded.tokens) or None
        return Output(vector=vector.astype("<f4").tobytes(), detail=detail, input_tokens=read)

    def warm_up(self) -> None:
        """One small batch of made-up tokens."""
        encoded = Encoded([self._tokenizer.pad_id] * 8, 8, EmbeddingsParams())
        self.forward([Item(8, encoded, self._defaults.pooling)] * 4)

    def _dress(self, text: str, params: EmbeddingsParams) -> str:
        """The text as sentence-transformers hands it to the tokenizer."""
        prefix = self._defaults.prefix if params.prefix is None else params.prefix
        text = (prefix + text).strip()
        return text.lower() if self._defaults.lower_case else text

    def _item(self, ids: list[int], params: EmbeddingsParams) -> Item:
        if params.dimensions is not None and params.dimensions > self._width:
            message = f"dimensions is {params.dimensions}, the model's vectors have {self._width}"
            raise RecordError("invalid_params", message)
        encoded = fit_ids(ids, self._tokenizer, params)
        pooling = self._defaults.pooling if params.pooling == "auto" else params.pooling
        return Item(len(encoded.ids), encoded, pooling, equal_key(encoded.ids, pooling))

    def _vectors(self, ids: list[list[int]], pooling: str) -> np.ndarray:
        inputs = pack_ids(ids, self._tokenizer.pad_id, self._device)
        with torch.inference_mode():
            hidden = self._model(**inputs).last_hidden_state
            pooled = pool_tokens(hidden, inputs["attention_mask"], pooling)
        return pooled.cpu().numpy()

    def _finish(self, vector: np.ndarray, params: EmbeddingsParams) -> np.ndarray:
        """Cut first, so that a Matryoshka vector has length 1 again."""
        if not np.isfinite(vector).all():
            raise RecordError("not_finite", "the model's vector has numbers that are not finite")
        vector = vector[: params.dimensions]
        normalize = self._defaults.normalize if params.normalize is None else params.normalize
        if normalize:
            vector = vector / max(float(np.linalg.norm(vector)), SMALLEST_LENGTH)
        return vector


def pool_tokens(hidden: torch.Tensor, mask: torch.Tensor, pooling: str) -> torch.Tensor:
    """(rows, tokens, width) and its mask to (rows, width), in fp32; rows are padded on the right.

    As sentence-transformers' Pooling: https://sbert.net/docs/package_reference/sentence_transformer/models.html
    """
    if pooling == "cls":
        return hidden[:, 0].float()
    counts = mask.sum(dim=1)
    if pooling == "last":
        return hidden[torch.arange(len(hidden), device=hidden.device), counts - 1].float()
    weights = mask.unsqueeze(-1).float()
    return (hidden.float() * weights).sum(dim=1) / counts.unsqueeze(-1)
