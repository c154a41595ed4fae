"""Ages as people write them: ``30d``, ``12h``, ``2w``."""

from __future__ import annotations

import re

from textmill.core.errors import InvalidJobError

UNITS = {"m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
AGE = re.compile(r"([0-9]{1,6})([mhdw])")


def parse_age(given: str) -> float:
    """Seconds; raises InvalidJobError for what is no age."""
    match = AGE.fullmatch(given.strip().lower())
    if match is None:
        raise InvalidJobError(
            f"--older-than is {given!r}; expected a number with a unit: m, h, d or w for minutes, "
            "hours, days or weeks, such as 30d"
        )
    return int(match[1]) * UNITS[match[2]]
