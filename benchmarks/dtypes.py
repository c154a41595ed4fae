"""A classifier on the CPU in each dtype and attention: speed, size, and how far fp32 is kept.

Labelled texts go through the engine; then one Linear layer is timed in each way to multiply,
among them the one with a scale for each token, which ``workers/runners/quantizing.py`` leaves out.

    python -m benchmarks.dtypes --model FOLDER --texts LABELLED.tsv --threads 1 --json
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import linear

from benchmarks.engine_vs_pipeline import Answer, Cost, compare, measure
from textmill.core.errors import RecordError
from textmill.core.jobs import Record
from textmill.core.params import ClassificationParams
from textmill.workers.engine import Engine
from textmill.workers.items import ModelRequest
from textmill.workers.runners.classification import ClassificationRunner
from textmill.workers.runners.quantizing import Int8Linear

BATCH_TOKENS, SMALL_BATCH_TOKENS = 1024, 64
TOKENS, INPUTS, OUTPUTS = 1024, 384, 1536  # of the one layer
REPEATS = 20


def main() -> None:
    """Measure all and print it, or with --json one object as the last line."""
    options = _parse_options()
    if options.threads:
        torch.set_num_threads(options.threads)
    lines = options.texts.read_text(encoding="utf-8").splitlines()[: options.limit]
    labels, texts = zip(*(line.split("\t", 1) for line in lines), strict=True)
    ways = {
        "fp32, sdpa": ("fp32", "sdpa", BATCH_TOKENS),
        "fp32, eager": ("fp32", "eager", BATCH_TOKENS),
        "int8, sdpa": ("int8", "sdpa", BATCH_TOKENS),
        f"int8, batches of {SMALL_BATCH_TOKENS}": ("int8", "sdpa", SMALL_BATCH_TOKENS),
        "bf16, sdpa": ("bf16", "sdpa", BATCH_TOKENS),
    }
    runs: dict[str, dict[str, Any]] = {}
    answers: dict[str, list[Answer]] = {}
    for name, way in ways.items():
        size, cost, answers[name] = run(options.model, list(texts), *way)
        pairs = zip(labels, answers[name], strict=True)
        right = sum(label.lower() == str(answer[0]).lower() for label, answer in pairs)
        runs[name] = {
            "texts_per_second": cost.rate(list(texts)),
            "texts_per_cpu_second": cost.cpu_rate(list(texts)),
            "weights_mb": round(size / 1e6, 1),
            "accuracy": round(right / len(texts), 4),
            **compare(answers[name], answers["fp32, sdpa"]),
        }
        print(f"{name:<22}{runs[name]}", flush=True)
    apart = compare(answers[f"int8, batches of {SMALL_BATCH_TOKENS}"], answers["int8, sdpa"])
    print(f"int8 by batch size    {apart}")
    layer = time_layer()
    print(f"one layer, ms         {layer}")
    if options.json:
        print(json.dumps({"runs": runs, "int8_by_batch_size": apart, "layer_ms": layer}))


def run(
    model: Path, texts: list[str], dtype: str, attention: str, batch_tokens: int
) -> tuple[int, Cost, list[Answer]]:
    """What the weights take, what the texts cost, and each text's answer."""
    request = ModelRequest("classification", str(model), dtype=dtype, device="cpu")

    def load() -> ClassificationRunner:
        runner = ClassificationRunner.load(request)
        runner._model.set_attn_implementation(attention)
        return runner

    engine = Engine(load, max_batch_tokens=batch_tokens, name="benchmark")
    engine.wait_ready()
    records = [Record(n, str(n), {"text": text}) for n, text in enumerate(texts)]
    cost, found = measure(lambda: engine.submit(records, ClassificationParams()).wait())
    size = engine.memory_bytes
    engine.close()
    failed = [one for one in found if isinstance(one, RecordError)]
    if failed:
        raise SystemExit(f"a text failed: {failed[0]}")
    return size, cost, [(one.label, one.score or 0.0) for one in found]


def time_layer() -> dict[str, float]:
    """Median milliseconds of one Linear layer in each way."""
    layer = torch.nn.Linear(INPUTS, OUTPUTS)
    inputs = torch.randn(TOKENS, INPUTS)
    int8 = Int8Linear(layer)
    weight = layer.weight.detach()
    scales = weight.abs().amax(dim=1) / 127
    rounded = (weight / scales[:, None]).round().to(torch.int8).t().contiguous()
    half_inputs, half_weight = inputs.bfloat16(), weight.bfloat16()

    def by_token() -> torch.Tensor:
        own = inputs.abs().amax(dim=1, keepdim=True) / 127
        return torch._int_mm((inputs / own).round().to(torch.int8), rounded) * own * scales

    ways: dict[str, Callable[[], torch.Tensor]] = {
        "fp32": lambda: linear(inputs, weight),
        "int8": lambda: int8(inputs),
        "int8, a scale for each token": by_token,
        "bf16": lambda: linear(half_inputs, half_weight),
    }
    return {name: _median_ms(way) for name, way in ways.items()}


def _median_ms(way: Callable[[], torch.Tensor]) -> float:
    taken = []
    with torch.inference_mode():
        way()
        for _ in range(REPEATS):
            started = time.perf_counter()
            way()
            taken.append(time.perf_counter() - started)
    return round(1000 * statistics.median(taken), 1)


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--texts", type=Path, required=True, help="lines of label<TAB>text")
    parser.add_argument("--limit", type=int, help="only the first LIMIT texts")
    parser.add_argument("--threads", type=int, help="torch threads (default: torch's)")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
