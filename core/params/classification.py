"""Options of ``classification``."""

from __future__ import annotations

from pydantic import Field

from textmill.core.params.base import TextParams


class ClassificationParams(TextParams):
    """Options of ``classification``."""

    top_k: int | None = Field(
        default=None, ge=1, description="keep the K best scores in detail (default: all)"
    )
    multi_label: bool | None = Field(
        default=None,
        description="independent labels by sigmoid (default: what the model's config says)",
    )
    threshold: float = Field(
        default=0.5, ge=0, le=1, description="multi-label: a label is given from this score on"
    )
