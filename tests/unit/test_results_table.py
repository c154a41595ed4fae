"""The table of results: the same rows are the same table."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from textmill.producer.cli.rows_table import print_rows
from textmill.producer.terminal import cell_width, fit, table

TABLE = """
from textmill.db.result_rows import Result
from textmill.producer.cli.results_table import print_results

rest = dict.fromkeys(Result.__dataclass_fields__)
long = {"text": "t" * 200, "output": "o" * 200}
error = {"error_code": "too_long", "error_message": "e" * 200}
print_results([Result(**(rest | {"record_index": 0, "record_id": "a"} | long | error))])
"""


def test_columns_of_one_width_share_the_line_alike_in_every_process() -> None:
    """The order of a set of texts differs from one process to the next."""
    tables = {
        subprocess.run(
            [sys.executable, "-c", TABLE],
            env=os.environ | {"PYTHONHASHSEED": str(seed), "COLUMNS": "100"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in range(6)
    }
    (table,) = tables
    assert table.split()[:4] == ["record", "output", "error", "text"]


@pytest.mark.parametrize("columns", [200, 73, 50, 30, 20])
def test_a_table_is_as_narrow_as_its_terminal(columns: int) -> None:
    printed = subprocess.run(
        [sys.executable, "-c", NARROW],
        env=os.environ | {"COLUMNS": str(columns)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert [cell_width(line) <= columns for line in printed] == [True] * 3
    assert columns < 50 or "0.984" in printed[1]


NARROW = """
from textmill.db.result_rows import Result
from textmill.producer.cli.results_table import print_results

rest = dict.fromkeys(Result.__dataclass_fields__) | {"record_index": 0}
good = {"record_id": "r" * 12, "label": "\u6f22" * 8, "score": 0.984, "text": "t " * 40}
bad = {"record_id": "b", "error_code": "too_long", "error_message": "e" * 200}
print_results([Result(**(rest | good)), Result(**(rest | bad))])
"""


def test_only_what_does_not_fit_is_shortened_the_longest_first() -> None:
    lines = [["when", "n", "what"], ["2026-01-01", "7", "older than 30 days"]]
    assert fit(lines, 33) == lines
    assert fit(lines, 30) == [["when", "n", "what"], ["2026-01-01", "7", "older than 30…"]]
    assert fit(lines, 20) == [["when", "n", "what"], ["2026-0…", "7", "older…"]]
    assert fit(lines, 3) == [["w…", "n", "w…"], ["2…", "7", "o…"]]


def test_a_column_of_ones_own_may_be_called_anything(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows(["a\nb", "c"], [["x\ny", 7]])
    assert capsys.readouterr().out.splitlines() == ["a b  c", "x y  7"]


def test_a_number_is_at_the_right_however_narrow_its_column() -> None:
    shown = table(["records", "score"], [["11", "x" * 9]], right="records", columns=10)
    assert shown.splitlines() == ["rec…  sco…", "  11  xxx…"]
