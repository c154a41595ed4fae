"""Options of ``embeddings``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from textmill.core.params.base import TextParams
from textmill.core.sentences import check_embedder


class EmbeddingsParams(TextParams):
    """Options of ``embeddings``."""

    pooling: Literal["auto", "mean", "cls", "last"] = Field(
        default="auto",
        description="token vectors to one: mean, the first, the last; auto: as the model says",
    )
    normalize: bool | None = Field(
        default=None, description="vectors of length 1 (default: as the model says, else yes)"
    )
    prefix: str | None = Field(
        default=None,
        description="put before each text, such as 'query: ' (default: as the model says)",
    )
    dimensions: int | None = Field(
        default=None, ge=1, description="keep the first N numbers, of a Matryoshka model"
    )

    def check_model(self, name: str, folder: Path, config: Mapping[str, Any]) -> None:
        """Raise ModelLoadError for a model without such vectors."""
        check_embedder(name, folder, config, self.dimensions)
