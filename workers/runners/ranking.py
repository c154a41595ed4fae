"""Labels of the user's own with their scores, as a result row has them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from textmill.core.params import ZeroShotParams
from textmill.workers.items import Output

SCORE_DIGITS = 6


def rank_scores(scores: Sequence[float], params: ZeroShotParams) -> Output:
    """The output for one score per label, in their order. Ties go to the label named first."""
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    ranked = {params.labels[index]: round(scores[index], SCORE_DIGITS) for index in order}
    best, score = next(iter(ranked.items()))
    if not params.multi_label:
        return Output(label=best, score=score, detail={"scores": ranked})
    over = [label for label, value in ranked.items() if value >= params.threshold]
    return Output(
        label=best if over else None,
        score=score,
        labels=over,
        detail={"labels": over, "scores": ranked},
    )


def softmax(logits: Sequence[float]) -> list[float]:
    """Shares of 1."""
    highest = max(logits)
    powers = [math.exp(logit - highest) for logit in logits]
    return [power / sum(powers) for power in powers]
