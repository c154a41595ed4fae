"""Texts in sentences and put back together: nothing may be lost on the way."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from textmill.workers.runners.sentences import (
    cut_text,
    join_spans,
    split_sentences,
    whole_text,
)

AWKWARD = ["a", "B", ".", " ", "\n", "! ", "?", "\r\n", "\n\n", "😀", "é", "e\u0301", "。", "Dr. "]
AWKWARD += ["\u2029", "\t", '"', "(", "1", "\u00a0", "…", "\0", "\u200b", "👩‍👩‍👧", "你好"]
TEXTS = st.lists(st.sampled_from(AWKWARD), max_size=40).map("".join) | st.text(max_size=60)


@pytest.mark.parametrize(
    ("language", "text", "sentences"),
    [
        ("en", "Dr. Smith paid 3.50 dollars. Why?  I don't know!", 3),
        ("en", "One line\nand another\n\n  and a third.", 3),
        ("fr", "Il est là. Elle aussi !", 2),
        ("zh", "你好。今天天气很好！我们去吧？", 3),
        ("hi", "यह है। वह है।", 2),
        ("ar", "مرحبا؟ نعم. لا.", 3),
        ("xx", "Hello there. World.", 2),
        ("en", "no end", 1),
    ],
)
def test_sentences_are_found(language: str, text: str, sentences: int) -> None:
    spans, after = split_sentences(text, language)
    assert len(spans) == sentences
    assert "".join(span.before + span.text for span in spans) + after == text


@given(TEXTS, st.sampled_from(["en", "fr", "zh", "ja", "xx"]))
@example("B\r\n\u00a0.B\n\n1", "en")  # sentencex 1.0.32 panics at it
def test_sentences_and_white_space_are_the_text(text: str, language: str) -> None:
    spans, after = split_sentences(text, language)
    assert "".join(span.before + span.text for span in spans) + after == text
    assert all(span.text == span.text.strip() != "" for span in spans)
    assert not after.strip()
    whole, tail = whole_text(text)
    assert "".join(span.before + span.text for span in whole) + tail == text
    assert len(whole) == bool(text.strip())


@given(TEXTS.map(str.strip).filter(bool), st.integers(1, 9))
def test_pieces_are_the_sentence(text: str, room: int) -> None:
    pieces = list(cut_text(text, lambda part: len(part) <= room))
    assert "".join(piece.before + piece.text for piece in pieces) == text
    assert all(piece.text for piece in pieces)
    for piece in pieces:
        assert len(piece.text) <= room or not any(one.isspace() for one in piece.text)


def test_cuts_are_at_words_and_never_inside_a_letter() -> None:
    pieces = list(cut_text("one two  three four", lambda part: len(part) <= 8))
    assert [piece.text for piece in pieces] == ["one two", "three", "four"]
    assert [piece.before for piece in pieces] == ["", "  ", " "]
    family = "👩‍👩‍👧" * 3
    pieces = list(cut_text(family, lambda part: len(part) <= 5))
    assert "".join(piece.text for piece in pieces) == family
    assert all(piece.text[0] == "👩" for piece in pieces)
    accents = list(cut_text("e\u0301" * 5, lambda part: len(part) <= 3))
    assert all(piece.text[0] == "e" for piece in accents)


def test_chinese_sentences_have_no_space_and_others_have_one() -> None:
    assert join_spans([("", "Hello."), ("", "Today.")], "\n") == "Hello. Today.\n"
    assert join_spans([("", "你好。"), (" ", "今天。")], "") == "你好。今天。"
    assert join_spans([("  ", "你好。"), ("\n\n", "今天。")], "") == "  你好。\n\n今天。"
    assert join_spans([("", "A."), ("  ", "B.")], " ") == "A.  B. "
