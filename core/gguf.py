"""The header of a GGUF file: what model it holds, and whether all of it is there.

Reads no weights and needs neither torch nor the ``gguf`` package, so a machine that only submits
can look. The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textmill.core.errors import ModelLoadError

SUFFIX = ".gguf"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
MAX_DIMENSIONS = 4  # of ggml

SCALARS = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
STRING, ARRAY = 8, 9

BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210),
    16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110),
    22: (256, 82), 23: (256, 136), 29: (256, 56), 30: (1, 2), 34: (256, 54), 35: (256, 66),
    39: (32, 17), 40: (64, 36),
}  # fmt: skip
"""Type of a tensor: numbers in a block, and its bytes. Of the types that can be made numbers of
again; a test holds the table to the package ``gguf``."""

ARCHITECTURES = (
    "bloom", "deci", "falcon", "gemma2", "gemma3", "gemma4", "gpt-oss", "gpt2", "lfm2",
    "llama", "mamba", "minimax-m2", "nemotron", "phi3", "qwen2", "qwen2moe", "qwen3",
    "qwen3moe", "qwen35", "qwen35moe", "stablelm", "starcoder2",
)  # fmt: skip
"""What transformers reads from a GGUF, by ``general.architecture``: models that write text."""

CHANGED = ("t5",)
"""What it reads with another activation than the model has: ReLU for Flan-T5's GELU."""

ROPE_TENSORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
ROPE_READ = ("gpt-oss",)  # whose scaling of positions transformers takes over


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What a GGUF file says of itself. Arrays of texts in ``metadata`` are only counted."""

    metadata: dict[str, Any]
    tensors: dict[str, int]  # how many numbers each has

    @property
    def parameters(self) -> int:
        """How many numbers the weights hold."""
        return sum(self.tensors.values())

    @property
    def architecture(self) -> str:
        """As ``general.architecture`` names it."""
        return str(self.metadata.get("general.architecture", ""))

    def own(self, key: str) -> Any:
        """The value of a key that begins with the architecture's name."""
        return self.metadata.get(f"{self.architecture}.{key}")

    def as_config(self) -> dict[str, Any]:
        """What of it a ``config.json`` would say, by its keys there, and the chat template."""
        found = {
            "model_type": self.architecture,
            "architectures": [f"{self.architecture}ForCausalLM"],
            "is_encoder_decoder": False,
            "max_position_embeddings": self.own("context_length"),
            "hidden_size": self.own("embedding_length"),
            "num_hidden_layers": self.own("block_count"),
            "vocab_size": self.metadata.get("tokenizer.ggml.tokens"),
            "chat_template": self.metadata.get("tokenizer.chat_template"),
        }
        return {key: value for key, value in found.items() if value is not None}


def read_gguf(name: str, path: Path) -> GgufHeader:
    """The checked header of a complete file; raises ModelLoadError that says what is wrong."""
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            if size < 24:
                raise _CutOffError
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                header, needed = _Reader(data).read()
    except _CutOffError:
        message = f"its {size:,} bytes end within its header, so it is cut off"
        raise _broken(name, message) from None
    except (ValueError, TypeError, struct.error) as error:
        raise _broken(name, str(error)) from None
    except OSError as error:
        raise ModelLoadError(f"model {name!r}: {error.strerror}") from None
    if size < needed:
        message = f"it has {size:,} bytes, its header says {needed:,}, so it is cut off"
        raise _broken(name, message)
    _check_supported(name, header)
    return header


def _broken(name: str, what: str) -> ModelLoadError:
    return ModelLoadError(f"GGUF file {name!r} is damaged: {what}; fetch or copy it again")


def _check_supported(name: str, header: GgufHeader) -> None:
    """Refuse what transformers would not load, or would load as another model than it was."""
    if header.architecture in CHANGED:
        raise ModelLoadError(
            f"GGUF file {name!r} holds a {header.architecture}, which transformers reads from a "
            "GGUF with another activation than it has, so its outputs would differ; take the "
            "model's safetensors"
        )
    if header.architecture not in ARCHITECTURES:
        raise ModelLoadError(
            f"GGUF file {name!r} holds a model of architecture {header.architecture!r}, which is "
            f"not supported; supported are {', '.join(ARCHITECTURES)}"
        )
    if "tokenizer.ggml.tokens" not in header.metadata:
        raise ModelLoadError(f"GGUF file {name!r} has no tokenizer")
    parts = header.metadata.get("split.count", 1)
    if parts > 1:
        raise ModelLoadError(
            f"GGUF file {name!r} is one of {parts} parts; expected one file: join them with "
            "llama-gguf-split --merge"
        )
    scaled = header.own("rope.scaling.type") not in (None, "none")
    if header.architecture not in ROPE_READ and (scaled or header.tensors.keys() & {*ROPE_TENSORS}):
        raise ModelLoadError(
            f"GGUF file {name!r} scales its positions (RoPE scaling), which transformers does not "
            "read from a GGUF, so its outputs would differ; take the model's safetensors"
        )


class _CutOffError(Exception):
    """The file ends before its header does."""


class _Reader:
    """Walks a header once."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 0

    def read(self) -> tuple[GgufHeader, int]:
        """The header, and how many bytes a complete file has."""
        if self._data[:4] != b"GGUF":
            raise ValueError("it does not begin with 'GGUF', so it is no GGUF file")
        self._at = 4
        version, tensor_count, metadata_count = self._unpack("IQQ")
        if version not in VERSIONS:
            raise ValueError(
                f"its version is {version}, expected {' or '.join(map(str, VERSIONS))}"
            )
        metadata = dict(self._entry() for _ in range(metadata_count))
        tensors: dict[str, int] = {}
        end = 0
        for _ in range(tensor_count):
            tensor, numbers, last = self._tensor()
            tensors[tensor] = numbers
            end = max(end, last)
        alignment = metadata.get("general.alignment") or DEFAULT_ALIGNMENT
        data_start = -(-self._at // alignment) * alignment
        return GgufHeader(metadata, tensors), data_start + end

    def _entry(self) -> tuple[str, Any]:
        key = self._string()
        (kind,) = self._unpack("I")
        return key, self._value(kind)

    def _tensor(self) -> tuple[str, int, int]:
        """Name, how many numbers it has, and where it ends in the part that holds the weights."""
        name = self._string()
        (dimensions,) = self._unpack("I")
        if dimensions > MAX_DIMENSIONS:
            raise ValueError(f"tensor {name!r} has {dimensions} dimensions")
        numbers = math.prod(self._unpack(f"{dimensions}Q"))
        kind, offset = self._unpack("IQ")
        if kind not in BLOCKS:
            raise ValueError(f"tensor {name!r} is of type {kind}, which cannot be read")
        block, size = BLOCKS[kind]
        return name, numbers, offset + -(-numbers // block) * size

    def _value(self, kind: int) -> Any:
        if kind in SCALARS:
            return self._unpack(SCALARS[kind])[0]
        if kind == STRING:
            return self._string()
        if kind != ARRAY:
            raise ValueError(f"its metadata has a value of type {kind}, which cannot be read")
        element, count = self._unpack("IQ")
        if element == STRING:
            for _ in range(count):
                (length,) = self._unpack("Q")
                self._skip(length)
            return count
        if element not in SCALARS:
            raise ValueError(f"its metadata has an array of type {element}, which cannot be read")
        return list(self._unpack(f"{count}{SCALARS[element]}"))

    def _string(self) -> str:
        (length,) = self._unpack("Q")
        start = self._at
        self._skip(length)
        return self._data[start : self._at].decode()

    def _unpack(self, layout: str) -> tuple[Any, ...]:
        start = self._at
        self._skip(struct.calcsize(f"<{layout}"))
        return struct.unpack_from(f"<{layout}", self._data, start)

    def _skip(self, count: int) -> None:
        self._at += count
        if self._at > len(self._data):
            raise _CutOffError
