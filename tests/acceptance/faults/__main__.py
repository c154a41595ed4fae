"""Many seeds: ``python -m tests.acceptance.faults --seeds 200 --database postgresql``.

Prints a line per seed, a table by kind of fault, one of the totals, and these as one JSON object.
Exit code 1 if anything was lost, doubled, wrong or never ended.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from textmill.producer.terminal import table

from .mill import LEASE_SECONDS, Servers
from .seed import Outcome, run_seed

HUNG_SECONDS = 180.0  # the harness itself hangs: say where, and end


def main() -> int:
    """Run the seeds that the journal does not have yet, and report on all."""
    parser = argparse.ArgumentParser(prog="python -m tests.acceptance.faults", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--journal", type=Path, help="file of outcomes: go on where it ends")
    parser.add_argument("--keep-logs", action="store_true", help="of seeds without problems too")
    given = parser.parse_args()
    outcomes = _read(given.journal, given.database)
    wanted = range(given.first, given.first + given.seeds)
    with Servers(given.database) as servers:
        for seed in (seed for seed in wanted if seed not in outcomes):
            faulthandler.dump_traceback_later(HUNG_SECONDS, exit=True)
            outcomes[seed] = run_seed(seed, servers, keep_logs=given.keep_logs)
            faulthandler.cancel_dump_traceback_later()
            print(_line(outcomes[seed]), file=sys.stderr, flush=True)
            _append(given.journal, given.database, outcomes[seed])
    ran = [outcomes[seed] for seed in wanted]
    print(_table(ran))
    totals = {"database": given.database} | _totals(ran)
    print(f"\n{_table_of_totals(totals)}\n")
    print(json.dumps(totals))
    return int(bool(totals["bad_seeds"]))


def _read(journal: Path | None, database: str) -> dict[int, Outcome]:
    if journal is None or not journal.exists():
        return {}
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    if any(line.pop("database") != database for line in lines):
        sys.exit(f"{journal} has seeds of another database; give each a journal of its own")
    return {line["seed"]: Outcome(**line) for line in lines}


def _append(journal: Path | None, database: str, outcome: Outcome) -> None:
    if journal is not None:
        with journal.open("a") as file:
            file.write(json.dumps({"database": database} | asdict(outcome)) + "\n")


def _line(outcome: Outcome) -> str:
    faults = ", ".join(outcome.faults)
    line = f"seed {outcome.seed}: {outcome.records} records, {outcome.seconds:.1f} s: {faults}"
    for problem in outcome.problems:
        line += f"\n  {problem}"
    return line + (f"\n  its logs: {outcome.logs}" if outcome.logs else "")


def _table(outcomes: Sequence[Outcome]) -> str:
    injected: dict[str, int] = defaultdict(int)
    seconds: dict[str, list[float]] = defaultdict(list)
    for outcome in outcomes:
        for name in outcome.faults:
            injected[name] += 1
        for name, took in outcome.recoveries:
            seconds[name].append(took)
    rows = [
        [name, str(number), str(len(seconds[name])), *_median_and_worst(seconds[name])]
        for name, number in sorted(injected.items())
    ]
    every = [took for kind in seconds.values() for took in kind]
    rows.append(["all", str(sum(injected.values())), str(len(every)), *_median_and_worst(every)])
    headers = ["fault", "injected", "recoveries", "median s", "worst s"]
    return table(headers, rows, right=",".join(headers[1:]))


def _table_of_totals(totals: dict[str, Any]) -> str:
    headers = {
        "seeds": "seeds",
        "faults": "faults injected",
        "recoveries": "recoveries",
        "records": "records",
        "lost": "lost",
        "duplicated": "duplicated",
        "median_recovery_seconds": "median recovery s",
        "worst_recovery_seconds": "worst recovery s",
    }
    names = list(headers.values())
    return table(names, [[f"{totals[key]:,}" for key in headers]], right=",".join(names))


def _median_and_worst(seconds: Sequence[float]) -> list[str]:
    if not seconds:
        return ["-", "-"]
    return [f"{statistics.median(seconds):.2f}", f"{max(seconds):.2f}"]


def _totals(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    def seconds_of(kinds: Iterable[str] | None) -> list[float]:
        pairs = [pair for outcome in outcomes for pair in outcome.recoveries]
        return [took for name, took in pairs if kinds is None or name in kinds] or [0.0]

    killed = seconds_of({"worker killed", "host killed"})
    return {
        "seeds": len(outcomes),
        "lease_seconds": LEASE_SECONDS,
        "faults": sum(len(outcome.faults) for outcome in outcomes),
        "recoveries": sum(len(outcome.recoveries) for outcome in outcomes),
        "unrecovered": sum(len(outcome.unrecovered) for outcome in outcomes),
        "records": sum(outcome.records for outcome in outcomes),
        "lost": sum(outcome.lost for outcome in outcomes),
        "duplicated": sum(outcome.duplicated for outcome in outcomes),
        "median_recovery_seconds": round(statistics.median(seconds_of(None)), 3),
        "worst_recovery_seconds": round(max(seconds_of(None)), 3),
        "worst_release_after_sigkill_in_leases": round(max(killed) / LEASE_SECONDS, 2),
        "median_seed_seconds": round(statistics.median(o.seconds for o in outcomes), 1),
        "worst_seed_seconds": round(max(o.seconds for o in outcomes), 1),
        "seeds_over_15_seconds": sum(o.seconds > 15 for o in outcomes),
        "bad_seeds": [o.seed for o in outcomes if o.problems or o.unrecovered],
    }


if __name__ == "__main__":
    sys.exit(main())
