"""Languages as people write them, and what a model's files say it knows."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from subprocess import run
from typing import Any

import pytest

from textmill.core.errors import InvalidJobError, ModelLoadError
from textmill.core.languages import (
    are_same,
    find_language,
    language_name,
    nearest_name,
    splitter_code,
)
from textmill.core.model_languages import Telling, code_languages, read_languages

NLLB = ["eng_Latn", "fra_Latn", "zho_Hans", "zho_Hant", "nob_Latn", "nno_Latn", "ell_Grek"]
NLLB += ["swh_Latn", "uzn_Latn", "por_Latn"]
MBART = ["en_XX", "fr_XX", "zh_CN", "pt_XX", "sw_KE"]
MARIAN = [">>fra<<", ">>cmn_Hans<<", ">>cmn_Hant<<", ">>pt_br<<", ">>por<<"]


@pytest.mark.parametrize(
    ("given", "known", "code"),
    [
        ("fra_Latn", NLLB, "fra_Latn"),
        ("FRA-latn", NLLB, "fra_Latn"),
        ("fr", NLLB, "fra_Latn"),
        ("fre", NLLB, "fra_Latn"),
        (" French ", NLLB, "fra_Latn"),
        ("zh-Hant", NLLB, "zho_Hant"),
        ("cmn_Hans", NLLB, "zho_Hans"),
        ("Greek", NLLB, "ell_Grek"),
        ("Swahili", NLLB, "swh_Latn"),
        ("uz", NLLB, "uzn_Latn"),
        ("fr", MBART, "fr_XX"),
        ("Chinese", MBART, "zh_CN"),
        ("fr", MARIAN, ">>fra<<"),
        ("fra", MARIAN, ">>fra<<"),
        (">>fra<<", MARIAN, ">>fra<<"),
        ("pt-BR", MARIAN, ">>pt_br<<"),
        ("Portuguese", MARIAN, ">>por<<"),
        ("fra", [">>fr_BE<<", ">>fr_CA<<", ">>fr<<", ">>it<<"], ">>fr<<"),
        ("ns", ["nso", "ns"], "ns"),
    ],
)
def test_a_language_is_found_by_code_or_name(given: str, known: list[str], code: str) -> None:
    assert find_language("target_lang", given, known) == code


@pytest.mark.parametrize(
    ("given", "known", "says"),
    [
        ("zh", NLLB, ["zho_Hans or zho_Hant"]),
        ("Norwegian", NLLB, ["nob_Latn or nno_Latn"]),
        ("de", NLLB, ["'de'", "the model knows: eng_Latn, fra_Latn"]),
        ("Frensh", NLLB, ["did you mean 'fra_Latn'?"]),
        ("fra_Lat", NLLB, ["did you mean 'fra_Latn'?"]),
        ("pt_BR", NLLB, ["'pt_BR'", "por_Latn"]),
        ("", NLLB, ["''"]),
        ("💥", MBART, ["'💥'"]),
    ],
)
def test_what_is_unknown_or_unclear_is_refused_with_a_list(
    given: str, known: list[str], says: list[str]
) -> None:
    with pytest.raises(InvalidJobError) as refused:
        find_language("target_lang", given, known)
    for part in says:
        assert part in str(refused.value)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("fr", "French", True),
        ("el", "Greek", True),
        ("fre", ">>fra<<", True),
        ("fra_Latn", "fra-latn", True),
        ("Klingonish", "klingonish", True),
        ("en", "fr", False),
        ("zho_Hans", "zho_Hant", False),
        ("pt_BR", "pt", False),
        ("Chinese", "cmn", False),
        ("Klingonish", "Elvishish", False),
    ],
)
def test_two_names_of_one_language(one: str, other: str, same: bool) -> None:
    assert are_same(one, other) is same


def test_names_and_codes_for_others() -> None:
    assert language_name("de") == "German"
    assert language_name("ell") == "Modern Greek"
    assert language_name("Elvish") is None
    assert language_name("Greek") == "Modern Greek"
    assert [language_name(name) for name in ("Swahili", "MALAY")] == ["Swahili", "Malay"]
    assert splitter_code("Nepali") == "ne"
    assert nearest_name("Frensh") == " (did you mean 'French'?)"
    assert nearest_name("Elvish") == ""
    assert splitter_code("fra_Latn") == "fr"
    assert splitter_code(">>deu<<") == "de"
    assert splitter_code("ROMANCE") == splitter_code(None) == "en"


def write(folder: Path, **files: Any) -> Path:
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def test_files_of_published_models_are_understood(tmp_path: Path) -> None:
    """The places where each family's files keep its languages."""
    tokens = {"vocab": {"</s>": 0, ">>fra<<": 1, ">>ron<<": 2, "▁>>": 3}}
    group = write(tmp_path, tokenizer_config={"source_lang": "eng", "target_lang": "roa"}, **tokens)
    found = read_languages("m", group, {"model_type": "marian"})
    assert (found.telling, found.sources) == (Telling.TARGET_TOKEN, ("eng",))
    assert found.targets == (">>fra<<", ">>ron<<")
    write(group, vocab={"</s>": 0})
    found = read_languages("m", group, {"model_type": "marian"})
    assert (found.telling, found.sources, found.targets) == (Telling.FIXED, ("eng",), ("roa",))

    listed: list[dict[str, Any]] = [
        {"additional_special_tokens": ["eng_Latn", "fra_Latn"]},
        {"extra_special_tokens": ["eng_Latn", "fra_Latn", "<mask>"]},
        {"added_tokens_decoder": {"3": {"content": "eng_Latn"}, "4": {"content": "fra_Latn"}}},
    ]
    for settings in listed:
        write(tmp_path, tokenizer_config=settings)
        known = read_languages("m", tmp_path, {"model_type": "m2m_100"})
        assert known.targets == ("eng_Latn", "fra_Latn")
    write(tmp_path, tokenizer_config={}, added_tokens={"__en__": 5, "__fr__": 6})
    assert read_languages("m", tmp_path, {"model_type": "m2m_100"}).targets == ("en", "fr")
    write(tmp_path, added_tokens={}, tokenizer={"added_tokens": [{"content": "fr_XX", "id": 9}]})
    assert read_languages("m", tmp_path, {"model_type": "mbart"}).targets == ("fr_XX",)
    fsmt = read_languages("m", tmp_path, {"model_type": "fsmt", "langs": ["en", "ru"]})
    assert fsmt.resolve("English", "rus", None).target == "ru"
    assert code_languages("m", ["<s>", "</s>"]).sources == ()


@pytest.mark.parametrize("content", ["{", "[]", "\udcff"])
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer_config.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ModelLoadError, match=r"tokenizer_config\.json"):
        read_languages("m", tmp_path, {"model_type": "marian"})


def test_options_are_checked_without_torch() -> None:
    """Given a machine that only submits."""
    code = (
        "import sys; sys.modules['torch'] = sys.modules['transformers'] = None\n"
        "from textmill.core.tasks import get_task, validate_params\n"
        "validate_params(get_task('translation'), {'target_lang': 'French'})\n"
        "from textmill.core.languages import find_language\n"
        "print(find_language('target_lang', 'French', ['fra_Latn']))"
    )
    done = run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "fra_Latn"
