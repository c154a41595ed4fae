"""The likeliest spans of a batch of windows, from the logits of their starts and ends.

The score is that of the question-answering pipeline of transformers 4
(https://github.com/huggingface/transformers/blob/v4.57.1/src/transformers/pipelines/question_answering.py,
``select_starts_ends``): the probability of the start times that of the end, each a softmax over the
window's context tokens and [CLS]. It is computed as a sum of logarithms, which does not underflow.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import pad

CANDIDATES = 20  # of one window: after spans that are blank or the same text some must be left

NEVER = float("-inf")


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens ``first`` to ``last`` (included) of a window's context."""

    log_score: float
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class WindowSpans:
    """What one window says: its best spans first, and how it scores [CLS], "no answer".

    A span's ``log_score`` + ``log_norm`` is the sum of its two logits, which unlike scores can be
    compared between windows.
    """

    spans: list[Span]
    log_norm: float
    null_logit: float | None  # start and end logit of [CLS] added; None without [CLS]


def find_spans(
    start_logits: torch.Tensor,
    end_logits: torch.Tensor,
    bounds: torch.Tensor,
    cls_at: int | None,
    candidates: int = CANDIDATES,
) -> list[WindowSpans | None]:
    """The best spans of each row; None where the model gave no finite numbers.

    ``bounds`` has three columns: the context's first token, its last + 1, and the most tokens that
    an answer may have.
    """
    first, after, most = (column[:, None] for column in bounds.unbind(1))
    position = torch.arange(start_logits.shape[1], device=start_logits.device)
    inside = (position >= first) & (position < after)
    counted = inside if cls_at is None else inside | (position == cls_at)
    starts, ends = start_logits.float(), end_logits.float()
    finite = ((starts.isfinite() & ends.isfinite()) | ~counted).all(dim=1)
    norms = _log_norm(starts, counted) + _log_norm(ends, counted)
    sums = _sums(starts.masked_fill(~inside, NEVER), ends.masked_fill(~inside, NEVER), most)
    best = sums.flatten(1).topk(min(candidates, sums[0].numel()), dim=1)
    first_tokens = best.indices // sums.shape[2]
    last_tokens = first_tokens + best.indices % sums.shape[2]
    nulls = None if cls_at is None else (starts[:, cls_at] + ends[:, cls_at]).tolist()
    rows = zip(
        (best.values - norms[:, None]).tolist(),
        (first_tokens - first).tolist(),
        (last_tokens - first).tolist(),
        norms.tolist(),
        nulls or [None] * len(sums),
        finite.tolist(),
        strict=True,
    )
    return [
        WindowSpans(_spans(scores, firsts, lasts), norm, null) if good else None
        for scores, firsts, lasts, norm, null, good in rows
    ]


def _log_norm(logits: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    return logits.masked_fill(~counted, NEVER).logsumexp(dim=1)


def _sums(starts: torch.Tensor, ends: torch.Tensor, most: torch.Tensor) -> torch.Tensor:
    """At [row, i, n]: the logits of a span of n + 1 tokens from i on; NEVER where none may be."""
    longest = min(int(most.max()), starts.shape[1])
    shifted = pad(ends, (0, longest - 1), value=NEVER).unfold(1, longest, 1)
    too_long = torch.arange(longest, device=starts.device) >= most[:, :, None]
    return (starts[:, :, None] + shifted).masked_fill(too_long, NEVER)


def _spans(scores: list[float], firsts: list[int], lasts: list[int]) -> list[Span]:
    found = zip(scores, firsts, lasts, strict=True)
    return [Span(score, first, last) for score, first, last in found if score > NEVER]
