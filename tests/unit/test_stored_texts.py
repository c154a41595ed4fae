"""What may be kept of a text: hashes with and without a key, and what an error row may say."""

from __future__ import annotations

import pytest

from textmill.core.errors import ConfigurationError, InvalidJobError
from textmill.core.settings import load_settings
from textmill.core.stored_texts import (
    StoreText,
    check_key,
    hash_text,
    kept_message,
    key_id,
    keyed_digest,
    parse_store_text,
    require_key,
)

ONE, OTHER = b"the first key, of 24 by.", b"another key, of 24 bytes"


def test_equal_texts_have_equal_hashes_under_one_key_and_others_under_another() -> None:
    assert hash_text("free prize", ONE) == hash_text("free prize", ONE)
    hashes = {hash_text("free prize"), hash_text("free prize", ONE), hash_text("free prize", OTHER)}
    assert len(hashes) == 3
    assert {len(one) for one in hashes} == {16}


def test_every_byte_of_a_long_key_counts() -> None:
    long = b"k" * 100
    assert hash_text("a", long) != hash_text("a", long[:64])
    assert hash_text("a", long) != hash_text("a", long[:-1] + b"x")


def test_the_id_of_a_key_is_no_hash_that_is_made_with_it() -> None:
    assert key_id(ONE) == key_id(ONE) != key_id(OTHER)
    digest = keyed_digest(ONE)
    assert not digest.digest().startswith(bytes.fromhex(key_id(ONE)))
    assert not hash_text("", ONE).startswith(bytes.fromhex(key_id(ONE)))
    assert ONE.hex() not in key_id(ONE)


def test_without_a_key_nothing_is_hashed() -> None:
    with pytest.raises(ConfigurationError, match="TEXTMILL_HASH_KEY is not set"):
        require_key(None)
    with pytest.raises(ConfigurationError, match="this worker has no TEXTMILL_HASH_KEY"):
        check_key(None, key_id(ONE))
    with pytest.raises(ConfigurationError, match="is not the key that the job was submitted with"):
        check_key(OTHER, key_id(ONE))
    assert check_key(ONE, key_id(ONE)) == ONE


@pytest.mark.parametrize("given", ["Full", "hashed", "", "no"])
def test_a_mode_that_is_none_is_refused(given: str) -> None:
    with pytest.raises(InvalidJobError, match=r"expected one of: full, hash, none"):
        parse_store_text(given)


def test_a_short_key_is_refused_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEXTMILL_HASH_KEY", "s3cret-but-short")
    assert load_settings().hash_key_bytes == b"s3cret-but-short"  # of exactly 16 bytes
    assert "s3cret" not in repr(load_settings())
    monkeypatch.setenv("TEXTMILL_HASH_KEY", "s3cret-too-shrt")
    with pytest.raises(
        ConfigurationError, match="it has 15 bytes, expected at least 16"
    ) as refusal:
        load_settings()
    assert "s3cret" not in str(refusal.value)


def test_what_is_said_of_an_error_may_quote_only_where_texts_are_kept() -> None:
    said = "'dear Jane' is not of type 'integer'"
    assert kept_message(StoreText.FULL, "json_invalid", said) == said
    for mode in (StoreText.HASH, StoreText.NONE):
        assert "Jane" not in kept_message(mode, "json_invalid", said)
        assert "Jane" not in kept_message(mode, "a_plugins_own", said)
        assert f"--store-text {mode}" in kept_message(mode, "json_invalid", said)
        assert kept_message(mode, "text_too_long", "812 tokens") == "812 tokens"
