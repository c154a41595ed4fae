"""Tiny random models, made in the test: two layers, twenty words, no download."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

WORDS = ["the", "a", "good", "bad", "free", "win", "now", "call", "me", "you", "spam", "ham"]
WORDS += ["text", "of", "and", "."]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
LIMIT = 32


def save_tokenizer(folder: Path, **settings: Any) -> None:
    vocabulary = {word: index for index, word in enumerate(SPECIAL + WORDS)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    # Published tokenizers carry the padding and truncation they were trained with.
    tokenizer.enable_padding(pad_id=0, pad_token="[PAD]", length=12)
    tokenizer.enable_truncation(8)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        **{"model_max_length": 512, **settings},
    ).save_pretrained(folder)


def save_model(folder: Path, kind: str = "BertForSequenceClassification", **config: Any) -> Path:
    """A random model of two layers, with its tokenizer."""
    torch.manual_seed(7)
    settings = transformers.BertConfig(
        vocab_size=len(SPECIAL + WORDS),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=LIMIT,
        initializer_range=0.7,
        **config,
    )
    getattr(transformers, kind)(settings).save_pretrained(folder)
    save_tokenizer(folder)
    return folder
