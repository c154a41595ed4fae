"""Tiny random generative models, made in the test: two layers, a vocabulary of pieces of words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

SPECIAL = ["<pad>", "<|im_start|>", "<|im_end|>"]
CONTEXT = 128
CORPUS = [
    "the quick brown fox jumps over the lazy dog, and the dog says: good morning!",
    "a good text is a short text; a bad one goes on and on and on without an end.",
    "how are you today? I am fine, thank you. what is the capital of this country?",
    "0123456789 ABCDEFGHIJKLMNOPQRSTUVWXYZ system user assistant {}[]()<>|\"'*/+-=_#@%&$\n",
]
CHAT_TEMPLATE = """{%- for message in messages -%}
{%- if loop.index0 and message.role == messages[loop.index0 - 1].role -%}
{{ raise_exception('roles must alternate') }}
{%- endif -%}
<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant
{% endif -%}"""


def make_tokenizer(
    *, every_byte: bool = False, **settings: Any
) -> transformers.PreTrainedTokenizerFast:
    """Byte-level BPE whose every token is ASCII, so that random ids decode to readable text.

    With ``every_byte`` it can write every text, as real ones can.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420 if every_byte else 260,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if every_byte else [],
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<|im_end|>", **settings
    )


def make_piece_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """As Llama's of SentencePiece: spaces are a character of their own, unknown ones bytes."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    special = ["<pad>", "<unk>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=160, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    parts = json.loads(tokenizer.to_str())
    vocabulary = parts["model"]["vocab"]
    for byte in range(256):  # no special tokens: the trainer knows no other way to add them
        vocabulary[f"<0x{byte:02X}>"] = len(vocabulary)
    tokenizer = Tokenizer.from_str(json.dumps(parts))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="</s>"
    )


def save_generator(
    folder: Path,
    *,
    chat: bool = True,
    eos: int | list[int] = 2,
    every_byte: bool = False,
    context: int = CONTEXT,
    tokenizer: transformers.PreTrainedTokenizerFast | None = None,
    spare_rows: int = 0,
) -> Path:
    """A random Llama of two layers, with its tokenizer and, if wanted, a chat template.

    ``spare_rows`` are rows of its embedding that belong to no token.
    """
    template = {"chat_template": CHAT_TEMPLATE} if chat else {}
    tokenizer = tokenizer or make_tokenizer(every_byte=every_byte, **template)
    torch.manual_seed(7)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer) + spare_rows,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        max_position_embeddings=context,
        initializer_range=0.6,
        bos_token_id=1,
        eos_token_id=eos,
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
