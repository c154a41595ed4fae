"""Trying again while a service is away: how long the pauses are, and that it is said only once."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TypeVar

from textmill.core.errors import ServiceUnavailableError

R = TypeVar("R")

FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 5.0


def keep_trying(
    action: Callable[[], R],
    *,
    pause: Callable[[float], bool],
    away: Callable[[ServiceUnavailableError], None] = lambda error: None,
    back: Callable[[], None] = lambda: None,
    final: type[ServiceUnavailableError] | tuple[()] = (),
) -> R:
    """``action()``, again while its service is away, after pauses of up to five seconds.

    ``pause(seconds)`` sleeps; if it returns True the service's error is raised. ``away`` is called
    at the first failure, ``back`` once an answer came after one. An error of the kind ``final`` is
    raised at once, whatever came before.
    """
    limit = FIRST_PAUSE_SECONDS
    failed = False
    while True:
        try:
            result = action()
        except ServiceUnavailableError as error:
            if isinstance(error, final):
                raise
            if not failed:
                away(error)
            failed = True
            # At random: all who wait for a server that returns should not come at one moment.
            if pause(random.uniform(limit / 2, limit)):
                raise
            limit = min(2 * limit, LONGEST_PAUSE_SECONDS)
        else:
            if failed:
                back()
            return result
