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
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import transformers

from textmill.core.errors import RecordError
from textmill.core.jobs import Record
from textmill.core.tasks import ClassificationParams
from textmill.workers.engine import Engine
from textmill.workers.items import ModelRequest, Output
from textmill.workers.registry import load_runner
from textmill.workers.runners.devices import DTYPES, choose_device, choose_dtype

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "sms_spam"
PIPELINE_BATCH_SIZES = (1, 8, 32, 128)
CHUNK_RECORDS = 256
SUBMITTING_THREADS = 4

Answer = tuple[str | None, float]  # label and score


def main() -> None:
    """Measure both and print a table, or with --json one object as the last line."""
    options = _parse_options()
    if options.threads:
        torch.set_num_threads(options.threads)
    texts = read_texts(options.texts, options.limit)
    report: dict[str, Any] = {
        "texts": len(texts),
        "dtype": options.dtype,
        "device": str(choose_device(options.device)),
        "threads": torch.get_num_threads(),
        "pipeline_texts_per_second": {},
    }
    engine_rate, answers = run_engine(texts, options)
    expected: list[Answer] = []
    pipeline = make_pipeline(options)
    for size in PIPELINE_BATCH_SIZES:
        rate, found = run_pipeline(pipeline, texts, size)
        report["pipeline_texts_per_second"][str(size)] = round(rate, 1)
        expected = expected or found  # batch size 1: no padding
    best = max(report["pipeline_texts_per_second"].values())
    report["engine_texts_per_second"] = round(engine_rate, 1)
    report["ratio"] = round(engine_rate / best, 2)
    report |= compare(answers, expected)
    print_table(report)
    if options.json:
        print(json.dumps(report))


def run_engine(texts: list[str], options: argparse.Namespace) -> tuple[float, list[Answer]]:
    """Texts per second, loading left out, and each text's answer."""
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

    started = time.perf_counter()
    with ThreadPoolExecutor(SUBMITTING_THREADS) as pool:
        outputs = [output for found in pool.map(process, chunks(records)) for output in found]
    seconds = time.perf_counter() - started
    engine.close()
    return len(texts) / seconds, [_answer(output) for output in outputs]


def make_pipeline(options: argparse.Namespace) -> Any:
    """What a script without Textmill would use."""
    device = choose_device(options.device)
    return transformers.pipeline(
        "text-classification",
        model=str(options.model),
        dtype=choose_dtype(options.dtype, device),
        device=device,
    )


def run_pipeline(pipeline: Any, texts: list[str], size: int) -> tuple[float, list[Answer]]:
    """Texts per second at one batch size, and each text's answer."""
    pipeline(texts[:size], batch_size=size, truncation=True)  # warm-up
    started = time.perf_counter()
    found = pipeline(texts, batch_size=size, truncation=True)
    seconds = time.perf_counter() - started
    return len(texts) / seconds, [(answer["label"], answer["score"]) for answer in found]


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
    print(f", {report['threads']} threads")
    for size, rate in report["pipeline_texts_per_second"].items():
        print(f"  pipeline, batch size {size:>3}  {rate:>10.1f} texts/s")
    print(f"  engine                    {report['engine_texts_per_second']:>10.1f} texts/s", end="")
    print(f"  = {report['ratio']:.2f} x the best pipeline")
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
