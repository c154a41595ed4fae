"""How a token is drawn: the distribution of transformers, and noise that is the record's own."""

from __future__ import annotations

import pytest
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from textmill.workers.runners.decoding import sampling
from textmill.workers.runners.decoding.requests import Sampling


def expected_probabilities(line: torch.Tensor, one: Sampling) -> torch.Tensor:
    scores = TemperatureLogitsWarper(one.temperature)(None, line[None])
    if one.top_k:
        scores = TopKLogitsWarper(one.top_k)(None, scores)
    if one.top_p < 1:
        scores = TopPLogitsWarper(one.top_p)(None, scores)
    found: torch.Tensor = scores.softmax(dim=1)[0]
    return found


@pytest.mark.parametrize("spread", [0.05, 1.0, 6.0])
def test_each_rows_distribution_is_that_of_transformers(spread: float) -> None:
    """Given flat logits too, whose nucleus is wider than what is looked at first."""
    samplings = [
        Sampling(temperature=0.7),
        Sampling(temperature=1.0, top_k=1),
        Sampling(temperature=1.3, top_k=50),
        Sampling(temperature=1.0, top_p=0.9),
        Sampling(temperature=0.5, top_p=0.3, top_k=20),
        Sampling(temperature=2.0, top_p=1e-6),
        Sampling(temperature=1.0, top_k=10**6, top_p=0.99),
    ]
    torch.manual_seed(0)
    logits = torch.randn(len(samplings), 3000) * spread
    found = sampling.probabilities(logits.clone(), samplings)
    for line, row, one in zip(logits, found, samplings, strict=True):
        expected = expected_probabilities(line, one)
        torch.testing.assert_close(row, expected, atol=1e-6, rtol=1e-4)
        assert (row > 0).sum() == (expected > 0).sum()


@pytest.mark.parametrize("temperature", [1e-20, 1e-38, 1e-300, 5e-324])
def test_the_coldest_draw_is_the_likeliest_token(temperature: float) -> None:
    """And no place outside the vocabulary, at which a GPU would be lost."""
    logits = torch.tensor([[0.5, -0.2, 90.0, float("-inf")], [-90.0, -80.0, -1e4, -70.0]])
    samplings = [Sampling(temperature=temperature, top_p=0.9, top_k=3)] * 2
    assert sampling.draw(logits, samplings, [0, 1]).tolist() == [2, 3]


def test_draws_are_as_frequent_as_they_are_likely() -> None:
    logits = torch.tensor([0.5, 0.2, 0.0, 0.3]).log()
    draws = 8000
    samplings = [Sampling(temperature=1.0, seed=seed) for seed in range(draws)]
    found = sampling.draw(logits.expand(draws, 4), samplings, [3] * draws)
    shares = torch.bincount(found, minlength=4) / draws
    torch.testing.assert_close(shares, logits.exp(), atol=0.02, rtol=0)
    assert shares[2] == 0


def test_penalties_of_the_output_count_its_tokens() -> None:
    logits = torch.arange(6.0)
    sampling.discourage(logits, [3, 5, 3], frequency=0.5, presence=0.25)
    assert logits.tolist() == [0, 1, 2, 3 - 1.25, 4, 5 - 0.75]
    sampling.discourage(logits, [], frequency=0.5, presence=0.25)
    assert logits.tolist() == [0, 1, 2, 1.75, 4, 4.25]


def test_noise_depends_on_seed_and_place_and_nothing_else() -> None:
    numbers = [sampling.uniform(seed, place) for seed in range(100) for place in range(100)]
    assert len(set(numbers)) == len(numbers)
    assert min(numbers) >= 0
    assert max(numbers) < 1
    assert abs(sum(numbers) / len(numbers) - 0.5) < 0.01
    assert sampling.uniform(7, 3) == sampling.uniform(7, 3)
    assert sampling.uniform(2**64 - 1, 10**6) < 1
