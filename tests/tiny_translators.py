"""Tiny random encoder-decoder models of each family, with tokenizers made here: no download."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import sentencepiece
import torch
import transformers

WORDS = [
    "the",
    "red",
    "team",
    "won",
    "game",
    "in",
    "Paris",
    "and",
    "you",
    "blue",
    "who",
    "where",
    "free",
    "bad",
    "good",
    "me",
    "call",
    "now",
]
SIZES = {
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": 64,
    "init_std": 0.6,
}
LETTERS = SIZES | {"max_position_embeddings": 128}  # where each letter is a token
SENTENCES = [f"{' '.join(WORDS[n % 7 :: 2 + n % 5])}{'.?!'[n % 3]}".capitalize() for n in range(60)]
SEED = 5


def save_marian(
    folder: Path, *codes: str, pair: tuple[str, str] = ("en", "fr"), **more: Any
) -> Path:
    """Of one pair, or with codes (``>>fra<<``) of several targets."""
    pieces = _train(folder / "source.spm")
    (folder / "target.spm").write_bytes((folder / "source.spm").read_bytes())
    vocabulary = ["</s>", "<unk>", *(p for p in pieces if p[0] != "<"), *codes, "<pad>"]
    _write_vocabulary(folder / "vocab.json", vocabulary)
    settings = {"source_lang": pair[0], "target_lang": pair[1], "model_max_length": 64}
    settings |= {"tokenizer_class": "MarianTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    pad = len(vocabulary) - 1
    special = {"eos_token_id": 0, "pad_token_id": pad, "decoder_start_token_id": pad}
    return _save(
        folder,
        transformers.MarianMTModel,
        transformers.MarianConfig(vocab_size=len(vocabulary), **special, **(SIZES | more)),
        bad_words_ids=[[pad]],
        forced_eos_token_id=0,
        max_length=24,
    )


def save_m2m100(folder: Path) -> Path:
    """Codes such as fr, which its tokenizer writes ``__fr__``."""
    pieces = _train(folder / "sentencepiece.bpe.model")
    vocabulary = ["<s>", "<pad>", "</s>", "<unk>", *(p for p in pieces if p[0] != "<")]
    _write_vocabulary(folder / "vocab.json", vocabulary)
    tokenizer = transformers.M2M100Tokenizer(
        folder / "vocab.json", folder / "sentencepiece.bpe.model", num_madeup_words=0
    )
    tokenizer.save_pretrained(folder)
    config = _m2m_config(len(vocabulary) + 100)  # its tokenizer adds a hundred languages
    return _save(folder, transformers.M2M100ForConditionalGeneration, config, max_length=24)


def save_nllb(folder: Path) -> Path:
    """Codes such as fra_Latn."""
    vocabulary = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}
    for piece in ["▁", *_letters()]:
        vocabulary[piece] = len(vocabulary)
    codes = ["eng_Latn", "fra_Latn", "zho_Hans", "zho_Hant", "ell_Grek"]
    tokenizer = transformers.NllbTokenizer(
        vocab=vocabulary, merges=[], extra_special_tokens=codes, model_max_length=128
    )
    tokenizer.save_pretrained(folder)
    return _save(
        folder,
        transformers.M2M100ForConditionalGeneration,
        _m2m_config(len(tokenizer)),
        max_length=24,
    )


def save_mbart(folder: Path) -> Path:
    """Codes such as fr_XX."""
    vocabulary = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocabulary += [(piece, -2.0) for piece in ["▁", *_letters()]]
    tokenizer = transformers.MBartTokenizer(vocab=vocabulary, model_max_length=128)
    tokenizer.save_pretrained(folder)
    special = {"decoder_start_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "bos_token_id": 0}
    config = transformers.MBartConfig(vocab_size=len(tokenizer), **special, **LETTERS)
    return _save(folder, transformers.MBartForConditionalGeneration, config, max_length=20)


def save_t5(folder: Path, **config: Any) -> Path:
    """Told the languages by words before the text."""
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocabulary += [(piece, -2.0) for piece in ["▁", *_letters()]]
    tokenizer = transformers.T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=128)
    tokenizer.save_pretrained(folder)
    settings = transformers.T5Config(
        vocab_size=len(tokenizer),
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        initializer_factor=3.0,
        decoder_start_token_id=0,
        **config,
    )
    return _save(folder, transformers.T5ForConditionalGeneration, settings, max_length=24)


def save_bart(folder: Path) -> Path:
    """Knows nothing of languages; its outputs have four tokens at least."""
    save_t5(folder)  # for its tokenizer
    vocabulary = len(transformers.AutoTokenizer.from_pretrained(folder))
    special = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2, "decoder_start_token_id": 2}
    config = transformers.BartConfig(vocab_size=vocabulary, **special, **LETTERS)
    return _save(
        folder,
        transformers.BartForConditionalGeneration,
        config,
        min_length=4,
        max_length=18,
    )


def _m2m_config(vocabulary: int) -> Any:
    special = {"decoder_start_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "bos_token_id": 0}
    return transformers.M2M100Config(vocab_size=vocabulary, **special, **LETTERS)


def _save(folder: Path, model_class: Any, config: Any, **generation: Any) -> Path:
    torch.manual_seed(SEED)
    model = model_class(config)
    # A random model repeats one word for ever; this way it writes several, and outputs end.
    # (They start with another token than the one that ends them: that one would be a repetition.)
    model.generation_config.no_repeat_ngram_size = 1
    for name, value in generation.items():
        setattr(model.generation_config, name, value)
    model.save_pretrained(folder)
    return folder


def _train(path: Path) -> list[str]:
    """A sentencepiece model of the sentences; returns its pieces."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_prefix=str(path.with_suffix("")),
        vocab_size=48,
        model_type="bpe",
        minloglevel=2,
    )
    made = path.with_suffix(".model")
    if made != path:
        made.rename(path)
    path.with_suffix(".vocab").unlink(missing_ok=True)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
    return [processor.id_to_piece(n) for n in range(processor.get_piece_size())]


def _write_vocabulary(path: Path, tokens: list[str]) -> None:
    path.write_text(json.dumps({token: n for n, token in enumerate(tokens)}))


def _letters() -> list[str]:
    return sorted(
        set("".join([*SENTENCES, "translate English to French: summarize:", "éà"])) - {" "}
    )
