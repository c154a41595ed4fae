"""The answer of a whole context, from the spans that were found in its windows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from textmill.core.errors import RecordError
from textmill.core.params import QuestionAnsweringParams
from textmill.workers.items import Output
from textmill.workers.runners.contexts import TokenizedContext
from textmill.workers.runners.lengths import truncation_mark
from textmill.workers.runners.spans import Span, WindowSpans

SCORE_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Asked:
    """One record's question, context and parameters."""

    question: str
    context: str
    params: QuestionAnsweringParams


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens ``first`` to ``after`` - 1 of a context, behind a question."""

    asked: Asked
    head: list[int]  # all ids before the context
    context: TokenizedContext
    first: int
    after: int


@dataclass(frozen=True, slots=True)
class _Ranked:
    """A span of the whole context, and the sum of its logits."""

    span: Span
    logit: float


def best_answer(windows: Sequence[Window], raw: Sequence[WindowSpans]) -> Output:
    """The best answer of all windows; raises RecordError("no_span") where there is none."""
    asked, context = windows[0].asked, windows[0].context
    ranked = _rank(windows, raw)
    answers = list(_answers(context, ranked, asked.params))
    if not answers:
        raise RecordError("no_span", "no token of the context stands for any of its characters")
    best = answers[0]
    detail: dict[str, Any] = {"question": asked.question}
    if asked.params.no_answer:
        margin = _null_margin(ranked[0], raw)
        empty = margin > (asked.params.no_answer_threshold or 0.0)
        if empty:
            best = {"answer": "", "score": _null_score(raw), "start": 0, "end": 0}
        detail |= {"no_answer": empty, "no_answer_margin": round(margin, SCORE_DIGITS)}
    detail |= {"start": best["start"], "end": best["end"]}
    if asked.params.top_k > 1:
        detail["answers"] = answers
    return Output(
        output=best["answer"], score=best["score"], detail=detail | _reading(windows, context)
    )


def _reading(windows: Sequence[Window], context: TokenizedContext) -> dict[str, Any]:
    """What ``detail`` says of a context that did not fit into one window."""
    said: dict[str, Any] = {"windows": len(windows)} if len(windows) > 1 else {}
    return said | truncation_mark(windows[-1].after, len(context.ids))


def _rank(windows: Sequence[Window], raw: Sequence[WindowSpans]) -> list[_Ranked]:
    """All windows' spans in tokens of the whole context, best first, ties by their place."""
    ranked = [
        _Ranked(
            Span(span.log_score, window.first + span.first, window.first + span.last),
            span.log_score + found.log_norm,
        )
        for window, found in zip(windows, raw, strict=True)
        for span in found.spans
    ]
    ranked.sort(key=lambda one: (-one.span.log_score, one.span.first, one.span.last))
    return ranked


def _answers(
    context: TokenizedContext, ranked: Sequence[_Ranked], params: QuestionAnsweringParams
) -> Iterator[dict[str, Any]]:
    """The best answers, ``top_k`` at most; of those that are the same characters the best."""
    seen: set[tuple[int, int]] = set()
    for one in ranked:
        if len(seen) == params.top_k:
            return
        place = context.characters(one.span.first, one.span.last, whole_words=params.whole_words)
        start, end = place
        if start < end and place not in seen:
            seen.add(place)
            score = round(math.exp(one.span.log_score), SCORE_DIGITS)
            yield {
                "answer": context.text[start:end],
                "score": score,
                "start": start,
                "end": end,
            }


def _null_margin(best: _Ranked, raw: Sequence[WindowSpans]) -> float:
    """How far the logits of "no answer" are above the best answer's.

    Of "no answer" the window counts that is the least sure of it, because elsewhere in the context
    there usually is none; ``null_score_diff_threshold`` in SQuAD 2's evaluation of BERT
    (https://github.com/google-research/bert/blob/master/run_squad.py).
    """
    return min(found.null_logit or 0.0 for found in raw) - best.logit


def _null_score(raw: Sequence[WindowSpans]) -> float:
    """The smallest probability of "no answer" of any window, as transformers 4 scored it."""
    least = min((found.null_logit or 0.0) - found.log_norm for found in raw)
    return round(math.exp(least), SCORE_DIGITS)
