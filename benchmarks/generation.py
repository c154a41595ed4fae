"""Continuous batching against transformers' ways of generating: same model, prompts and limits.

Each prompt has a limit of its own, from 5 to 200 tokens; end tokens are suppressed for all, so that
every output is as long as its limit. A pipeline and ``generate`` take one limit a batch: they run
to the batch's largest, and only the tokens that a prompt asked for are counted, as useful ones.

    python -m benchmarks.generation --model FOLDER_OR_GGUF --json
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers

from textmill.workers.runners.decoding.loop import DecodeLoop
from textmill.workers.runners.decoding.requests import DecodeRequest, Generated
from textmill.workers.runners.devices import DTYPES, choose_device, choose_dtype

WORDS = """
the a in of river city small old what why how explain write story about history water light machine
people garden letter music winter doctor number market cheap travel question answer
""".split()  # noqa: SIM905
STATIC_SIZE = 24  # of our loop without refill, and of generate

Outputs = list[list[int]]


def main() -> None:
    """Measure all and print a table, or with --json one object as the last line."""
    options = _parse_options()
    if options.threads:
        torch.set_num_threads(options.threads)
    bench = Bench(options)
    ways: dict[str, Callable[[], Outputs]] = {
        f"ours, {rows} rows": partial(bench.run_loop, rows) for rows in options.rows
    }
    ways[f"ours as static batches of {STATIC_SIZE}"] = partial(
        bench.run_loop, STATIC_SIZE, refill=False
    )
    for size in options.sizes:
        ways[f"pipeline, batch size {size}"] = partial(bench.run_pipeline, size)
    ways[f"generate, batches of {STATIC_SIZE}"] = partial(bench.run_generate, STATIC_SIZE)
    if options.generate_batch:
        ways["generate_batch"] = bench.run_generate_batch
    report = bench.report(ways)
    print_table(report)
    if options.json:
        print(json.dumps(report))


class Bench:
    """The model, and the prompts with their limits."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.device = choose_device(options.device)
        self.dtype = choose_dtype(options.dtype, self.device)
        self.model, self.tokenizer = load(options.model, self.dtype)
        self.model.eval().to(self.device)
        chosen = random.Random(options.seed)
        self.limits = [chosen.randint(5, 200) for _ in range(options.prompts)]
        texts = [" ".join(chosen.choices(WORDS, k=chosen.randint(3, 40))) for _ in self.limits]
        self.prompts: Outputs = [self.tokenizer(text)["input_ids"] for text in texts]
        self.texts = [self.tokenizer.decode(ids) for ids in self.prompts]
        self.tokenizer.padding_side = "left"
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.model.generation_config = transformers.GenerationConfig(
            pad_token_id=self.tokenizer.pad_token_id, do_sample=False
        )

    def report(self, ways: dict[str, Callable[[], Outputs]]) -> dict[str, Any]:
        """Useful tokens per second of each way, and how many outputs equal the first pipeline's."""
        rates: dict[str, float] = {}
        cpu_rates: dict[str, float] = {}
        outputs: dict[str, Outputs] = {}
        self.run_loop(4, count=4)
        for name, way in ways.items():
            started, cpu_started = time.perf_counter(), time.process_time()
            outputs[name] = way()
            rates[name] = round(sum(self.limits) / (time.perf_counter() - started), 1)
            cpu_rates[name] = round(sum(self.limits) / (time.process_time() - cpu_started), 1)
            print(f"{name:<34} {rates[name]:>8.1f} {cpu_rates[name]:>8.1f}", flush=True)
        expected = next(found for name, found in outputs.items() if name.startswith("pipeline"))
        return {
            "prompts": len(self.prompts),
            "useful_tokens": sum(self.limits),
            "device": str(self.device),
            "dtype": str(self.dtype),
            "threads": torch.get_num_threads(),
            "useful_tokens_per_second": rates,
            "equal_outputs": {
                name: sum(a == b for a, b in zip(found, expected, strict=True))
                for name, found in outputs.items()
            },
            "useful_tokens_per_cpu_second": cpu_rates,
            "ratio": over_best_pipeline(rates),
            "cpu_ratio": over_best_pipeline(cpu_rates),
        }

    def run_loop(self, rows: int, *, refill: bool = True, count: int | None = None) -> Outputs:
        """Our loop; without refill, rows are let in only when all before have ended."""
        loop = DecodeLoop(self.model, self.tokenizer, self.device, max_held_tokens=1 << 20)
        waiting = list(range(count or len(self.prompts)))
        found: dict[int, list[int]] = {}
        active = 0
        while waiting or active:
            free = rows - active
            if (refill and free >= min(len(waiting), max(1, rows // 8))) or not active:
                new, waiting = waiting[:free], waiting[free:]
                loop.admit({n: DecodeRequest(self.prompts[n], self.limits[n]) for n in new})
                active += len(new)
            for handle, row in loop.step().finished:
                if not isinstance(row, Generated):
                    raise SystemExit(f"prompt {handle} failed: {row}")
                found[handle] = row.ids
                active -= 1
        return [found[n] for n in sorted(found)]

    def run_pipeline(self, size: int) -> Outputs:
        """What a script would use; batches in input order, each to its largest limit."""
        pipeline = transformers.pipeline(
            "text-generation", model=self.model, tokenizer=self.tokenizer, device=self.device
        )
        outputs: Outputs = []
        for start in range(0, len(self.texts), size):
            limits = self.limits[start : start + size]
            found = pipeline(
                self.texts[start : start + size],
                batch_size=size,
                max_new_tokens=max(limits),
                return_tensors=True,
            )
            for n, answer in enumerate(found, start):
                ids = answer[0]["generated_token_ids"]
                outputs.append(self._cut(list(ids)[-max(limits) :], n))
        return outputs

    def run_generate(self, size: int) -> Outputs:
        """``model.generate``, batches in input order, each to its largest limit."""
        outputs: Outputs = []
        for start in range(0, len(self.texts), size):
            inputs = self.tokenizer.pad(
                {"input_ids": self.prompts[start : start + size]}, return_tensors="pt"
            ).to(self.device)
            most = max(self.limits[start : start + size])
            found = self.model.generate(**inputs, max_new_tokens=most)
            rows = found[:, inputs["input_ids"].shape[1] :].tolist()
            outputs += [self._cut(row, n) for n, row in enumerate(rows, start)]
        return outputs

    def run_generate_batch(self) -> Outputs:
        """transformers' own continuous batching; it has one limit for all, too."""
        config = transformers.GenerationConfig(
            max_new_tokens=max(self.limits),
            do_sample=False,
            eos_token_id=-1,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        found = self.model.generate_batch(self.prompts, generation_config=config)
        rows = sorted(found.items(), key=lambda pair: int(pair[0].rpartition("_")[2]))
        return [self._cut(row.generated_tokens, n) for n, (_, row) in enumerate(rows)]

    def _cut(self, ids: list[int], prompt: int) -> list[int]:
        return ids[: self.limits[prompt]]


def over_best_pipeline(rates: dict[str, float]) -> float:
    """Our best rate over the pipeline's best."""
    ours = max(rate for name, rate in rates.items() if name.endswith("rows"))
    best = max(rate for name, rate in rates.items() if name.startswith("pipeline"))
    return round(ours / best, 2)


def load(path: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """Model and tokenizer of a folder, or of a GGUF file."""
    file = {"gguf_file": path.name} if path.is_file() else {}
    folder = path.parent if path.is_file() else path
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **file)
    return model, transformers.AutoTokenizer.from_pretrained(folder, **file)


def print_table(report: dict[str, Any]) -> None:
    """The report for people."""
    print(
        f"{report['prompts']} prompts, {report['useful_tokens']} tokens, {report['dtype']}", end=""
    )
    print(f" on {report['device']}, {report['threads']} threads: useful tokens/s, per CPU s, equal")
    for name, rate in report["useful_tokens_per_second"].items():
        cpu_rate = report["useful_tokens_per_cpu_second"][name]
        print(f"  {name:<34} {rate:>8.1f} {cpu_rate:>8.1f} {report['equal_outputs'][name]:>8}")
    print(
        f"  ours over the best pipeline        {report['ratio']:>8.2f} {report['cpu_ratio']:>8.2f}"
    )


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="a folder, or a GGUF file")
    parser.add_argument("--prompts", type=int, default=96)
    parser.add_argument("--rows", type=int, nargs="+", default=[24, 32])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 8, 24], help="of pipelines")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dtype", choices=["auto", *DTYPES], default="fp32")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, help="torch threads, for all (default: torch's)")
    parser.add_argument("--generate-batch", action="store_true", help="measure that too (slow)")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
