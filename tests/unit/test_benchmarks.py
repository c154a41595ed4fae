"""Benchmarks are run by hand; that they can still be imported is seen here."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

import pytest

from textmill.core.tasks import TASKS

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
NAMES = sorted(path.stem for path in FOLDER.glob("[a-z]*.py"))


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_can_be_imported(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("textmill.core.tasks.TASKS", dict(TASKS))  # one of them registers its own
    monkeypatch.setattr(os, "environ", os.environ.copy())
    assert importlib.import_module(f"benchmarks.{name}").__doc__
