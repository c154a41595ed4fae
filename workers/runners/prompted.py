"""Tasks that a model which writes text does by a prompt: what they share, and summarization.

The model, its rows and its tokens are those of ``generation``; the likeliest token is always taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

from textmill.core.errors import RecordError
from textmill.core.jobs import Record
from textmill.core.params import Seq2SeqParams, SummarizationParams, TaskParams
from textmill.workers.items import Item, Output
from textmill.workers.runners.decoding.requests import Generated
from textmill.workers.runners.generation import GenerationRunner, PromptRequest, as_item
from textmill.workers.runners.lengths import refuse_long, truncation_mark
from textmill.workers.runners.records import check_text, own_params

Params = TypeVar("Params", bound=Seq2SeqParams)

DEFAULT_NEW_TOKENS = 256  # half of the context, if that is less


class PromptedRunner(GenerationRunner):
    """One loaded generative model on one device. An item is a prompt with its answer."""

    TASK: ClassVar[str]

    def _read(
        self, record: Record, job_params: TaskParams, kind: type[Params]
    ) -> tuple[str, Params]:
        """The text and options of a record; raises RecordError for what no such model takes."""
        text = check_text("text", record.inputs.get("text"))
        params = own_params(record, job_params, kind, self.TASK)
        if problem := params.problem_with(causal=True):
            raise RecordError("invalid_params", problem)
        if not text.strip():
            raise RecordError("empty_text", "the text is empty, or nothing but white space")
        return text, params

    def _limit(self, params: Seq2SeqParams) -> int:
        """How many tokens a prompt and its answer may have together."""
        limit: int = self._tokenizer.limit
        return min(limit, params.max_length or limit)

    def _new_tokens(self, params: Seq2SeqParams) -> int:
        """How many of them the answer may have, as asked or by default."""
        limit = self._limit(params)
        new_tokens = params.max_new_tokens or min(DEFAULT_NEW_TOKENS, limit // 2)
        if new_tokens >= limit:
            raise RecordError(
                "invalid_params",
                f"max_new_tokens is {new_tokens}, which leaves no room for a text in a context of "
                f"{limit} tokens",
            )
        return new_tokens

    def _ask(self, text: str, params: Seq2SeqParams) -> list[int]:
        return self._prompts.ask(params.prompt(text), params)


class PromptedSummarization(PromptedRunner):
    """An item is a whole text; one that is too long loses its end, inside the prompt."""

    TASK = "summarization"

    def join(
        self, record: Record, items: Sequence[Item], raw: Sequence[Any], params: TaskParams
    ) -> Output:
        """The summary, and in ``detail`` what was cut or did not end."""
        request: PromptRequest = items[0].data
        generated: Generated = raw[0]
        detail = truncation_mark(len(request.ids), request.given_tokens)
        if generated.finish_reason == "length":
            detail["finish_reason"] = "length"
        return Output(
            output=generated.text.strip(),
            detail=detail or None,
            input_tokens=len(request.ids),
            output_tokens=len(generated.ids),
        )

    def _items(self, record: Record, job_params: TaskParams) -> list[Item]:
        text, params = self._read(record, job_params, SummarizationParams)
        new_tokens = self._new_tokens(params)
        room = self._limit(params) - new_tokens
        if params.on_long == "error":
            ids = self._ask(text, params)
            if len(ids) > room:
                raise refuse_long(len(ids), room)
        prompt = self._prompts.fit(text, room, lambda part: self._ask(part, params))
        request = PromptRequest(
            prompt.ids, new_tokens, eos_ids=self._eos_ids, given_tokens=prompt.given_tokens
        )
        return [as_item(request)]
