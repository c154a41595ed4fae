"""The engine against plain transformers on question answering: same model, questions and threads.

transformers 5 has no pipeline for it, so the other side is what a script would do: windows by the
tokenizer, a forward pass for each (one by one, or fixed batches in input order), the best span by
the outer product of the two softmaxes. The engine is fed as a worker feeds it.

    python -m benchmarks.question_answering --model FOLDER --questions SQUAD.json --limit 200 --json
"""

from __future__ import annotations

import argparse
import json
import re
import string
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from benchmarks.engine_vs_pipeline import SUBMITTING_THREADS, Cost, in_own_thread, measure
from textmill.core.errors import RecordError
from textmill.core.jobs import Record
from textmill.core.params import QuestionAnsweringParams
from textmill.core.tasks import get_task
from textmill.workers.engine import Engine
from textmill.workers.items import ModelRequest, Output
from textmill.workers.registry import load_runner
from textmill.workers.runners.devices import choose_device, choose_dtype

TASK = "question-answering"
BATCH_SIZES = (1, 4, 8, 16, 32)
WINDOW, STRIDE, MAX_ANSWER = 384, 128, 30

Answer = tuple[int, int, float]  # start, end, score


@dataclass(frozen=True, slots=True)
class Question:
    """One question, its context, and the answers that count as right."""

    question: str
    context: str
    right: list[str]


def main() -> None:
    """Measure both sides in each dtype and print them, or with --json one object at the end."""
    options = _parse_options()
    if options.threads:
        torch.set_num_threads(options.threads)
    questions = read_questions(options.questions, options.limit)
    report: dict[str, Any] = {
        "questions": len(questions),
        "device": str(choose_device(options.device)),
        "threads": torch.get_num_threads(),
    }
    exact = None
    for dtype in options.dtypes:
        runs, answers = measure_dtype(questions, dtype, options)
        exact = exact or runs[1][1]  # one by one in the first dtype
        found = summarize(questions, runs, answers, exact)
        print_table(dtype, report, found)
        report[dtype] = found
    if options.json:
        print(json.dumps(report))


Runs = dict[int, tuple[Cost, list[Answer]]]


def measure_dtype(
    questions: list[Question], dtype: str, options: argparse.Namespace
) -> tuple[Runs, tuple[Cost, list[Answer]]]:
    """Plain transformers by batch size, and the engine, which runs first and last."""
    before, answers = run_engine(questions, dtype, options)
    runs = in_own_thread(partial(run_plain, questions, dtype, options))
    after, _ = run_engine(questions, dtype, options)  # so that a drift of the machine shows
    seconds = before.seconds + after.seconds
    return runs, (Cost(seconds, before.cpu_seconds + after.cpu_seconds, 2), answers)


def run_plain(questions: list[Question], dtype: str, options: argparse.Namespace) -> Runs:
    """Plain transformers by batch size."""
    plain = Plain(options.model, dtype, options.device)
    runs = {}
    for size in BATCH_SIZES:
        plain.answer(questions[:size], size)  # warm-up
        runs[size] = measure(partial(plain.answer, questions, size))
    return runs


def run_engine(
    questions: list[Question], dtype: str, options: argparse.Namespace
) -> tuple[Cost, list[Answer]]:
    """The cost, loading left out, and each question's answer."""
    request = ModelRequest(TASK, str(options.model), dtype=dtype, device=options.device)
    engine = Engine(
        lambda: load_runner(request), max_batch_tokens=options.max_batch_tokens, name="benchmark"
    )
    engine.wait_ready()
    params = QuestionAnsweringParams(
        window=WINDOW, stride=STRIDE, max_answer_tokens=MAX_ANSWER, whole_words=False
    )
    records = [
        Record(n, str(n), {"question": one.question, "context": one.context})
        for n, one in enumerate(questions)
    ]
    size = get_task(TASK).chunk_records
    chunks = [records[start : start + size] for start in range(0, len(records), size)]

    def process(chunk: list[Record]) -> list[Output | RecordError]:
        return engine.submit(chunk, params).wait()

    with ThreadPoolExecutor(SUBMITTING_THREADS) as pool:
        cost, found = measure(lambda: list(pool.map(process, chunks)))
    engine.close()
    return cost, [_answer(output) for chunk in found for output in chunk]


class Plain:
    """What a script without Textmill does."""

    def __init__(self, model: Path, dtype: str, device: str) -> None:
        self._device = choose_device(device)
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(model)
        self._model: Any = transformers.AutoModelForQuestionAnswering.from_pretrained(
            model, dtype=choose_dtype(dtype, self._device)
        ).to(self._device)
        self._model.eval()

    def answer(self, questions: list[Question], size: int) -> list[Answer]:
        """Each question's best span, from batches of ``size`` windows in input order."""
        best: list[Answer] = [(0, 0, -1.0)] * len(questions)
        for batch in self._batches(questions, size):
            inputs = self._tokenizer.pad([one[1] for one in batch], return_tensors="pt")
            with torch.inference_mode():
                logits = self._model(**inputs.to(self._device))
            starts = logits.start_logits.float().cpu().numpy()
            ends = logits.end_logits.float().cpu().numpy()
            for (owner, _, kept, offsets), start, end in zip(batch, starts, ends, strict=True):
                first, last, score = best_span(start[: len(kept)], end[: len(kept)], kept)
                if score > best[owner][2]:
                    best[owner] = offsets[first][0], offsets[last][1], score
        return best

    def _batches(self, questions: list[Question], size: int) -> Iterator[list[Any]]:
        batch = []
        for owner, one in enumerate(questions):
            for window in self._windows(one):
                batch.append((owner, *window))
                if len(batch) == size:
                    yield batch
                    batch = []
        if batch:
            yield batch

    def _windows(self, one: Question) -> Iterator[tuple[dict[str, Any], Any, Any]]:
        """The model's inputs, which tokens count, and the tokens' characters."""
        encoded = self._tokenizer(
            one.question,
            one.context,
            truncation="only_second",
            max_length=WINDOW,
            stride=STRIDE,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        names = [name for name in self._tokenizer.model_input_names if name in encoded]
        for n, offsets in enumerate(encoded["offset_mapping"]):
            kept = np.array([side == 1 for side in encoded.sequence_ids(n)])
            yield {name: encoded[name][n] for name in names}, kept, offsets


def best_span(start: Any, end: Any, kept: Any) -> tuple[int, int, float]:
    """First and last token and score, as the pipeline of transformers 4 found them."""
    counted = kept.copy()
    counted[0] = True  # [CLS]
    start, end = softmax(np.where(counted, start, -1e4)), softmax(np.where(counted, end, -1e4))
    start[0] = end[0] = 0.0
    scores = np.tril(np.triu(np.outer(start, end)), MAX_ANSWER - 1)
    first, last = divmod(int(scores.argmax()), len(end))
    return first, last, float(scores[first, last])


def softmax(logits: Any) -> Any:
    """Probabilities that sum to one."""
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def summarize(
    questions: list[Question],
    runs: Runs,
    engine: tuple[Cost, list[Answer]],
    exact: list[Answer],
) -> dict[str, Any]:
    """Speeds, their ratios, and how far the answers agree and are right."""
    cost, answers = engine
    texts = [one.question for one in questions]
    rates = {size: plain.rate(texts) for size, (plain, _) in runs.items()}
    cpu_rates = {size: plain.cpu_rate(texts) for size, (plain, _) in runs.items()}
    one_by_one = runs[1][1]
    rate, cpu_rate = cost.rate(texts), cost.cpu_rate(texts)
    return {
        "plain_per_second": rates,
        "plain_per_cpu_second": cpu_rates,
        "engine_per_second": rate,
        "engine_per_cpu_second": cpu_rate,
        "ratio_to_one_by_one": round(rate / rates[1], 2),
        "ratio_to_best_batch": round(rate / max(rates.values()), 2),
        "cpu_ratio_to_one_by_one": round(cpu_rate / cpu_rates[1], 2),
        "cpu_ratio_to_best_batch": round(cpu_rate / max(cpu_rates.values()), 2),
        "equal_answers": equal(answers, one_by_one),
        "equal_to_first_dtype": equal(answers, exact),
        "max_score_difference": max(
            (abs(a[2] - b[2]) for a, b in zip(answers, one_by_one, strict=True) if a[:2] == b[:2]),
            default=1.0,
        ),
        "exact_match": round(quality(questions, answers, exact_match), 4),
        "f1": round(quality(questions, answers, f1), 4),
        "one_by_one_exact_match": round(quality(questions, one_by_one, exact_match), 4),
        "one_by_one_f1": round(quality(questions, one_by_one, f1), 4),
    }


def equal(answers: list[Answer], others: list[Answer]) -> float:
    """The share of equal spans."""
    return sum(a[:2] == b[:2] for a, b in zip(answers, others, strict=True)) / len(answers)


def quality(
    questions: list[Question], answers: list[Answer], score: Callable[[str, str], float]
) -> float:
    """The mean over the questions of the best score against any right answer."""
    best = [
        max(score(one.context[start:end], right) for right in one.right)
        for one, (start, end, _) in zip(questions, answers, strict=True)
    ]
    return sum(best) / len(best)


def exact_match(answer: str, right: str) -> float:
    """1 if both are the same words, as SQuAD counts it."""
    return float(_words(answer) == _words(right))


def f1(answer: str, right: str) -> float:
    """The overlap of the two in words, as SQuAD counts it."""
    ours, theirs = _words(answer), _words(right)
    common = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * common / (len(ours) + len(theirs)) if common else float(ours == theirs)


def _words(text: str) -> list[str]:
    plain = "".join(c for c in text.lower() if c not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", plain).split()


def read_questions(path: Path, limit: int | None) -> list[Question]:
    """The questions of a file in SQuAD's format (https://rajpurkar.github.io/SQuAD-explorer/)."""
    articles = json.loads(path.read_text(encoding="utf-8"))["data"]
    found = [
        Question(asked["question"], paragraph["context"], [a["text"] for a in asked["answers"]])
        for article in articles
        for paragraph in article["paragraphs"]
        for asked in paragraph["qas"]
    ]
    return found[:limit]


def print_table(dtype: str, report: dict[str, Any], found: dict[str, Any]) -> None:
    """The report for people."""
    print(f"{report['questions']} questions, {dtype} on {report['device']}", end="")
    print(f", {report['threads']} threads       per second   per CPU s")
    for size, rate in found["plain_per_second"].items():
        name = "one by one" if size == 1 else f"batches of {size} windows"
        print(f"  {name:<25} {rate:>20.1f} {found['plain_per_cpu_second'][size]:>13.1f}")
    print(f"  {'engine':<25} {found['engine_per_second']:>20.1f}", end="")
    print(f" {found['engine_per_cpu_second']:>13.1f}")
    for other in ("one_by_one", "best_batch"):
        print(f"  engine over {other:<13} {found[f'ratio_to_{other}']:>20.2f}", end="")
        print(f" {found[f'cpu_ratio_to_{other}']:>13.2f}")
    print(f"  answers equal: {found['equal_answers']:.2%}", end="")
    print(f" (to the first dtype: {found['equal_to_first_dtype']:.2%})", end="")
    print(f", largest score difference: {found['max_score_difference']:.1e}")
    print(f"  exact match {found['exact_match']:.3f}, F1 {found['f1']:.3f}", end="")
    print(f" (one by one: {found['one_by_one_exact_match']:.3f}, {found['one_by_one_f1']:.3f})")


def _answer(output: Output | RecordError) -> Answer:
    if isinstance(output, RecordError) or output.score is None or output.detail is None:
        raise SystemExit(f"the engine has no answer to a question: {output}")
    return output.detail["start"], output.detail["end"], output.score


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--questions", type=Path, required=True, help="a file in SQuAD's format")
    parser.add_argument("--limit", type=int, help="only the first LIMIT questions")
    parser.add_argument("--dtypes", nargs="+", choices=["fp32", "bf16"], default=["fp32", "bf16"])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, help="torch threads, for both (default: torch's)")
    parser.add_argument("--max-batch-tokens", type=int, help="default: by device")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
