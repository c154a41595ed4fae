"""What the rows of a job keep of its texts: ``--store-text full``, ``hash`` or ``none``.

Only the rule: readers, the loader and workers ask here what they may write. ``docs/privacy.md``
says what that means for each column.
"""

from __future__ import annotations

from enum import StrEnum
from hashlib import blake2b

from textmill.core.errors import ConfigurationError, InvalidJobError

HASH_BYTES = 16
KEY_ID_BYTES = 8
MIN_KEY_BYTES = 16
MAX_KEY_BYTES = 64  # https://docs.python.org/3/library/hashlib.html#blake2; longer ones are hashed
KEY_VARIABLE = "TEXTMILL_HASH_KEY"

# What is made with the key differs by what it is of: no hash of a text is the key's id.
TEXT, INPUT, KEY_ID = b"textmill text", b"textmill input", b"textmill key id"

# Codes of error rows whose messages hold numbers, options and names of columns, and nothing of a
# text. Whatever else a runner says may quote what it read or wrote.
QUOTING_NOTHING = frozenset(
    {
        "backend_unavailable",
        "context_too_long",
        "empty_text",
        "json_incomplete",
        "json_schema",
        "no_span",
        "not_finite",
        "out_of_memory",
        "prompt_too_long",
        "question_too_long",
        "runner_contract",
        "text_too_long",
        "worker_crashed",
    }
)


class StoreText(StrEnum):
    """What a result row keeps of a record's texts."""

    FULL = "full"  # the text, and a digest by which equal texts are found
    HASH = "hash"  # a keyed digest: it shows equal texts, and is no use to guess one by
    NONE = "none"  # nothing


def parse_store_text(value: str) -> StoreText:
    """The mode of this name; raises InvalidJobError."""
    try:
        return StoreText(value)
    except ValueError:
        known = ", ".join(mode.value for mode in StoreText)
        raise InvalidJobError(f"--store-text is {value!r}; expected one of: {known}") from None


def hash_text(text: str, key: bytes | None = None) -> bytes:
    """The 16-byte BLAKE2b digest by which equal texts are found; with a key, only by its owner."""
    if key is None:
        return blake2b(text.encode(), digest_size=HASH_BYTES).digest()
    return blake2b(text.encode(), digest_size=HASH_BYTES, key=fit_key(key), person=TEXT).digest()


def keyed_digest(key: bytes) -> blake2b:
    """A digest of 32 bytes under the key, to be fed a job's whole input."""
    return blake2b(digest_size=32, key=fit_key(key), person=INPUT)


def key_id(key: bytes) -> str:
    """What tells the key from others and does not reveal it."""
    return blake2b(digest_size=KEY_ID_BYTES, key=fit_key(key), person=KEY_ID).hexdigest()


def fit_key(key: bytes) -> bytes:
    """The key as BLAKE2b takes it, which is 64 bytes at most."""
    return key if len(key) <= MAX_KEY_BYTES else blake2b(key).digest()


def require_key(key: bytes | None) -> bytes:
    """The key; raises ConfigurationError where there is none, for no hash is made without it."""
    if key is None:
        raise ConfigurationError(
            f"--store-text hash needs a key, and {KEY_VARIABLE} is not set; set it to the same "
            f"secret of at least {MIN_KEY_BYTES} bytes here and for every worker, such as from "
            "`openssl rand -hex 32`"
        )
    return key


def check_key(key: bytes | None, expected_id: str | None) -> bytes:
    """A worker's key; raises ConfigurationError unless it is the one the job was submitted with."""
    if key is None:
        raise ConfigurationError(
            f"the job was submitted with --store-text hash, and this worker has no {KEY_VARIABLE}; "
            "start it with the key of the submission"
        )
    if key_id(key) != expected_id:
        raise ConfigurationError(
            f"{KEY_VARIABLE} of this worker is not the key that the job was submitted with: equal "
            "texts would get different hashes; start the worker with the key of the submission"
        )
    return key


def kept_message(mode: StoreText, code: str, message: str) -> str:
    """What an error row says where the message may quote a text that is not kept."""
    if mode == StoreText.FULL or code in QUOTING_NOTHING:
        return message
    return f"what was said of it may quote the text, and is not kept (--store-text {mode})"
