"""From a line of a batch to its records, or to the error row that says what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from textmill.core.errors import RecordError
from textmill.core.jobs import BadRecord, Record
from textmill.core.params import OPENAI_COLUMN
from textmill.core.stored_texts import kept_message
from textmill.producer.openai_batch.fields import FieldError, Options
from textmill.producer.openai_batch.options import JobOptions
from textmill.producer.openai_batch.requests import Request, read_request


def expand_line(
    line: Record, index: int, job: JobOptions, place: str
) -> Iterator[Record | BadRecord]:
    """The records of a line, numbered from ``index``; ``place`` is the line's for messages."""
    body = line.inputs["body"]
    try:
        request = read_request(job.endpoint, body)
        own = job.own(request)
    except RecordError as error:
        yield _refuse(line, index, error, place, job)
        return
    texts = [text for text in request.texts for _ in range(request.choices)]
    for part, text in enumerate(texts):
        options = own | _draws(job, request, part, line.record_id)
        # Where no text is kept a row keeps no options either: they may be in words.
        about = _about(request, options if job.keep_texts else {}, part, len(texts))
        extra = {OPENAI_COLUMN: about} | (line.extra or {})
        yield Record(index + part, line.record_id, {"text": text}, options or None, extra)


def _draws(job: JobOptions, request: Request, part: int, custom_id: str) -> Options:
    """What tells the draws of a line's further parts from those of its first."""
    if part == 0 or not job.draws:
        return {}
    if "seed" not in request.options:
        return {"draws": f"{custom_id} {part}"}
    choice = part % request.choices
    return {"draws": str(choice)} if choice else {}


def _about(request: Request, options: Options, part: int, parts: int) -> dict[str, Any]:
    """What ``extra`` keeps for the answer and for ``retry --all``."""
    about: dict[str, Any] = {"model": request.model}
    if options:
        about["params"] = options
    if parts > 1:
        about |= {"part": part, "parts": parts}
    if request.choices > 1:
        about["n"] = request.choices
    if request.base64:
        about["base64"] = True
    return about


def _refuse(line: Record, index: int, error: RecordError, place: str, job: JobOptions) -> BadRecord:
    name = line.inputs["body"].get("model")
    about: dict[str, Any] = {"model": name if isinstance(name, str) else None}
    unquoting = error.unquoting if isinstance(error, FieldError) else None
    if isinstance(error, FieldError) and (job.keep_texts or unquoting is not None):
        about["param"] = error.field
    message = error.message
    if not job.keep_texts:
        message = unquoting or kept_message(job.store_text, error.code, message)
    extra = {OPENAI_COLUMN: about} | (line.extra or {})
    return BadRecord(index, line.record_id, error.code, f"{place}: {message}", extra)
