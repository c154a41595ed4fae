"""Which outputs of ``generate`` were written from scores that are no numbers.

A broken weight, or fp16 that overflows, gives NaN; ``generate`` would go on with some token. A row
may run on beside others when its own output has ended: what happens to it then does not count.
"""

from __future__ import annotations

import torch
import transformers

WORST = -1e4  # worse than any output's score, better than generate's mark for no output


class FiniteWatch(transformers.LogitsProcessor):  # type: ignore[misc]
    """Ends each hypothesis whose scores are not finite, and remembers it by row and ids so far."""

    def __init__(self, beams: int, end_ids: list[int]) -> None:
        """``generate`` has ``beams`` lines for each row; an output ends at one of ``end_ids``."""
        self._beams = beams
        self._end_ids = end_ids
        self._broken: set[tuple[int, tuple[int, ...]]] = set()

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """As any logits processor: (lines, length), (lines, vocabulary); what is finite stays."""
        # The highest is not a number if any is not. Beside other beams one may have no way on.
        best = scores.max(dim=-1).values
        broken = ~best.isfinite() if self._beams == 1 else ~(best < torch.inf)
        if not bool(broken.any()):
            return scores
        lines = broken.nonzero().squeeze(1)
        self.note((lines // self._beams).tolist(), input_ids[lines])
        ended = torch.full_like(scores[0], -torch.inf)
        ended[self._end_ids or [0]] = WORST
        return torch.where(broken[:, None], ended, scores)

    def note(self, rows: list[int], ids: torch.Tensor) -> None:
        """Remember that no token could be chosen after these ids (rows, length)."""
        self._broken.update(zip(rows, map(tuple, ids.tolist()), strict=True))

    def is_broken(self, row: int, ids: list[int], end: int) -> bool:
        """Whether an output, whose last token of its own is at ``end``, goes through one."""
        return any(
            row == other and len(before) <= end and tuple(ids[: len(before)]) == before
            for other, before in self._broken
        )
