"""The table of results: the same rows are the same table."""

from __future__ import annotations

import os
import subprocess
import sys

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
