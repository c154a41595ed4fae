"""A nightly spam filter for cron: submit one day's comments, wait, say how it went.

    15 2 * * *  python submit_comments.py comments.csv --model /srv/spam --text-column comment

It may be run again at any time: the key is made of the file's name and the date, and the same key
with the same input gives the same job. Exit codes are those of the command line: 0 done, 1 failed
or not done in time, 2 wrong usage or input, 3 done with record errors.
"""

import argparse
import sys
from datetime import date
from pathlib import Path

from textmill import Job, submit
from textmill.core.errors import TextmillError

EXIT_CODES = {"completed": 0, "completed_with_errors": 3}  # anything else: 1


def main() -> int:
    given = parse_arguments()
    try:
        job = submit(
            given.input,
            model=given.model,
            text_column=given.text_column,
            id_column=given.id_column,
            key=given.key or f"{given.input.name} {date.today():%Y-%m-%d}",
            max_error_rate=0.05,
        )
        status = job.wait(timeout=given.timeout)
        report(job, given.label)
    except TextmillError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except TimeoutError as error:  # the job goes on; run this again to wait for it again
        print(f"error: {error}", file=sys.stderr)
        return 1
    return EXIT_CODES.get(status, 1)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Find spam among one day's comments.")
    parser.add_argument("input", type=Path, help="file of comments: .csv .tsv .jsonl .parquet .txt")
    parser.add_argument("--model", required=True, help="folder of a classifier, or its hub name")
    parser.add_argument("--text-column", help="column of the text (default: a guess)")
    parser.add_argument("--id-column", help="column of the ids (default: the row's number)")
    parser.add_argument("--key", help="idempotency key (default: the file's name and the date)")
    parser.add_argument("--timeout", type=float, default=3600, help="seconds (default: 3600)")
    parser.add_argument("--label", default="spam", help="label to show the surest records of")
    return parser.parse_args()


def report(job: Job, label: str) -> None:
    """One line of summary, then the five surest records of the label."""
    counts = job.counts()
    reason = f": {job.error}" if job.error else ""
    print(
        f"job {job.id} {job.status}: {counts['done']} of {counts['total']} records "
        f"done, {counts['errors']} errors{reason}"
    )
    for row in job.results(label=label, order="score", limit=5):
        print(f"  {row.score:.3f}  {row.record_id}  {' '.join((row.text or '').split())[:80]}")


if __name__ == "__main__":
    sys.exit(main())
