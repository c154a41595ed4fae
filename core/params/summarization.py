"""Options of ``summarization``."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from textmill.core.params.seq2seq import Seq2SeqParams


class SummarizationParams(Seq2SeqParams):
    """Options of ``summarization``."""

    PROMPT: ClassVar[str] = (
        "Summarize the text in a few sentences. Answer with the summary only.\n\n{text}"
    )

    prefix: str | None = Field(
        default=None,
        description="put before each text (default: as the model says, such as 'summarize: ')",
    )
    min_new_tokens: int | None = Field(
        default=None, ge=0, description="tokens of a summary at least (default: as the model says)"
    )
    on_long: Literal["truncate", "error"] = Field(
        default="truncate", description="a text over the model's limit is cut, or an error row"
    )
