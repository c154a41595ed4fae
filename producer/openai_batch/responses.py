"""From the rows of one line to its answer, in the form of the API reference of OpenAI.

Ids are digests of the job's id and the line's place, so a second export has the same ones. Rows
have no times, so every answer was made when the job was accepted.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any

import orjson
from sqlalchemy import Row

from textmill.core.params import OPENAI_COLUMN
from textmill.db.result_rows import Result

TOO_LONG = "context_length_exceeded"
API_CODES = {"prompt_too_long": TOO_LONG, "text_too_long": TOO_LONG}
"""Error codes for which the API has one of its own."""
OURS = {
    *("backend_unavailable", "json_invalid", "json_schema", "not_finite", "out_of_memory"),
    *("runner_contract", "runner_error", "worker_crashed"),
}
"""Error codes that are not the request's fault."""

FLOAT_BYTES = 4

About = dict[str, Any]


def about_line(row: Result) -> About | None:
    """What a row keeps of its line; None of a line that could not be read so far."""
    return (row.extra or {}).get(OPENAI_COLUMN)


class Answers:
    """The answers of one job."""

    def __init__(self, job: Row[Any], endpoint: str) -> None:
        self._job_id: str = job.id
        self._created = int(job.queued_at or job.created_at)
        version = job.model_version
        self._fingerprint = None if version is None else f"fp_{_digest(version, job.dtype)[:10]}"
        self._write = BODIES[endpoint]

    def answer(self, rows: Sequence[Result]) -> About:
        """The line of the output file for the rows of one line, or that of the error file.

        ``rows`` are all that the line became, in order.
        """
        first = rows[0]
        about = about_line(first)
        error = next((row for row in rows if row.error_code is not None), None)
        if about is None:
            return self._line(first, None, None, _error(first))
        if error is not None:
            status, body = _error_body(error, about)
            return self._line(first, first.record_id, self._response(first, status, body), None)
        body = self._write(self, rows, about)
        return self._line(first, first.record_id, self._response(first, 200, body), None)

    def _line(self, row: Result, custom_id: str | None, response: Any, error: Any) -> About:
        return {
            "id": f"batch_req_{self._id('line', row)}",
            "custom_id": custom_id,
            "response": response,
            "error": error,
        }

    def _response(self, row: Result, status: int, body: Any) -> About:
        return {"status_code": status, "request_id": self._id("request", row), "body": body}

    def _id(self, kind: str, row: Result) -> str:
        return _digest(self._job_id, kind, str(row.record_index))

    def chat(self, rows: Sequence[Result], about: About) -> About:
        """A ``chat.completion``."""
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": row.output or "", "refusal": None},
                "logprobs": None,
                "finish_reason": _finish_reason(row),
            }
            for index, row in enumerate(rows)
        ]
        return self._texts("chatcmpl", "chat.completion", choices, rows, about)

    def completion(self, rows: Sequence[Result], about: About) -> About:
        """A ``text_completion``."""
        choices = [
            {
                "text": row.output or "",
                "index": index,
                "logprobs": None,
                "finish_reason": _finish_reason(row),
            }
            for index, row in enumerate(rows)
        ]
        return self._texts("cmpl", "text_completion", choices, rows, about)

    def _texts(
        self, prefix: str, kind: str, choices: Any, rows: Sequence[Result], about: About
    ) -> About:
        read = sum(row.input_tokens or 0 for row in rows[:: about.get("n", 1)])
        written = sum(row.output_tokens or 0 for row in rows)
        return {
            "id": f"{prefix}-{self._id('answer', rows[0])}",
            "object": kind,
            "created": self._created,
            "model": about["model"],
            "choices": choices,
            "usage": {
                "prompt_tokens": read,
                "completion_tokens": written,
                "total_tokens": read + written,
            },
            "system_fingerprint": self._fingerprint,
        }

    def embeddings(self, rows: Sequence[Result], about: About) -> About:
        """A list of vectors, each as numbers or as base64 of its float32."""
        read = sum(row.input_tokens or 0 for row in rows)
        data = [
            {"object": "embedding", "index": index, "embedding": _vector(row, about)}
            for index, row in enumerate(rows)
        ]
        usage = {"prompt_tokens": read, "total_tokens": read}
        return {"object": "list", "data": data, "model": about["model"], "usage": usage}


BODIES: dict[str, Callable[[Answers, Sequence[Result], About], About]] = {
    "/v1/chat/completions": Answers.chat,
    "/v1/completions": Answers.completion,
    "/v1/embeddings": Answers.embeddings,
}


def _finish_reason(row: Result) -> str:
    return str((row.detail or {}).get("finish_reason", "stop"))


def _vector(row: Result, about: About) -> Any:
    vector = row.vector or b""
    if about.get("base64"):
        return base64.b64encode(vector).decode()
    numbers = struct.unpack(f"<{len(vector) // FLOAT_BYTES}f", vector)
    # As few digits as tell a float32 from all others; those of a double would be twice as many.
    return orjson.Fragment("[" + ", ".join(["%.9g"] * len(numbers)) % numbers + "]")


def _error(row: Result) -> About:
    """Of a line that asked for nothing: it was not even a request."""
    return {"code": row.error_code, "message": row.error_message}


def _error_body(row: Result, about: About) -> tuple[int, About]:
    """Status and body as the endpoint itself would have answered."""
    code = str(row.error_code)
    status, kind = (500, "server_error") if code in OURS else (400, "invalid_request_error")
    error = {
        "message": row.error_message,
        "type": kind,
        "param": about.get("param"),
        "code": API_CODES.get(code, code),
    }
    return status, {"error": error}


def _digest(*parts: str) -> str:
    return blake2b(" ".join(parts).encode(), digest_size=16).hexdigest()
