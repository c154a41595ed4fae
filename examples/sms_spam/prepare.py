"""Make `sms_spam.tsv` from the original file of the SMS Spam Collection v.1.

Adds an id and a train/test split to every message and changes no text. The same input always gives
the same bytes: the split is decided by hashes of the texts, not by a random generator.
"""

import argparse
import csv
import hashlib
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

ORIGINAL_SHA256 = "7d039a24a6083ed9ef0f806ebad56bbb976e3aeb8de05669173bfdc4996c239d"
DEFAULT_OUT = Path(__file__).resolve().parent / "sms_spam.tsv"
HEADER = ("id", "split", "label", "text")
SPLIT_SALT = "sms-spam-test"
TEST_SHARE = 0.19

Message = tuple[str, str]
"""A label (`ham` or `spam`) and a text."""


def normalise_text(text: str) -> str:
    """Return the form under which two messages count as the same one.

    Case, punctuation and spacing are ignored, and every number is the same number: one spam
    template sent with several phone numbers or prizes is one text.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.findall(r"\w+", re.sub(r"\d+", "0", folded)))


def choose_held_out(messages: Sequence[Message], share: float, salt: str) -> set[str]:
    """Return the normalised texts to hold out: about `share` of the messages of each label.

    Texts are taken in the order of their salted hashes until the label has its share. All messages
    of one normalised text are on the same side.
    """
    held_out: set[str] = set()
    for label in sorted({label for label, _ in messages}):
        sizes = Counter(normalise_text(text) for own, text in messages if own == label)
        wanted = share * sizes.total()
        for text in sorted(sizes, key=lambda text: _hash_text(salt, text)):
            if wanted <= 0:
                break
            held_out.add(text)
            wanted -= sizes[text]
    return held_out


def _hash_text(salt: str, text: str) -> str:
    return hashlib.sha256(f"{salt}\n{text}".encode()).hexdigest()


def parse_original(content: bytes) -> list[Message]:
    """Return the messages of the original file, in order; raise ValueError for any other file."""
    digest = hashlib.sha256(content).hexdigest()
    if digest != ORIGINAL_SHA256:
        raise ValueError(
            f"this is not the original SMSSpamCollection: its SHA-256 is {digest}, "
            f"expected {ORIGINAL_SHA256}; take the file from the archive of UCI dataset 228"
        )
    # Not splitlines(): some messages hold C1 control characters, which may not end a line.
    lines = content.decode("utf-8").removesuffix("\n").split("\n")
    pairs = (line.split("\t", maxsplit=1) for line in lines)
    return [(label, text) for label, text in pairs]


def make_rows(messages: Sequence[Message]) -> Iterable[tuple[str, str, str, str]]:
    """Yield one row of `HEADER` per message, in the given order."""
    held_out = choose_held_out(messages, TEST_SHARE, SPLIT_SALT)
    for number, (label, text) in enumerate(messages, start=1):
        split = "test" if normalise_text(text) in held_out else "train"
        yield f"sms-{number:04d}", split, label, text


def write_tsv(path: Path, rows: Iterable[Sequence[str]]) -> None:
    """Write the header and the rows as tab-separated values with minimal quoting."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(
            file, dialect="excel-tab", quoting=csv.QUOTE_MINIMAL, lineterminator="\n"
        )
        writer.writerow(HEADER)
        writer.writerows(rows)


def main() -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("original", type=Path, metavar="ORIGINAL_FILE", help="SMSSpamCollection")
    parser.add_argument(
        "--out", type=Path, default=DEFAULT_OUT, help="default: sms_spam.tsv beside this script"
    )
    arguments = parser.parse_args()
    try:
        rows = list(make_rows(parse_original(arguments.original.read_bytes())))
        write_tsv(arguments.out, rows)
    except (OSError, ValueError) as error:
        print(f"prepare.py: {error}", file=sys.stderr)
        return 1
    counts = Counter((split, label) for _, split, label, _ in rows)
    for (split, label), count in sorted(counts.items()):
        print(f"{split:<5} {label:<4} {count:>5}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
