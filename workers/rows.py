"""From a chunk's outputs to the rows that are written, with what may be kept of its texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from textmill.core.errors import RecordError
from textmill.core.jobs import Record
from textmill.core.stored_texts import StoreText, hash_text, kept_message
from textmill.db.chunks import ChunkOutcome
from textmill.db.results import ResultRow, to_json
from textmill.workers.items import Output


@dataclass(frozen=True, slots=True)
class Keeping:
    """What rows keep of their texts; with the key, where that is a keyed hash."""

    mode: StoreText = StoreText.FULL
    key: bytes | None = None

    def text(self, text: str) -> tuple[str | None, bytes | None]:
        """The columns ``text`` and ``text_hash``."""
        if self.mode == StoreText.FULL:
            return text, hash_text(text)
        return None, hash_text(text, self.key) if self.mode == StoreText.HASH else None

    def detail(self, detail: dict[str, Any], inputs: dict[str, Any]) -> dict[str, Any] | None:
        """Without what repeats an input, such as the question of an answer."""
        if self.mode == StoreText.FULL:
            return detail
        return {name: value for name, value in detail.items() if name not in inputs} or None


KEEP_ALL = Keeping()


def gather_outcome(
    records: Sequence[Record],
    outputs: Sequence[Output | RecordError],
    text_field: str = "text",
    keeping: Keeping = KEEP_ALL,
) -> ChunkOutcome:
    """The rows of a chunk, the records that ended as errors, and the chunk's counts.

    ``text_field`` is the input field that the rows keep as their text.
    """
    outcome = ChunkOutcome(rows=[], errors=[], labels={})
    labels: Counter[str] = Counter()
    for record, output in zip(records, outputs, strict=True):
        if isinstance(output, RecordError):
            outcome.errors.append(record)
            outcome.rows.append(_error_row(record, output, text_field, keeping))
            continue
        outcome.rows.append(_row(record, output, text_field, keeping))
        if output.reused_from is None:
            outcome.input_tokens += output.input_tokens
            outcome.output_tokens += output.output_tokens
        else:
            outcome.reused += 1
        if output.labels:
            labels.update(output.labels)
        elif output.label is not None:
            labels[output.label] += 1
    outcome.labels = labels
    return outcome


def _row(record: Record, output: Output, text_field: str, keeping: Keeping) -> ResultRow:
    text, text_hash = keeping.text(record.inputs.get(text_field, ""))
    detail = output.detail
    return ResultRow(
        record.index,
        record.record_id,
        text,
        text_hash,
        output.label,
        output.score,
        output.output,
        output.vector,
        None if detail is None else to_json(keeping.detail(detail, record.inputs)),
        None,
        None,
        None if record.extra is None else to_json(record.extra),
        output.input_tokens,
        output.output_tokens,
        output.reused_from,
    )


def _error_row(record: Record, error: RecordError, text_field: str, keeping: Keeping) -> ResultRow:
    text, text_hash = keeping.text(record.inputs.get(text_field, ""))
    return ResultRow(
        record.index,
        record.record_id,
        text,
        text_hash,
        error_code=error.code,
        error_message=kept_message(keeping.mode, error.code, error.message),
        extra=to_json(record.extra),
    )
