"""Options of the tasks of encoder-decoder models: translation and summarization."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from textmill.core.errors import InvalidJobError, ModelLoadError
from textmill.core.params.base import TaskParams

# Position tables that end; those of other families grow or are relative.
FIXED_POSITIONS = ("marian", "bart", "mbart", "pegasus", "blenderbot", "blenderbot-small", "led")


class Seq2SeqParams(TaskParams):
    """How an encoder-decoder model writes; what is not given is as its generation_config says."""

    num_beams: int | None = Field(
        default=None, ge=1, le=64, description="beams; 1: greedy (default: as the model says)"
    )
    max_new_tokens: int | None = Field(
        default=None,
        ge=1,
        description="tokens of an output at most (default: as the model says, else 256)",
    )
    length_penalty: float | None = Field(
        default=None,
        allow_inf_nan=False,
        description="with beams: over 0 favours long outputs, under 0 short ones",
    )
    no_repeat_ngram_size: int | None = Field(
        default=None, ge=0, description="no N words' pieces twice in an output; 0: no such limit"
    )
    max_length: int | None = Field(
        default=None, ge=8, description="token limit of an input below the model's own"
    )
    backend: Literal["torch", "ctranslate2"] = Field(
        default="torch",
        description="ctranslate2: faster; needs textmill[ct2] on the worker, converts once",
    )

    def check_model(self, name: str, folder: Path, config: Mapping[str, Any]) -> None:
        """Raise for a model that is no encoder with a decoder, or for more than its positions."""
        if config.get("is_encoder_decoder") is False:
            raise ModelLoadError(
                f"model {name!r} is a {config.get('model_type')} without an encoder and a decoder"
            )
        positions = config.get("max_decoder_position_embeddings")
        positions = positions or config.get("max_position_embeddings")
        if config.get("model_type") not in FIXED_POSITIONS or not isinstance(positions, int):
            return
        if self.max_new_tokens is not None and self.max_new_tokens >= positions:
            raise InvalidJobError(
                f"max_new_tokens is {self.max_new_tokens}, and model {name!r} has {positions} "
                f"positions, the first of which starts the output; expected at most {positions - 1}"
            )
