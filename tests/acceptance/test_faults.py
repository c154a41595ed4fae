"""A few seeds of the fault harness; ``make faults`` runs many."""

from __future__ import annotations

import pytest

from .faults.mill import Servers
from .faults.seed import run_seed

SEEDS = [3, 5, 8]


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_random_faults_lose_nothing_and_double_nothing(database: str) -> None:
    with Servers(database) as servers:
        for seed in SEEDS:
            outcome = run_seed(seed, servers)
            assert outcome.faults
            assert (outcome.lost, outcome.duplicated, outcome.problems) == (0, 0, []), outcome
            assert not outcome.unrecovered
