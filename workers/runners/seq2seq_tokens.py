"""Texts to token ids and back for encoder-decoder models, from many threads at once.

What a text is wrapped in depends on its language (``eng_Latn … </s>``). transformers keeps that as
state of the tokenizer, which threads would share; here it is asked once for each language.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import transformers

from textmill.core.checkpoints import Checkpoint
from textmill.core.errors import ModelLoadError
from textmill.core.model_languages import ModelLanguages, Telling, code_languages, read_languages
from textmill.workers.runners.files import files_for_transformers
from textmill.workers.runners.tokenizing import UNLIMITED, position_limit

ENCODER_LIMITS = ("n_positions", "max_encoder_position_embeddings")  # of T5; of LED
DEFAULT_LIMIT = 1024  # of models with relative positions, which name none
BODY = -1  # stands for a text's tokens

Wrapping = tuple[list[int], list[int]]  # ids before and after a text's own


class Seq2SeqTokenizer:
    """A tokenizer, what its model knows of languages, and how long an input may be."""

    def __init__(self, tokenizer: Any, checkpoint: Checkpoint) -> None:
        self._tokenizer = tokenizer
        self._marian = hasattr(tokenizer, "spm_source")
        if tokenizer.is_fast:
            backend = tokenizer.backend_tokenizer
            backend.no_truncation()
            backend.no_padding()
            # Texts are other people's: "</s>" in one is text, and does not end it.
            backend.encode_special_tokens = True
        self.pad_id: int = tokenizer.pad_token_id or 0
        self.limit = UNLIMITED
        self.languages = self._find_languages(checkpoint)
        self._plain = self._wrapping()
        self._wrappings = self._by_language()

    def fit(self, model: Any) -> Seq2SeqTokenizer:
        """Take the model's own limit into account."""
        config = model.config
        named = [getattr(config, name, None) or UNLIMITED for name in ENCODER_LIMITS]
        limit = min(self._tokenizer.model_max_length, position_limit(model), *named)
        self.limit = int(limit) if limit < UNLIMITED else UNLIMITED
        return self

    def input_limit(self, asked: int | None) -> int:
        """How many tokens an input may have, those around the text included."""
        if self.limit >= UNLIMITED:
            return asked or DEFAULT_LIMIT
        return min(self.limit, asked or self.limit)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text alone, uncut, nothing around them."""
        if self._tokenizer.is_fast:
            backend = self._tokenizer.backend_tokenizer
            encoded = backend.encode_batch_fast(list(texts), add_special_tokens=False)
            return [one.ids for one in encoded]
        return [self._encode_slowly(text) for text in texts]

    def wrapping(self, source: str | None) -> Wrapping:
        """What is put before and after a text of this language."""
        return self._wrappings.get(source, self._plain) if source else self._plain

    def token_id(self, code: str) -> int:
        """The token of a language, by the model's own code."""
        if hasattr(self._tokenizer, "get_lang_id"):
            return int(self._tokenizer.get_lang_id(code))
        return int(self._tokenizer.convert_tokens_to_ids(code))

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """The tokens by name."""
        found: list[str] = self._tokenizer.convert_ids_to_tokens(list(ids))
        return found

    def ids(self, tokens: Sequence[str]) -> list[int]:
        """The ids of tokens by name."""
        found: list[int] = self._tokenizer.convert_tokens_to_ids(list(tokens))
        return found

    def decode(self, ids: Sequence[int]) -> str:
        """The text that these tokens are, special ones left out."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    @property
    def transformers_tokenizer(self) -> Any:
        """What transformers loaded."""
        return self._tokenizer

    def _encode_slowly(self, text: str) -> list[int]:
        tokenizer = self._tokenizer
        if not self._marian:
            pieces = tokenizer.tokenize(text, split_special_tokens=True)
            return list(tokenizer.convert_tokens_to_ids(pieces))
        # transformers would take ">> words <<" at the start for the name of a language.
        vocabulary, unknown = tokenizer.encoder, tokenizer.encoder[tokenizer.unk_token]
        pieces = tokenizer.spm_source.encode(text, out_type=str)
        return [vocabulary.get(piece, unknown) for piece in pieces]

    def _find_languages(self, checkpoint: Checkpoint) -> ModelLanguages:
        found = read_languages(checkpoint.name, checkpoint.folder, checkpoint.config)
        if found.telling != Telling.CODES or found.sources:
            return found
        tokens = [
            *self._tokenizer.get_added_vocab(),
            *getattr(self._tokenizer, "lang_token_to_id", ()),
        ]
        found = code_languages(checkpoint.name, tokens)
        if not found.sources:
            return ModelLanguages(checkpoint.name, Telling.UNKNOWN)
        return found

    def _wrapping(self) -> Wrapping:
        if self._tokenizer.is_fast:
            sample = self._tokenizer.backend_tokenizer.encode("a")
            mask, ids = sample.special_tokens_mask, list(sample.ids)
            first = mask.index(0) if 0 in mask else len(mask)
            last = len(mask) - mask[::-1].index(0) if 0 in mask else len(mask)
            return ids[:first], ids[last:]
        ids = list(self._tokenizer.build_inputs_with_special_tokens([BODY]))
        return ids[: ids.index(BODY)], ids[ids.index(BODY) + 1 :]

    def _by_language(self) -> dict[str, Wrapping]:
        if self.languages.telling != Telling.CODES:
            return {}
        found = {}
        for code in self.languages.sources:
            self._tokenizer.src_lang = code
            found[code] = list(self._tokenizer.prefix_tokens), list(self._tokenizer.suffix_tokens)
        return found


def load_seq2seq_tokenizer(checkpoint: Checkpoint) -> Seq2SeqTokenizer:
    """The checkpoint's own tokenizer; raises ModelLoadError if it has none."""
    try:
        with warnings.catch_warnings():
            # Marian's recommends a package that transformers 5 no longer calls.
            warnings.simplefilter("ignore", UserWarning)
            with files_for_transformers(checkpoint) as files:
                tokenizer = transformers.AutoTokenizer.from_pretrained(**files)
        return Seq2SeqTokenizer(tokenizer, checkpoint)
    except ModelLoadError:
        raise
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise ModelLoadError(
            f"model {checkpoint.name!r}: no tokenizer can be loaded from {checkpoint.folder} "
            f"(tokenizer.json, or a .spm file and its vocabulary, is missing or damaged): {reason}"
        ) from error
