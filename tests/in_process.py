"""``textmill …`` in the test's own process, for what is asked hundreds of times."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from textmill.producer.cli.main import main


def run_main(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str | Path
) -> tuple[int, str, str]:
    """The console command's own entry: its exit code, stdout and stderr."""
    monkeypatch.setattr(sys, "argv", ["textmill", *map(str, words)])
    capsys.readouterr()
    code: object = 0
    try:
        main()
    except SystemExit as end:
        code = end.code or 0
    out, err = capsys.readouterr()
    assert isinstance(code, int), code
    return code, out, err
