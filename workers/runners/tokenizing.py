"""Texts to token ids, from many threads at once, cut to what the model can read."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import transformers

from textmill.core.checkpoints import Checkpoint
from textmill.core.errors import ModelLoadError

Token = TypeVar("Token")

UNLIMITED = 1_000_000  # transformers' "no limit" is about 1e30


class TextTokenizer:
    """A tokenizer and its model's limit.

    Truncation is done here: turned on in the Rust tokenizer it would be state shared by all
    threads, and the number of tokens before the cut would be lost.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.source = tokenizer  # as transformers has it
        self._backend = tokenizer.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        self._cut_left = tokenizer.truncation_side == "left"
        sample = self._backend.encode("a")
        special = sample.special_tokens_mask
        body = special.index(0) if 0 in special else len(special)
        tail = special[::-1].index(0) if 0 in special else 0
        self._prefix: list[int] = sample.ids[:body]
        self._suffix: list[int] = sample.ids[len(special) - tail :]
        self.cls_id: int | None = tokenizer.cls_token_id
        self.has_segments = "token_type_ids" in tokenizer.model_input_names
        self.pad_id = tokenizer.pad_token_id
        self.limit = min(tokenizer.model_max_length, sys.maxsize)

    def fit(self, model: Any) -> TextTokenizer:
        """Take the model's own limit and padding into account."""
        self.limit = min(self.limit, position_limit(model))
        config = model.config.get_text_config()
        self.pad_id = _padding_id(config, self.pad_id)
        # Decoders that classify read the last token that is not this one.
        config.pad_token_id = self.pad_id
        return self

    @property
    def prefix_length(self) -> int:
        """How many special tokens stand before a text."""
        return len(self._prefix)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids with special tokens, uncut. Raises TypeError on a lone surrogate."""
        return [encoding.ids for encoding in self._backend.encode_batch_fast(list(texts))]

    def encode_bare(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids without special tokens, uncut."""
        encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def encode_places(self, texts: Sequence[str], *, special: bool = False) -> list[Any]:
        """Encodings of the tokenizers library, uncut: ids with their places in the text."""
        found: list[Any] = self._backend.encode_batch(list(texts), add_special_tokens=special)
        return found

    def encode_pair(self, first: str, second: str) -> Any:
        """Two texts as one input: the Encoding of the tokenizers library."""
        return self._backend.encode(first, second)

    def truncate(self, tokens: list[Token], limit: int) -> list[Token]:
        """Cut to ``limit`` tokens (ids, or their places), keeping the special ones."""
        first, last = len(self._prefix), len(tokens) - len(self._suffix)
        room = limit - len(self._prefix) - len(self._suffix)
        return tokens[:first] + self.cut_body(tokens[first:last], room) + tokens[last:]

    def cut_body(self, tokens: list[Token], room: int) -> list[Token]:
        """Cut tokens without special ones to what there is room for, at the tokenizer's side."""
        room = max(0, room)
        return tokens[max(0, len(tokens) - room) :] if self._cut_left else tokens[:room]


def load_tokenizer(checkpoint: Checkpoint, files: Mapping[str, Any]) -> TextTokenizer:
    """The checkpoint's own tokenizer; raises ModelLoadError if it has none.

    ``files`` are the arguments that say where (see ``files_for_transformers``).
    """
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(**files)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise ModelLoadError(
            f"model {checkpoint.name!r}: no tokenizer can be loaded from {checkpoint.folder} "
            f"(tokenizer.json or its vocabulary is missing or damaged): {reason}"
        ) from error
    if not tokenizer.is_fast:
        raise ModelLoadError(
            f"model {checkpoint.name!r}: its tokenizer {type(tokenizer).__name__} has no "
            "tokenizer.json, which this task needs"
        )
    if any(tokenizer.backend_tokenizer.encode("a").type_ids):
        raise ModelLoadError(
            f"model {checkpoint.name!r}: its tokenizer gives a single text segment ids other than "
            "0 (as XLNet's does), which this task does not support"
        )
    return TextTokenizer(tokenizer)


def _padding_id(config: Any, tokenizers_own: int | None) -> int:
    """The model's own padding where it has one: what it skips is not always the tokenizer's.

    Where neither has one it is an end token, which such a tokenizer does not add to texts.
    """
    ends = getattr(config, "eos_token_id", None)
    end = ends[0] if isinstance(ends, list) and ends else ends
    size = getattr(config, "vocab_size", None) or sys.maxsize
    candidates = (getattr(config, "pad_token_id", None), tokenizers_own, end)
    return next((i for i in candidates if isinstance(i, int) and 0 <= i < size), 0)


def position_limit(model: Any) -> int:
    """How many tokens the model has positions for.

    Roberta and its kin number positions from the padding id + 1 on, which their position table
    shows by having a padding row.
    """
    positions = getattr(model.config, "max_position_embeddings", None) or UNLIMITED
    if positions < 0:  # XLNet's way to say that there is no limit
        return UNLIMITED
    for name, module in model.named_modules():
        padding_row = getattr(module, "padding_idx", None)
        if name.endswith("position_embeddings") and padding_row is not None:
            positions -= padding_row + 1
    return int(positions)
