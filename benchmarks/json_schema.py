"""JSON by a schema: how many answers are right with and without it, and what its masks cost.

Twenty sentences, each with a person's name and age, and a model that is asked for both as JSON.
Then the time that llguidance takes for the tokenizer, for a schema, and for one token's mask.

    python -m benchmarks.json_schema --model FOLDER_OR_GGUF --json
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import llguidance
import llguidance.hf
import transformers

from textmill.core.errors import RecordError
from textmill.core.jobs import Record
from textmill.core.json_schemas import make_grammar
from textmill.core.tasks import get_task, validate_params
from textmill.workers.engine import Engine
from textmill.workers.items import ModelRequest
from textmill.workers.registry import load_runner

TASK = "generation"
NAMES = """Ada Lovelace, Alan Turing, Grace Hopper, Edsger Dijkstra, Barbara Liskov, Donald Knuth,
Frances Allen, John Backus, Margaret Hamilton, Tony Hoare, Radia Perlman, Ken Thompson, Karen Jones,
Niklaus Wirth, Shafi Goldwasser, Leslie Lamport, Adele Goldberg, Robin Milner, Jean Bartik,
Peter Naur""".replace("\n", " ").split(", ")
AGES = [20 + 3 * n for n in range(len(NAMES))]
SENTENCE = "{name}, who is {age} years old, moved to a new house last week."
PROMPT = 'Give the name and the age of the person as JSON with the keys "name" and "age".\n\nText: '
PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
ORDER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "id": {"type": "integer", "minimum": 1},
        "customer": {"type": "string", "maxLength": 40},
        "mail": {"type": "string", "format": "email"},
        "status": {"enum": ["open", "paid", "sent"]},
        "total": {"type": "number", "minimum": 0},
        "items": {"type": "array", "items": {"type": "string", "maxLength": 30}, "maxItems": 5},
    },
    "required": ["id", "customer", "mail", "status", "total", "items"],
    "additionalProperties": False,
}
AN_ORDER = {
    "id": 1843,
    "customer": "Ada Lovelace",
    "mail": "ada@example.org",
    "status": "paid",
    "total": 99.5,
    "items": ["a blue lamp", "two chairs", "garden table"],
}


def main() -> None:
    """Measure both and print them, or with --json one object as the last line."""
    options = _parse_options()
    file = {"gguf_file": options.model.name} if options.model.is_file() else {}
    folder = options.model.parent if options.model.is_file() else options.model
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **file)
    report: dict[str, Any] = {"vocabulary": len(tokenizer), **time_masks(tokenizer)}
    report["answers"] = count_answers(options.model)
    for name, value in report.items():
        print(f"{name:<24}{value}")
    if options.json:
        print(json.dumps(report))


def count_answers(model: Path) -> dict[str, dict[str, int]]:
    """Of twenty answers: how many are JSON, how many hold the right name and age."""
    request = ModelRequest(TASK, str(model), dtype="fp32", device="cpu")
    engine = Engine(lambda: load_runner(request), name="benchmark")
    people = list(zip(NAMES, AGES, strict=True))
    texts = [PROMPT + SENTENCE.format(name=name, age=age) for name, age in people]
    records = [Record(n, str(n), {"text": text}) for n, text in enumerate(texts)]
    found = {}
    for name, own in (("with the schema", {"json_schema": PERSON}), ("without", {})):
        params = validate_params(get_task(TASK), {"max_new_tokens": 48, **own})
        rows = engine.submit(records, params).wait()
        read = [None if isinstance(row, RecordError) else _read(row.output or "") for row in rows]
        right = [{"name": name, "age": age} for name, age in people]
        found[name] = {
            "json": sum(one is not None for one in read),
            "right": sum(one == expected for one, expected in zip(read, right, strict=True)),
        }
    engine.close()
    return found


def _read(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def time_masks(tokenizer: Any) -> dict[str, float]:
    """Milliseconds for the tokenizer (once), a schema of six properties, and a mask."""
    started = time.perf_counter()
    vocabulary = llguidance.hf.from_tokenizer(tokenizer, n_vocab=len(tokenizer))
    read = time.perf_counter() - started
    compiled, masks = [], []
    for _ in range(20):
        started = time.perf_counter()
        matcher = llguidance.LLMatcher(vocabulary, make_grammar(json.dumps(ORDER)), log_level=0)
        compiled.append(time.perf_counter() - started)
        for token in tokenizer.encode(json.dumps(AN_ORDER), add_special_tokens=False):
            started = time.perf_counter()
            matcher.compute_logit_bias()
            masks.append(time.perf_counter() - started)
            if not matcher.consume_token(token):
                raise SystemExit(f"the schema does not allow token {token}: {matcher.get_error()}")
    return {
        "tokenizer_ms": round(1000 * read, 1),
        "schema_ms": round(1000 * statistics.median(compiled), 2),
        "mask_ms_median": round(1000 * statistics.median(masks), 3),
        "mask_ms_95th": round(1000 * statistics.quantiles(masks, n=20)[-1], 3),
    }


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="a folder or a GGUF file")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
