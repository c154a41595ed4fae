"""Which share of translations is letter for letter that of ``model.generate`` one by one.

Greedy and with beams, in fp32: by the engine, with torch and, if it is installed, with CTranslate2.
Scores against all references of the file say whether texts that differ are worse.

    python -m benchmarks.translation_agreement --model FOLDER --texts PAIRS.tsv --limit 1000 --json
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import warnings
from itertools import zip_longest
from pathlib import Path
from typing import Any

import sacrebleu
import torch
import transformers

from benchmarks.translation import TASK, Pair, translate
from textmill.workers.engine import Engine
from textmill.workers.items import ModelRequest
from textmill.workers.registry import load_runner


def main() -> None:
    """Compare all and print a table, or with --json one object as the last line."""
    options = _parse_options()
    if options.threads:
        torch.set_num_threads(options.threads)
    lines = options.texts.read_text(encoding="utf-8").splitlines()[: options.limit]
    rows = [line.split("\t") for line in lines]
    sources = [row[0] for row in rows]
    # A text with fewer references than another has empty ones, which sacrebleu leaves out.
    references = [list(column) for column in zip_longest(*(row[1:] for row in rows), fillvalue="")]
    runs: list[dict[str, Any]] = []
    for beams in (1, options.num_beams):
        outputs = {"one by one": one_by_one(options.model, sources, beams)}
        outputs |= by_engine(options.model, sources, beams)
        for way, found in outputs.items():
            equal = sum(a == b for a, b in zip(found, outputs["one by one"], strict=True))
            bleu = round(sacrebleu.corpus_bleu(found, references).score, 2)
            runs.append({"way": way, "num_beams": beams, "equal": equal, "bleu": bleu})
            print(f"{way:<22}{beams:>3} beams {equal:>6} of {len(found)} equal  BLEU {bleu}")
    if options.json:
        print(json.dumps({"texts": len(sources), "runs": runs}))


def one_by_one(model_folder: Path, sources: list[str], beams: int) -> list[str]:
    """The plain way."""
    with warnings.catch_warnings(action="ignore"):
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(model_folder)
    model: Any = transformers.AutoModelForSeq2SeqLM.from_pretrained(model_folder)
    model.eval()
    found: list[str] = []
    for source in sources:
        with torch.inference_mode():
            inputs = tokenizer(source, return_tensors="pt")
            (ids,) = model.generate(**inputs, num_beams=beams, do_sample=False)
        found.append(tokenizer.decode(ids, skip_special_tokens=True))
    return found


def by_engine(model_folder: Path, sources: list[str], beams: int) -> dict[str, list[str]]:
    """Whole texts, with each backend."""
    request = ModelRequest(TASK, str(model_folder), dtype="fp32", device="cpu")
    engine = Engine(lambda: load_runner(request), name="benchmark")
    pairs = [Pair(source, "") for source in sources]
    settings: dict[str, Any] = {"split": "long", "num_beams": beams}
    found = {"engine": translate(engine, pairs, settings)}
    if importlib.util.find_spec("ctranslate2"):
        settings["backend"] = "ctranslate2"
        found["engine, CTranslate2"] = translate(engine, pairs, settings)
    engine.close()
    return found


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--texts", type=Path, required=True, help="source<TAB>reference<TAB>…")
    parser.add_argument("--limit", type=int, help="only the first LIMIT lines")
    parser.add_argument("--num-beams", type=int, default=4)
    parser.add_argument("--threads", type=int, help="torch threads, for all (default: torch's)")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
