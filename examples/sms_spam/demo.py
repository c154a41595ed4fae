"""``make demo``: the spam filter over all 5,574 messages, and how well it did on the unseen ones.

The job itself is the command ``textmill run``; what is added here is the comparison with the
labels that the collection knows, on the test split only.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

from textmill import Job
from textmill.core.settings import load_settings
from textmill.db.result_rows import Result
from textmill.db.session import Database
from textmill.producer.summary import (
    database_place,
    error_lines,
    headline,
    label_lines,
    summarize,
)
from textmill.producer.terminal import shorten

FOLDER = Path(__file__).parent
TEXTMILL = Path(sys.executable).parent / "textmill"


def main() -> int:
    """Run the job, print the summary; returns the exit code of the run."""
    command = [str(TEXTMILL), "run", str(FOLDER / "sms_spam.tsv")]
    command += ["--task", "classification", "--model", str(FOLDER / "model"), "--id-column", "id"]
    print("$ " + " ".join(map(_short, command)), flush=True)
    done = subprocess.run([*command, "--json"], stdout=subprocess.PIPE, check=False)
    if done.returncode != 0:
        return done.returncode
    job = Job(json.loads(done.stdout)["id"])
    _print_summary(job)
    _print_agreement(job)
    _print_most_confident(job)
    print(f"\ndatabase  {database_place(load_settings())}")
    print(f"next      {_short(TEXTMILL)} results {job.id} --label spam --search free")
    return 0


def _short(word: str | Path) -> str:
    return str(word).removeprefix(f"{Path.cwd()}/")


def _print_summary(job: Job) -> None:
    database = Database.open(load_settings())
    summary = summarize(database, job.id)
    database.close()
    print("\n".join([headline(summary), *label_lines(summary), *error_lines(summary)]))


def _print_agreement(job: Job) -> None:
    pairs: Counter[tuple[str, str]] = Counter()  # (known label, label found)
    for row in job.results():
        if row.extra and row.extra["split"] == "test" and row.label:
            pairs[row.extra["label"], row.label] += 1
    hits, total = pairs["spam", "spam"], pairs.total()
    precision = hits / max(1, hits + pairs["ham", "spam"])
    recall = hits / max(1, hits + pairs["spam", "ham"])
    f1 = 2 * precision * recall / max(1e-9, precision + recall)
    accuracy = (hits + pairs["ham", "ham"]) / total
    print(f"\nagreement with the known labels on the {total:,} messages the model never saw:")
    print(
        f"  accuracy {accuracy:.3f}   spam: precision {precision:.3f}, recall {recall:.3f}, "
        f"F1 {f1:.3f}"
    )


def _print_most_confident(job: Job) -> None:
    print("\nthe three most confident spam messages:")
    rows: list[Result] = list(job.results(label="spam", order="score", limit=3))
    for row in rows:
        print(f"  {row.record_id}  {row.score:.4f}  {shorten(row.text or '', 80)}")


if __name__ == "__main__":
    sys.exit(main())
