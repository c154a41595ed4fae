"""Train the example's ham/spam classifier from scratch and measure it on the held-out split.

A small BERT and its own WordPiece vocabulary learn from the train split of `sms_spam.tsv` alone.
The hyperparameters were chosen with `--validate`, which holds out part of the train split and never
reads the test split; the test split is read once, at the end of a full run.
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Iterator, Sequence
from csv import DictReader
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from prepare import choose_held_out, normalise_text
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import WordPieceTrainer
from torch.nn.functional import cross_entropy
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
    get_linear_schedule_with_warmup,
)

HERE = Path(__file__).resolve().parent
LABELS = ("ham", "spam")
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
VALIDATION_SALT = "sms-spam-validation"
VALIDATION_SHARE = 0.19


@dataclass(frozen=True)
class Hyperparameters:
    """What was chosen on the validation part of the train split."""

    vocabulary_size: int = 6000
    max_tokens: int = 256
    dropout: float = 0.1
    token_dropout: float = 0.1
    epochs: int = 6
    batch_size: int = 32
    learning_rate: float = 5e-4
    weight_decay: float = 0.01
    warmup_share: float = 0.1


@dataclass(frozen=True)
class Texts:
    """Texts and the index in `LABELS` of each one's label."""

    texts: list[str]
    labels: list[int]

    def select(self, indexes: Sequence[int]) -> "Texts":
        """Return the texts at these indexes."""
        return Texts([self.texts[i] for i in indexes], [self.labels[i] for i in indexes])


def read_split(path: Path, split: str) -> Texts:
    """Read the messages of one split (`train` or `test`)."""
    with path.open(encoding="utf-8", newline="") as file:
        reader = DictReader(file, dialect="excel-tab", strict=True)
        rows = [row for row in reader if row["split"] == split]
    return Texts([row["text"] for row in rows], [LABELS.index(row["label"]) for row in rows])


def divide_train(train: Texts) -> tuple[Texts, Texts]:
    """Divide the train split by normalised text into a part to learn from and one to validate."""
    messages = [
        (LABELS[label], text) for label, text in zip(train.labels, train.texts, strict=True)
    ]
    held_out = choose_held_out(messages, VALIDATION_SHARE, VALIDATION_SALT)
    is_held_out = [normalise_text(text) in held_out for text in train.texts]
    kept = [index for index, out in enumerate(is_held_out) if not out]
    validation = [index for index, out in enumerate(is_held_out) if out]
    return train.select(kept), train.select(validation)


def train_tokenizer(texts: Sequence[str], chosen: Hyperparameters) -> Any:
    """Learn a WordPiece vocabulary from the texts and return it as a transformers tokenizer."""
    tokenizer = Tokenizer(WordPiece(unk_token="[UNK]"))
    # Case stays: spam shouts. Numbers stay whole: short codes and prices repeat.
    tokenizer.normalizer = BertNormalizer(lowercase=False, strip_accents=False)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    trainer = WordPieceTrainer(
        vocab_size=chosen.vocabulary_size,
        special_tokens=list(SPECIAL_TOKENS),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=chosen.max_tokens,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def make_model(vocabulary_size: int, chosen: Hyperparameters) -> Any:
    """Return a small BERT classifier with random weights."""
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=vocabulary_size,
            hidden_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=512,
            max_position_embeddings=chosen.max_tokens,
            hidden_dropout_prob=chosen.dropout,
            attention_probs_dropout_prob=chosen.dropout,
            pad_token_id=SPECIAL_TOKENS.index("[PAD]"),
            id2label=dict(enumerate(LABELS)),
            label2id={label: index for index, label in enumerate(LABELS)},
        )
    )


def make_batches(lengths: Sequence[int], size: int, rng: random.Random) -> Iterator[list[int]]:
    """Yield the indexes of all texts in batches of like lengths, in random order.

    The lengths are blurred, so that the batches differ from epoch to epoch.
    """
    blurred = [length * rng.uniform(0.8, 1.25) for length in lengths]
    order = sorted(range(len(lengths)), key=blurred.__getitem__)
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    rng.shuffle(batches)
    yield from batches


def drop_tokens(token_ids: torch.Tensor, share: float) -> torch.Tensor:
    """Replace a random share of the tokens by `[UNK]`, so that no single word decides."""
    dropped = (torch.rand(token_ids.shape) < share) & (token_ids >= len(SPECIAL_TOKENS))
    return token_ids.masked_fill(dropped, SPECIAL_TOKENS.index("[UNK]"))


def train_model(tokenizer: Any, train: Texts, chosen: Hyperparameters, seed: int) -> Any:
    """Return a classifier trained on `train`, in evaluation mode."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    model = make_model(len(tokenizer), chosen).train()
    encoded = tokenizer(train.texts, truncation=True)["input_ids"]
    labels = torch.tensor(train.labels)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=chosen.learning_rate, weight_decay=chosen.weight_decay
    )
    steps = chosen.epochs * -(-len(encoded) // chosen.batch_size)
    schedule = get_linear_schedule_with_warmup(optimizer, int(steps * chosen.warmup_share), steps)
    for epoch in range(chosen.epochs):
        total = 0.0
        for batch in make_batches([len(ids) for ids in encoded], chosen.batch_size, rng):
            inputs = tokenizer.pad({"input_ids": [encoded[i] for i in batch]}, return_tensors="pt")
            inputs["input_ids"] = drop_tokens(inputs["input_ids"], chosen.token_dropout)
            loss = cross_entropy(model(**inputs).logits, labels[batch])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.item() * len(batch)
        print(f"epoch {epoch + 1:>2}  loss {total / len(encoded):.4f}", file=sys.stderr)
    return model.eval()


@torch.inference_mode()
def predict_labels(tokenizer: Any, model: Any, texts: Sequence[str]) -> list[int]:
    """Return the index of the likeliest label of each text."""
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    predicted = [0] * len(texts)
    for start in range(0, len(order), 64):
        batch = order[start : start + 64]
        inputs = tokenizer(
            [texts[i] for i in batch], truncation=True, padding=True, return_tensors="pt"
        )
        for index, label in zip(batch, model(**inputs).logits.argmax(-1).tolist(), strict=True):
            predicted[index] = label
    return predicted


def measure(tokenizer: Any, model: Any, held_out: Texts) -> dict[str, float | int]:
    """Return accuracy, the spam measures and the four counts for texts the model never saw."""
    predicted = predict_labels(tokenizer, model, held_out.texts)
    precision, recall, f1, _ = precision_recall_fscore_support(
        held_out.labels, predicted, average="binary", zero_division=0.0
    )
    (true_ham, false_spam), (false_ham, true_spam) = confusion_matrix(
        held_out.labels, predicted, labels=[0, 1]
    ).tolist()
    return {
        "messages": len(predicted),
        "accuracy": float(accuracy_score(held_out.labels, predicted)),
        "spam_precision": float(precision),
        "spam_recall": float(recall),
        "spam_f1": float(f1),
        "ham_taken_for_ham": true_ham,
        "ham_taken_for_spam": false_spam,
        "spam_taken_for_ham": false_ham,
        "spam_taken_for_spam": true_spam,
    }


def validate(data: Path, seed: int) -> dict[str, float | int]:
    """Train on part of the train split and measure on the rest of it."""
    learned, held_out = divide_train(read_split(data, "train"))
    chosen = Hyperparameters()
    tokenizer = train_tokenizer(learned.texts, chosen)
    return measure(tokenizer, train_model(tokenizer, learned, chosen, seed), held_out)


def build(data: Path, out: Path, seed: int) -> dict[str, float | int]:
    """Train on the train split, write the model to `out`, and measure it on the test split.

    What is measured is the written model, loaded again.
    """
    train = read_split(data, "train")
    chosen = Hyperparameters()
    tokenizer = train_tokenizer(train.texts, chosen)
    train_model(tokenizer, train, chosen, seed).save_pretrained(out)
    tokenizer.save_pretrained(out)

    measures = measure(
        AutoTokenizer.from_pretrained(out, local_files_only=True),
        AutoModelForSequenceClassification.from_pretrained(out, local_files_only=True).eval(),
        read_split(data, "test"),
    )
    report = {"split": "test", "seed": seed, **measures}
    (out / "eval.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return measures


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=HERE / "model", help="default: model beside this script"
    )
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument(
        "--validate",
        action="store_true",
        help="measure the hyperparameters on part of the train split and write nothing",
    )
    return parser.parse_args()


def main() -> int:
    """Run the command line and return its exit code."""
    arguments = parse_arguments()
    data = HERE / "sms_spam.tsv"
    started = time.perf_counter()
    if arguments.validate:
        measures = validate(data, arguments.seed)
    else:
        measures = build(data, arguments.out, arguments.seed)
    for name, value in measures.items():
        print(f"{name:<20} {value:.4f}" if isinstance(value, float) else f"{name:<20} {value}")
    print(f"took {time.perf_counter() - started:.0f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
