"""What a test needs of the machine beyond Python packages."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def lacks(reason: str) -> NoReturn:
    """Skip the test where the machine lacks something; in CI, where everything must run, fail."""
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(f"CI has to run every test, but {reason}", pytrace=False)
    pytest.skip(reason)
