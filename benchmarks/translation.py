"""The engine against ``model.generate`` on translation: same model, texts and threads, greedy.

transformers 5 has no pipeline for it, so the other side is what a script would do: one by one, or
fixed batches in input order. The texts are a mix of short and long: sentences of a file, and some
of them joined. Whole texts are compared for equal outputs; then the engine does what it does unless
told otherwise, sentence by sentence, and sacrebleu scores each way against the file's translations.

    python -m benchmarks.translation --model FOLDER --texts PAIRS.tsv --json
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import sacrebleu
import torch
import transformers

from benchmarks.engine_vs_pipeline import SUBMITTING_THREADS, Cost, in_own_thread, measure
from textmill.core.errors import RecordError
from textmill.core.jobs import Record
from textmill.core.tasks import get_task, validate_params
from textmill.workers.engine import Engine
from textmill.workers.items import ModelRequest, Output
from textmill.workers.registry import load_runner

TASK = "translation"
BATCH_SIZES = (1, 8, 32, 64, 128)
JOINED = (1, 2, 3, 5, 8)  # sentences of one text
WEIGHTS = (70, 10, 8, 7, 5)  # how often, of 100 texts


@dataclass(frozen=True, slots=True)
class Pair:
    """A text and its translation."""

    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Run:
    """One way through the texts."""

    name: str
    cost: Cost
    outputs: list[str]


def main() -> None:
    """Measure every way and print it, or with --json one object at the end."""
    options = _parse_options()
    if options.threads:
        torch.set_num_threads(options.threads)
    pairs = read_pairs(options.texts, options.limit)
    plain = in_own_thread(partial(run_plain, pairs, options))
    report = summarize(pairs, plain, run_engines(pairs, options))
    report |= {"texts": len(pairs), "threads": torch.get_num_threads(), "device": "cpu"}
    print_table(report)
    if options.json:
        print(json.dumps(report))


def read_pairs(path: Path, limit: int | None) -> list[Pair]:
    """Lines of ``source<TAB>target…``, some of them joined to longer texts."""
    rows = [line.split("\t")[:2] for line in path.read_text(encoding="utf-8").splitlines()]
    dice = random.Random(1)
    found: list[Pair] = []
    while rows:
        count = dice.choices(JOINED, WEIGHTS)[0]
        taken, rows = rows[:count], rows[count:]
        found.append(Pair(*(" ".join(side) for side in zip(*taken, strict=True))))
    return found[:limit]


def run_plain(pairs: list[Pair], options: argparse.Namespace) -> list[Run]:
    """``model.generate`` by batch size."""
    with warnings.catch_warnings(action="ignore"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(options.model)
    model: Any = transformers.AutoModelForSeq2SeqLM.from_pretrained(options.model)
    model.eval()
    texts = [pair.source for pair in pairs]
    runs = []
    for size in BATCH_SIZES:
        generate(model, tokenizer, texts[:size], size)  # warm-up
        name = "one by one" if size == 1 else f"batches of {size}"
        runs.append(Run(name, *measure(partial(generate, model, tokenizer, texts, size))))
    return runs


def generate(model: Any, tokenizer: Any, texts: list[str], size: int) -> list[str]:
    """Translations, from batches of ``size`` texts in input order."""
    found: list[str] = []
    for start in range(0, len(texts), size):
        inputs = tokenizer(texts[start : start + size], return_tensors="pt", padding=True)
        with torch.inference_mode():
            ids = model.generate(**inputs, num_beams=1, do_sample=False)
        found.extend(tokenizer.batch_decode(ids, skip_special_tokens=True))
    return found


def run_engines(pairs: list[Pair], options: argparse.Namespace) -> list[Run]:
    """The engine on whole texts and by sentences, with each backend that is installed."""
    request = ModelRequest(TASK, str(options.model), dtype="fp32", device="cpu")
    engine = Engine(lambda: load_runner(request), name="benchmark")
    engine.wait_ready()
    backends = ["torch"]
    if importlib.util.find_spec("ctranslate2"):
        backends.append("ctranslate2")
    runs = []
    for split in ("long", "sentences"):
        for backend in backends:
            settings = {"split": split, "backend": backend, "num_beams": 1}
            translate(engine, pairs[:8], settings)  # converts, the first time
            cost, outputs = measure(partial(translate, engine, pairs, settings))
            what = "whole texts" if split == "long" else "by sentences"
            runs.append(Run(f"engine, {backend}, {what}", cost, outputs))
    engine.close()
    return runs


def translate(engine: Engine, pairs: Sequence[Pair], settings: dict[str, Any]) -> list[str]:
    """Translations, fed as a worker feeds them."""
    task = get_task(TASK)
    params = validate_params(task, settings)
    records = [Record(n, str(n), {"text": pair.source}) for n, pair in enumerate(pairs)]
    size = task.chunk_records
    chunks = [records[start : start + size] for start in range(0, len(records), size)]
    with ThreadPoolExecutor(SUBMITTING_THREADS) as pool:
        found = list(pool.map(lambda chunk: engine.submit(chunk, params).wait(), chunks))
    return [_text(output) for chunk in found for output in chunk]


def _text(output: Output | RecordError) -> str:
    if isinstance(output, RecordError) or output.output is None:
        raise SystemExit(f"the engine has no translation of a text: {output}")
    return output.output


def summarize(pairs: list[Pair], plain: list[Run], engines: list[Run]) -> dict[str, Any]:
    """Speeds, their ratios to the best plain way, equal outputs and BLEU."""
    texts = [pair.source for pair in pairs]
    best = max(run.cost.rate(texts) for run in plain)
    best_cpu = max(run.cost.cpu_rate(texts) for run in plain)
    rows = []
    for run in [*plain, *engines]:
        equal = sum(a == b for a, b in zip(run.outputs, plain[0].outputs, strict=True))
        bleu = sacrebleu.corpus_bleu(run.outputs, [[pair.target for pair in pairs]])
        rate, cpu_rate = run.cost.rate(texts), run.cost.cpu_rate(texts)
        rows.append(
            {
                "way": run.name,
                "per_second": rate,
                "per_cpu_second": cpu_rate,
                "ratio_to_best_plain": round(rate / best, 2),
                "cpu_ratio_to_best_plain": round(cpu_rate / best_cpu, 2),
                "equal_to_one_by_one": round(equal / len(texts), 4),
                "bleu": round(bleu.score, 2),
            }
        )
    return {"runs": rows, "sacrebleu": sacrebleu.__version__}


def print_table(report: dict[str, Any]) -> None:
    """The report for people."""
    print(f"{report['texts']} texts, fp32, {report['threads']} threads")
    print(f"  {'':<36}{'texts/s':>9}{'per CPU s':>11}{'ratio':>7}{'CPU':>7}{'equal':>9}{'BLEU':>7}")
    for row in report["runs"]:
        print(f"  {row['way']:<36}{row['per_second']:>9}{row['per_cpu_second']:>11}", end="")
        print(f"{row['ratio_to_best_plain']:>7}{row['cpu_ratio_to_best_plain']:>7}", end="")
        print(f"{row['equal_to_one_by_one']:>9.1%}{row['bleu']:>7}")


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--texts", type=Path, required=True, help="lines of source<TAB>target")
    parser.add_argument("--limit", type=int, help="only the first LIMIT texts of the mix")
    parser.add_argument("--threads", type=int, help="torch threads, for all (default: torch's)")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
