"""Ages as people write them."""

from __future__ import annotations

import pytest

from textmill.core.errors import InvalidJobError
from textmill.producer.ages import parse_age


def test_an_age_is_a_number_with_a_unit() -> None:
    assert [parse_age(age) for age in ("90m", "12h", "30d", "2w", "0d", " 1D ")] == [
        5400,
        43_200,
        2_592_000,
        1_209_600,
        0,
        86_400,
    ]


@pytest.mark.parametrize("given", ["soon", "30", "d", "-1d", "1.5d", "30 days", "1y", "", "٣d"])
def test_nonsense_is_refused_with_an_example(given: str) -> None:
    with pytest.raises(InvalidJobError, match="such as 30d"):
        parse_age(given)
