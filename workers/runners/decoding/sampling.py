"""The next token of each row from its logits: greedy, or by noise that is the row's own.

Filters follow transformers' processors (repetition penalty, temperature, top_k, top_p). The noise
is one uniform number a token, a hash of the row's seed and the token's place in the output, put
through the inverse of the cumulated probabilities: no generator has a state, so a row's tokens do
not depend on the rows beside it, on their order, or on how often it was started.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch

from textmill.workers.runners.decoding.requests import Sampling

MASK = (1 << 64) - 1
LEAST_TEMPERATURE = 1e-30  # logits divided by less are no numbers; by this, one token has all
NUCLEUS_CANDIDATES = 1024  # the nucleus is looked for among so many first; sorting all is slow


def uniform(seed: int, place: int) -> float:
    """A number in [0, 1) from splitmix64: https://prng.di.unimi.it/splitmix64.c."""
    mixed = _mix(_mix(seed & MASK) + (place + 1) * 0x9E3779B97F4A7C15)
    return (mixed >> 11) * 2.0**-53


def _mix(state: int) -> int:
    state &= MASK
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB & MASK
    return state ^ (state >> 31)


def draw(
    logits: torch.Tensor, samplings: Sequence[Sampling], places: Sequence[int]
) -> torch.Tensor:
    """A token id for each row of fp32 ``logits`` (rows, vocabulary); all temperatures over 0."""
    pairs = zip(samplings, places, strict=True)
    noise = torch.tensor(
        [uniform(sampling.seed, place) for sampling, place in pairs],
        dtype=torch.float64,
        device=logits.device,
    )
    cumulated = probabilities(logits, samplings).double().cumsum(dim=1)
    total = cumulated[:, -1:].contiguous()
    found = torch.searchsorted(cumulated, noise[:, None] * total, right=True)[:, 0]
    # Rounding may put the noise at the very end: the last token that has any probability.
    last = torch.searchsorted(cumulated, total)[:, 0]
    return torch.minimum(found, last)


def probabilities(logits: torch.Tensor, samplings: Sequence[Sampling]) -> torch.Tensor:
    """The distribution each row draws from, (rows, vocabulary)."""
    temperatures = _column([max(s.temperature, LEAST_TEMPERATURE) for s in samplings], logits)
    scaled = _keep_top_k(logits / temperatures, [s.top_k for s in samplings])
    scaled = _keep_top_p(scaled, [s.top_p for s in samplings])
    return scaled.softmax(dim=1)


def penalize(logits: torch.Tensor, ids: Sequence[int], penalty: float) -> None:
    """Repetition penalty on one row's logits (vocabulary,), in place (arXiv 1909.05858)."""
    seen = torch.tensor(sorted(set(ids)), device=logits.device)
    scores = logits[seen]
    logits[seen] = torch.where(scores < 0, scores * penalty, scores / penalty)


def discourage(
    logits: torch.Tensor, ids: Sequence[int], *, frequency: float, presence: float
) -> None:
    """Frequency and presence penalty of an output on one row's logits (vocabulary,), in place.

    The API reference of OpenAI's chat completions has the meaning: of what was written so far, not
    of the prompt.
    """
    counts = Counter(ids)
    seen = torch.tensor(list(counts), dtype=torch.int64, device=logits.device)
    taken = [frequency * count + presence for count in counts.values()]
    logits[seen] -= torch.tensor(taken, dtype=logits.dtype, device=logits.device)


def _keep_top_k(logits: torch.Tensor, top_k: Sequence[int]) -> torch.Tensor:
    """Only the k highest of each row, and what equals the lowest of them."""
    size = logits.shape[1]
    wanted = [min(k, size) if k > 0 else size for k in top_k]
    most = max((k for k in wanted if k < size), default=0)
    if most == 0:
        return logits
    highest = logits.topk(most, dim=1).values
    index = torch.tensor([min(k, most) - 1 for k in wanted], device=logits.device)
    limits = highest.gather(1, index[:, None])
    unlimited = torch.tensor([k == size for k in wanted], device=logits.device)
    limits = limits.masked_fill(unlimited[:, None], float("-inf"))
    return logits.masked_fill(logits < limits, float("-inf"))


def _keep_top_p(logits: torch.Tensor, top_p: Sequence[float]) -> torch.Tensor:
    """Only the most likely tokens of each row, until they make up p together."""
    if all(p >= 1 for p in top_p):
        return logits
    shares = _column(list(top_p), logits)
    whole = logits.logsumexp(dim=1, keepdim=True)
    limits = _nucleus_limits(logits, shares, whole, NUCLEUS_CANDIDATES)
    limits = limits.masked_fill(shares >= 1, float("-inf"))
    return logits.masked_fill(logits < limits, float("-inf"))


def _nucleus_limits(
    logits: torch.Tensor, shares: torch.Tensor, whole: torch.Tensor, candidates: int
) -> torch.Tensor:
    """The lowest logit inside each row's nucleus, (rows, 1)."""
    candidates = min(candidates, logits.shape[1])
    highest = logits.topk(candidates, dim=1).values
    likely = (highest - whole).exp().double()
    before = likely.cumsum(dim=1) - likely
    inside = before < shares
    inside[:, 0] = True
    if candidates < logits.shape[1] and bool((inside[:, -1:] & (shares < 1)).any()):
        return _nucleus_limits(logits, shares, whole, logits.shape[1])
    return highest.gather(1, inside.sum(dim=1, keepdim=True) - 1)


def _column(values: Sequence[float], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32, device=like.device)[:, None]
