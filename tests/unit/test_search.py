"""The words of a text, and what a search means."""

from __future__ import annotations

import pytest

from textmill.core.errors import InvalidJobError
from textmill.core.search import (
    MAX_CHARACTERS,
    MAX_DEPTH,
    MAX_QUERY_WORDS,
    MAX_WORDS,
    AllOf,
    AnyOf,
    Phrase,
    matches,
    parse_search,
    words_of,
    words_of_row,
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Free ENTRY, win 100!", "free entry win 100"),
        ("", ""),
        (" \t\n…—!?", ""),
        ("don't can’t", "don t can t"),
        ("e-mail re-re", "e mail re re"),
        ("order_id user@host.org", "order id user host org"),
        ("Café naïve ÉCOLE", "cafe naive ecole"),
        ("Cafe\u0301 E\u0301COLE", "cafe ecole"),  # accents as characters of their own
        ("Straße STRASSE ﬁn", "strasse strasse fin"),
        ("ΑΣ ας Ελλάδα", "ασ ασ ελλαδα"),
        ("İstanbul ıstanbul", "istanbul ıstanbul"),
        ("smørrebrød Łódź", "smørrebrød łodz"),  # letters of their own
        ("ＦＵＬＬ　ｗｉｄｔｈ ①", "full width 1"),
        ("Wort\u00adtrennung", "worttrennung"),
        ("Привет, Ёлка", "привет елка"),
        ("שָׁלוֹם كِتَاب", "שלום كتاب"),
        ("한국어 텍스트", "한국어 텍스트"),
        ("हिन्दी भाषा", "हिन्दी भाषा"),  # vowel signs belong to the word
        ("東京都へ", "東 京 都 へ"),
        ("ｶﾞ が か", "ガ が か"),  # a voicing mark makes another letter
        ("時々 2人", "時 々 2 人"),
        ("ข้าว", "ข ้ า ว"),
        ("❤️ 1️⃣ 👍🏽", "1"),
        ("a\u2028b\x00c", "a b c"),
    ],
)
def test_a_text_is_cut_into_words(text: str, words: str) -> None:
    assert words_of(text) == words.split()


def test_a_text_beyond_ascii_is_cut_like_one_of_ascii() -> None:
    text = "Don't_stop 4ever; E-MAIL\tx\x0by"
    assert words_of(f"{text} é") == [*words_of(text), "e"]


def test_of_a_very_long_text_the_beginning_counts() -> None:
    assert words_of("a " * 20_000) == ["a"] * MAX_WORDS
    assert words_of("é " * 20_000) == ["e"] * MAX_WORDS
    assert words_of("x" * 10_000) == ["x" * 100]
    spaced = "y".rjust(MAX_CHARACTERS) + " z"
    assert words_of(spaced) == words_of(spaced.replace(" ", "\u3000")) == ["y"]
    # Each of these is eighteen characters when it is taken apart.
    assert sum(map(len, words_of("ﷺ" * MAX_CHARACTERS))) <= MAX_CHARACTERS


def test_between_a_text_and_its_output_is_a_word_of_no_text() -> None:
    words = words_of_row("so long", "see you ⏎")
    assert (words[:2], words[3:]) == (["so", "long"], ["see", "you"])
    assert words[2] not in words_of(f"x {words[2]} x")
    assert words_of_row(None, None) == words_of_row("", "") == words_of_row("…", None) == []
    assert words_of_row("so", None) == ["so"]


FREE, WIN, CALL = Phrase(("free",)), Phrase(("win",)), Phrase(("call",))


@pytest.mark.parametrize(
    ("query", "meaning"),
    [
        ("free", FREE),
        ("  FREE\n", FREE),
        ("Frée!", FREE),
        ("free win", AllOf((FREE, WIN))),
        ("free OR win", AnyOf((FREE, WIN))),
        ("free|win", AnyOf((FREE, WIN))),
        ("free or win", AllOf((FREE, Phrase(("or",)), WIN))),
        ("free -win", AllOf((FREE,), (WIN,))),
        ("-win free", AllOf((FREE,), (WIN,))),
        ("free win OR call", AnyOf((AllOf((FREE, WIN)), CALL))),
        ("free (win OR call)", AllOf((FREE, AnyOf((WIN, CALL))))),
        ("free -(win OR call)", AllOf((FREE,), (AnyOf((WIN, CALL)),))),
        ("((free))", FREE),
        ("(free)(win)", AllOf((FREE, WIN))),
        ('"free win"', Phrase(("free", "win"))),
        ('"Free, (win)!"', Phrase(("free", "win"))),
        ('"free OR win"', Phrase(("free", "or", "win"))),
        ('free"win"', AllOf((FREE, WIN))),
        ("e-mail", Phrase(("e", "mail"))),
        ("don't", Phrase(("don", "t"))),
        ("東京", Phrase(("東", "京"))),
        ("fre*", Phrase(("fre",), prefix=True)),
        ('"free w"*', Phrase(("free", "w"), prefix=True)),
        ("e-ma*", Phrase(("e", "ma"), prefix=True)),
        ("free -OR", AllOf((FREE,), (Phrase(("or",)),))),
        ('"AND"', Phrase(("and",))),
        ('free -"call now"*', AllOf((FREE,), (Phrase(("call", "now"), prefix=True),))),
    ],
)
def test_a_search_means(query: str, meaning: object) -> None:
    assert parse_search(query) == meaning


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("", "it has no word to look for"),
        ("   ", "it has no word to look for"),
        ("!?", "'!?' has no letter or digit to look for"),
        ("free -", "'-' has no letter or digit to look for"),
        ("*", "'*' has no letter or digit to look for"),
        ('free ""', "'' has no letter or digit to look for"),
        ('free "win', 'a " has no second one'),
        ('free win"', 'a " has no second one'),
        ("(free", "a ( has no ) after it"),
        ("free (win OR call", "a ( has no ) after it"),
        ("free)", "a ) has no ( before it"),
        (")", "a word is missing beside OR or inside ( )"),
        ("()", "a word is missing beside OR or inside ( )"),
        ("OR free", "a word is missing beside OR or inside ( )"),
        ("free OR", "a word is missing beside OR or inside ( )"),
        ("free OR OR win", "a word is missing beside OR or inside ( )"),
        ("free | | win", "a word is missing beside OR or inside ( )"),
        ("-free", "it says only what is not wanted; add a word that is"),
        ("win OR -free", "it says only what is not wanted; add a word that is"),
        ("win (-free)", "it says only what is not wanted; add a word that is"),
        ("free AND win", "AND is not needed: every word must be there"),
        ("free NOT win", "NOT is written as a minus, such as -call"),
        ("(" * (MAX_DEPTH + 1) + "a" + ")" * (MAX_DEPTH + 1), "more than 20 brackets inside"),
        ("(" * 100_000, "more than 20 brackets inside"),
        ("a " * (MAX_QUERY_WORDS + 1), "it has more than 200 words"),
        ('"' + "a " * (MAX_QUERY_WORDS + 1) + '"', "it has more than 200 words"),
    ],
)
def test_a_broken_search_says_what_is_wrong_and_what_was_expected(query: str, problem: str) -> None:
    with pytest.raises(InvalidJobError) as raised:
        parse_search(query)
    message = str(raised.value)
    assert message.startswith("cannot search for ")
    assert problem in message
    assert message.endswith('expected such as free -call "urgent reply" (win OR prize) congrat*')
    assert len(message) < 400


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("urgent", True),
        ("urge", False),
        ("urge*", True),
        ("reply urgent", True),
        ('"urgent reply"', True),
        ('"reply urgent"', False),
        ('"urgent rep"*', True),
        ('"urg reply"*', False),
        ('"reply needed"', True),
        ('"needed now"', False),  # it ends there
        ("urgent -call", True),
        ("urgent -reply", False),
        ('urgent -"reply urgent"', True),
        ("call OR urgent", True),
        ("(call OR win) urgent", False),
        ("urgent -(call OR needed)", False),
        ("urgent -(call needed)", True),
    ],
)
def test_words_are_found_or_not(query: str, found: bool) -> None:
    assert matches(parse_search(query), ["an", "urgent", "reply", "needed"]) is found


def test_a_phrase_is_found_behind_a_beginning_of_itself() -> None:
    assert matches(parse_search('"a a b"'), ["a", "a", "a", "b"])
    assert not matches(parse_search('"a b a"'), ["a", "b"])
    assert not matches(parse_search('"a b"'), [])
