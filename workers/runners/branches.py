"""How likely a causal model finds each of several continuations of one prompt, in one forward pass.

The continuations lie one after another behind the prompt as branches of a tree: each token sees the
prompt and its own branch, and positions in each branch go on from the prompt's. So the prompt is
computed once for all of them (SpecInfer's tree attention, https://arxiv.org/abs/2305.09781), and
rows of many prompts still share a batch. Batches are padded on the right.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, count, pairwise
from typing import Any

import torch

from textmill.workers.items import DeviceLostError, DeviceOutOfMemoryError
from textmill.workers.runners.decoding.support import keeps_plain_keys
from textmill.workers.runners.padding import pad_rows
from textmill.workers.runners.quantizing import exact_inputs

log = logging.getLogger(__name__)

PROMPT = 0  # whose a prompt's tokens are, beside those of branches 1 and on
PADDING = -1
TOLERANCE = {torch.float32: 1e-3}  # of a log-likelihood
COARSE_TOLERANCE = 0.3  # for dtypes of fewer digits
MAX_LOGITS = 2**26  # numbers in one pass's logits: 256 MB


@dataclass(frozen=True, slots=True)
class Branched:
    """A prompt and its continuations, as token ids; none is empty."""

    prompt: list[int]
    branches: list[list[int]]

    @property
    def tokens(self) -> int:
        """How many tokens the model reads."""
        return len(self.prompt) + sum(map(len, self.branches))


# Token ids; every vocabulary has them.
TRIAL = (Branched([3, 5, 7, 4], [[6, 3], [5], [3, 6, 4]]), Branched([4, 3], [[3], [6, 5]]))


class BranchModel:
    """A causal model that reads prompts with branches."""

    def __init__(self, model: Any, end_ids: Collection[int], device: torch.device) -> None:
        """``end_ids``: tokens of which one has to follow a continuation; may be none."""
        self._model = model
        self._end_ids = torch.tensor(sorted(end_ids), dtype=torch.long, device=device)
        self._device = device
        self._head = model.get_output_embeddings()
        self.takes_several = self._can_branch()

    def log_likelihoods(self, rows: Sequence[Branched]) -> list[list[float]]:
        """Of each row, for each branch: the sum of its tokens' and the end's log-probabilities.

        Rows of several branches only if ``takes_several``.
        """
        found: list[list[float]] = []
        for part in self._parts(rows):
            with torch.inference_mode():
                tokens, ends = self._log_probabilities(part)
            sums = zip(part, tokens.tolist(), ends.tolist(), strict=True)
            found.extend(_sum_up(*one) for one in sums)
        return found

    def _parts(self, rows: Sequence[Branched]) -> Iterator[Sequence[Branched]]:
        """The rows, as many at once as their logits leave room for."""
        places = 1 + max(len(_flat(row)) for row in rows)
        vocabulary = self._model.config.get_text_config().vocab_size
        size = max(1, MAX_LOGITS // (places * vocabulary))
        return (rows[start : start + size] for start in range(0, len(rows), size))

    def _log_probabilities(self, rows: Sequence[Branched]) -> tuple[torch.Tensor, torch.Tensor]:
        """Of the branches' tokens (rows, tokens); of an end at each place (rows, tokens + 1)."""
        targets = pad_rows([_flat(row) for row in rows], 0, self._device)[:, :-1]
        sources = pad_rows([_sources(row) for row in rows], 0, self._device)[:, :-1]
        logits = self._logits(rows, targets.shape[1] + 1).float()
        norms = logits.logsumexp(-1)
        row = torch.arange(len(rows), device=self._device)[:, None]
        tokens = logits[row, sources, targets] - norms[row, sources]
        if not len(self._end_ids):
            return tokens, torch.zeros_like(norms)
        return tokens, logits[:, :, self._end_ids].logsumexp(-1) - norms

    def _logits(self, rows: Sequence[Branched], count: int) -> torch.Tensor:
        """Logits of each prompt's last token and of ``count`` - 1 behind it."""
        ids = pad_rows([row.prompt + _flat(row) for row in rows], 0, self._device)[:, :-1]
        starts = torch.tensor([len(row.prompt) - 1 for row in rows]).to(self._device)
        places = starts[:, None] + torch.arange(count, device=self._device)
        places = places.clamp(max=ids.shape[1] - 1)
        how: dict[str, Any] = {}
        if any(len(row.branches) > 1 for row in rows):
            how = self._tree(rows, ids.shape[1])
        with self._only_at(places):
            logits: torch.Tensor = self._model(input_ids=ids, use_cache=False, **how).logits
        return logits if logits.shape[1] == count else _pick(logits, places)

    def _tree(self, rows: Sequence[Branched], width: int) -> dict[str, torch.Tensor]:
        """Who sees whom (rows, 1, width, width), and where in its own text each token stands."""
        padding = [width - row.tokens for row in rows]
        owners = torch.tensor(
            [_owners(row) + [PADDING] * n for row, n in zip(rows, padding, strict=True)]
        ).to(self._device)
        positions = torch.tensor(
            [_positions(row) + [0] * n for row, n in zip(rows, padding, strict=True)]
        ).to(self._device)
        mine = owners[:, None, :] == owners[:, :, None]
        seen = (mine | (owners[:, None, :] == PROMPT)).tril()[:, None]
        return {"attention_mask": self._as_mask(seen), "position_ids": positions}

    def _as_mask(self, seen: torch.Tensor) -> torch.Tensor:
        """As the model's attention takes it: eager adds what sdpa asks."""
        if self._model.config._attn_implementation != "eager":
            return seen
        hidden = torch.zeros_like(seen, dtype=self._model.dtype)
        return hidden.masked_fill(~seen, torch.finfo(self._model.dtype).min)

    @contextmanager
    def _only_at(self, places: torch.Tensor) -> Iterator[None]:
        """Let the head see these places only: the logits of a prompt are many, and unused."""
        if self._head is None:
            yield
            return
        handle = self._head.register_forward_pre_hook(lambda _, args: (_pick(args[0], places),))
        try:
            yield
        finally:
            handle.remove()

    def _can_branch(self) -> bool:
        """Asked of the config, then of the model: branches together as each alone."""
        if not keeps_plain_keys(self._model):
            return False
        alone = [Branched(row.prompt, [branch]) for row in TRIAL for branch in row.branches]
        try:
            with exact_inputs(self._model):
                together = [one for row in self.log_likelihoods(TRIAL) for one in row]
                expected = [one for row in alone for one in self.log_likelihoods([row])[0]]
        except (DeviceLostError, DeviceOutOfMemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            log.info("%s reads labels one by one: %s", type(self._model).__name__, error)
            return False
        tolerance = TOLERANCE.get(self._model.dtype, COARSE_TOLERANCE)
        pairs = zip(together, expected, strict=True)
        return all(math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance) for a, b in pairs)


def _flat(row: Branched) -> list[int]:
    return [token for branch in row.branches for token in branch]


def _sources(row: Branched) -> list[int]:
    """Where the logits of each token are, counted from the prompt's last token."""
    places = count()
    ahead = [(n, next(places)) for branch in row.branches for n in range(len(branch))]
    return [place if n else 0 for n, place in ahead]


def _owners(row: Branched) -> list[int]:
    """The number of each token's branch, from 1."""
    numbered = enumerate(row.branches, PROMPT + 1)
    return [PROMPT] * len(row.prompt) + [n for n, branch in numbered for _ in branch]


def _positions(row: Branched) -> list[int]:
    first = len(row.prompt)
    return [*range(first), *(first + n for branch in row.branches for n in range(len(branch)))]


def _pick(states: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Each row's lines at its own places: (rows, length, size) to (rows, places, size)."""
    return states[torch.arange(len(places), device=places.device)[:, None], places]


def _sum_up(row: Branched, tokens: list[float], ends: list[float]) -> list[float]:
    borders = [0, *accumulate(map(len, row.branches))]
    return [sum(tokens[start:end]) + ends[end] for start, end in pairwise(borders)]
