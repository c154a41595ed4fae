"""A tiny random Llama as a GGUF file, made in the test with the package ``gguf``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np

LAYERS, WIDTH, HEADS, INNER, CONTEXT = 2, 32, 4, 64, 64
TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
# Bytes as GPT-2 writes them, so that every text has tokens.
LETTERS = [chr(code) for code in range(33, 127)] + ["Ġ", "Ċ"]
TOKENS = ["<s>", "</s>", *LETTERS, "th", "the"]
MERGES = ["t h", "th e"]


def save_gguf(path: Path, *, architecture: str = "llama", **metadata: Any) -> Path:
    """Two layers in Q8_0; ``metadata`` adds or replaces numbers and texts (None: leaves out)."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in _metadata(architecture, metadata).items():
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        else:
            writer.add_uint32(key, value)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_merges(MERGES)
    for name, shape in _shapes().items():
        _add_tensor(writer, name, shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _metadata(architecture: str, changes: dict[str, Any]) -> dict[str, Any]:
    found = {
        "general.name": "tiny",
        f"{architecture}.context_length": CONTEXT,
        f"{architecture}.embedding_length": WIDTH,
        f"{architecture}.block_count": LAYERS,
        f"{architecture}.feed_forward_length": INNER,
        f"{architecture}.attention.head_count": HEADS,
        f"{architecture}.attention.head_count_kv": HEADS,
        f"{architecture}.rope.dimension_count": WIDTH // HEADS,
        f"{architecture}.rope.freq_base": 10000.0,
        f"{architecture}.attention.layer_norm_rms_epsilon": 1e-5,
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.padding_token_id": 1,
        "tokenizer.chat_template": TEMPLATE,
    } | {key.replace("__", "."): value for key, value in changes.items()}
    return {key: value for key, value in found.items() if value is not None}


def _shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (len(TOKENS), WIDTH),
        "output_norm.weight": (WIDTH,),
    }
    for layer in range(LAYERS):
        parts = {
            "attn_norm": (WIDTH,),
            "ffn_norm": (WIDTH,),
            **{f"attn_{part}": (WIDTH, WIDTH) for part in ("q", "k", "v", "output")},
            "ffn_gate": (INNER, WIDTH),
            "ffn_up": (INNER, WIDTH),
            "ffn_down": (WIDTH, INNER),
        }
        shapes |= {f"blk.{layer}.{part}.weight": shape for part, shape in parts.items()}
    return shapes


def _add_tensor(writer: gguf.GGUFWriter, name: str, shape: tuple[int, ...]) -> None:
    """Norms stay fp32, as llama.cpp has them; the same numbers at every call."""
    numbers = np.random.default_rng(sum(name.encode())).normal(0, 0.5, shape).astype(np.float32)
    if len(shape) == 1:
        writer.add_tensor(name, np.abs(numbers) + 0.5)
        return
    kind = gguf.GGMLQuantizationType.Q8_0
    writer.add_tensor(name, gguf.quantize(numbers, kind), raw_dtype=kind)
