"""Stop strings and the text of an output, token by token."""

from __future__ import annotations

import pytest
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from textmill.workers.runners.decoding.stopping import StopFinder, decode_output


@pytest.fixture(scope="module")
def tokenizer() -> transformers.PreTrainedTokenizerFast:
    """Byte-level: every byte is a token of its own, so most characters come in pieces."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({piece: n for n, piece in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend)


def until_stop(
    tokenizer: transformers.PreTrainedTokenizerFast, text: str, *stop: str
) -> tuple[str | None, int]:
    """The text before the stop string, and after how many tokens it was found."""
    finder = StopFinder(tokenizer, tokenizer("prompt")["input_ids"], stop)
    ids = tokenizer(text)["input_ids"]
    for n, token_id in enumerate(ids, 1):
        found = finder.add(token_id)
        if found is not None:
            return found, n
    return None, len(ids)


def test_a_stop_string_is_found_across_tokens_and_cut_off(
    tokenizer: transformers.PreTrainedTokenizerFast,
) -> None:
    assert until_stop(tokenizer, "one\n\ntwo", "\n\n") == ("one", 5)
    assert until_stop(tokenizer, "STOP here", "STOP") == ("", 4)
    assert until_stop(tokenizer, "aab", "ab") == ("a", 3)
    assert until_stop(tokenizer, "one two", "three") == (None, 7)


def test_the_first_of_several_stop_strings_counts(
    tokenizer: transformers.PreTrainedTokenizerFast,
) -> None:
    assert until_stop(tokenizer, "one. two! three", "!", ".")[0] == "one"


def test_characters_of_many_bytes_stay_whole(
    tokenizer: transformers.PreTrainedTokenizerFast,
) -> None:
    """Given a stop string that is one such character, and others around it."""
    assert until_stop(tokenizer, "naïve 日本語。終わり", "。") == ("naïve 日本語", 19)
    assert until_stop(tokenizer, "🙂🙃🙂", "🙃") == ("🙂", 8)
    assert until_stop(tokenizer, "日本", "\ufffd") == (None, 6)


def test_the_text_is_what_the_output_adds_to_the_prompt(
    tokenizer: transformers.PreTrainedTokenizerFast,
) -> None:
    prompt = tokenizer("a prompt that is longer")["input_ids"]
    assert decode_output(tokenizer, prompt, tokenizer(" then 日本")["input_ids"]) == " then 日本"
    assert decode_output(tokenizer, prompt, []) == ""
