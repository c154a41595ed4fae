"""The engine against transformers' own pipeline: same model, same texts, same dtype, same threads.

The engine is fed as a worker feeds it: chunks of 256 records from four threads. The pipeline gets
the texts in input order at several batch sizes, and the best of them counts.

    python -m benchmarks.engine_vs_pipeline --model FOLDER --texts FILE.tsv --limit 1500 --json
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
import transformers

from textmill.core.errors import RecordError
from textmill.core.jobs import Record
from textmill.core.params import ClassificationParams
from textmill.workers.engine import Engine
from textmill.workers.items import ModelRequest, Output
from textmill.workers.registry import load_runner
from textmill.workers.runners.devices import DTYPES, choose_device, choose_dtype

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "sms_spam"
PIPELINE_BATCH_SIZES = (1, 8, 32, 128)
CHUNK_RECORDS = 256
SUBMITTING_THREADS = 4

Result = TypeVar("Result")
Answer = tuple[str | None, float]  # label and score


def main() -> None:
    """Measure both and print a table, or with --json one object as the last line."""
    options = _parse_options()
    if options.threads:
        torch.set_num_threads(options.threads)
    texts = read_texts(options.texts, options.limit)
    before, answers = run_engine(texts, options)
    runs = in_own_thread(partial(run_pipelines, texts, options))
    after, _ = run_engine(texts, options)  # first and last, so that a drift of the machine shows
    engine = Cost(before.seconds + after.seconds, before.cpu_seconds + after.cpu_seconds, 2)
    best = max(runs, key=lambda size: runs[size][0].rate(texts))
    cheapest = max(runs, key=lambda size: runs[size][0].cpu_rate(texts))
    report: dict[str, Any] = {
        "texts": len(texts),
        "dtype": options.dtype,
        "device": str(choose_device(options.device)),
        "threads": torch.get_num_threads(),
        "pipeline_texts_per_second": {n: cost.rate(texts) for n, (cost, _) in runs.items()},
        "pipeline_texts_per_cpu_second": {n: cost.cpu_rate(texts) for n, (cost, _) in runs.items()},
        "engine_texts_per_second": engine.rate(texts),
        "engine_texts_per_cpu_second": engine.cpu_rate(texts),
        "ratio": round(engine.rate(texts) / runs[best][0].rate(texts), 2),
        "cpu_ratio": round(engine.cpu_rate(texts) / runs[cheapest][0].cpu_rate(texts), 2),
    } | compare(answers, runs[1][1])  # at batch size 1 nothing is padded
    print_table(report)
    if options.json:
        print(json.dumps(report))


@dataclass(frozen=True, slots=True)
class Cost:
    """Wall time, and the processor time of all threads, of ``rounds`` passes over the texts."""

    seconds: float
    cpu_seconds: float
    rounds: int = 1

    def rate(self, texts: list[str]) -> float:
        """Texts per second."""
        return round(self.rounds * len(texts) / self.seconds, 1)

    def cpu_rate(self, texts: list[str]) -> float:
        """Texts per processor second: steadier than ``rate`` on a machine that others use too."""
        return round(self.rounds * len(texts) / self.cpu_seconds, 1)


def measure(action: Callable[[], Result]) -> tuple[Cost, Result]:
    """What ``action`` costs, and what it returned."""
    started, cpu_started = time.perf_counter(), time.process_time()
    result = action()
    return Cost(time.perf_counter() - started, time.process_time() - cpu_started), result


def in_own_thread(action: Callable[[], Result]) -> Result:
    """``action()`` in a thread that ends with it, as an engine's does.

    libgomp keeps helpers for each thread that has computed something. Once there are more of them
    than cores, they sleep between operations, and whoever computes next would be slower.
    """
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(action).result()


def run_engine(texts: list[str], options: argparse.Namespace) -> tuple[Cost, list[Answer]]:
    """The cost, loading left out, and each text's answer."""
    request = ModelRequest(
        "classification", str(options.model), dtype=options.dtype, device=options.device
    )
    engine = Engine(
        lambda: load_runner(request), max_batch_tokens=options.max_batch_tokens, name="benchmark"
    )
    engine.wait_ready()
    params = ClassificationParams()
    records = [Record(n, str(n), {"text": text}) for n, text in enumerate(texts)]

    def process(chunk: list[Record]) -> list[Output | RecordError]:
        return engine.submit(chunk, params).wait()

    with ThreadPoolExecutor(SUBMITTING_THREADS) as pool:
        cost, found = measure(lambda: list(pool.map(process, chunks(records))))
    engine.close()
    return cost, [_answer(output) for chunk in found for output in chunk]


def run_pipelines(
    texts: list[str], options: argparse.Namespace
) -> dict[int, tuple[Cost, list[Answer]]]:
    """The cost and each text's answer, for each batch size."""
    pipeline = make_pipeline(options)
    runs = {}
    for size in PIPELINE_BATCH_SIZES:
        pipeline(texts[:size], batch_size=size, truncation=True)  # warm-up
        cost, found = measure(partial(pipeline, texts, batch_size=size, truncation=True))
        runs[size] = (cost, [(answer["label"], answer["score"]) for answer in found])
    return runs


def make_pipeline(options: argparse.Namespace) -> Any:
    """What a script without Textmill would use."""
    device = choose_device(options.device)
    return transformers.pipeline(
        "text-classification",
        model=str(options.model),
        dtype=choose_dtype(options.dtype, device),
        device=device,
    )


def compare(answers: list[Answer], expected: list[Answer]) -> dict[str, float]:
    """How far the engine's answers agree with the pipeline's at batch size 1."""
    pairs = list(zip(answers, expected, strict=True))
    equal = [(a[1], b[1]) for a, b in pairs if a[0] == b[0]]
    return {
        "label_agreement": len(equal) / len(pairs),
        "max_score_difference": max((abs(a - b) for a, b in equal), default=1.0),
    }


def chunks(records: list[Record]) -> Iterator[list[Record]]:
    """The records in chunks as a job cuts them."""
    for start in range(0, len(records), CHUNK_RECORDS):
        yield records[start : start + CHUNK_RECORDS]


def read_texts(path: Path, limit: int | None) -> list[str]:
    """The column ``text`` of a TSV file with a header."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [row["text"] for _, row in zip(range(limit or 10**9), rows, strict=False)]


def print_table(report: dict[str, Any]) -> None:
    """The report for people."""
    print(f"{report['texts']} texts, {report['dtype']} on {report['device']}", end="")
    print(f", {report['threads']} threads          texts/s   texts/CPU s")
    cpu_rates = report["pipeline_texts_per_cpu_second"]
    for size, rate in report["pipeline_texts_per_second"].items():
        print(f"  pipeline, batch size {size:>3} {rate:>20.1f} {cpu_rates[size]:>13.1f}")
    print(f"  engine                   {report['engine_texts_per_second']:>20.1f}", end="")
    print(f" {report['engine_texts_per_cpu_second']:>13.1f}")
    print(f"  engine over best pipeline{report['ratio']:>20.2f} {report['cpu_ratio']:>13.2f}")
    print(f"  labels equal: {report['label_agreement']:.2%}", end="")
    print(f", largest score difference: {report['max_score_difference']:.1e}")


def _answer(output: Output | RecordError) -> Answer:
    if isinstance(output, RecordError) or output.score is None:
        raise SystemExit(f"the engine has no score for a text: {output}")
    return output.label, output.score


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, default=EXAMPLE / "model")
    parser.add_argument("--texts", type=Path, default=EXAMPLE / "sms_spam.tsv")
    parser.add_argument("--limit", type=int, help="only the first LIMIT texts")
    parser.add_argument("--dtype", choices=["auto", *DTYPES], default="fp32")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, help="torch threads, for both (default: torch's)")
    parser.add_argument("--max-batch-tokens", type=int, help="default: by device")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
