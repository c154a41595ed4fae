"""Translation with tiny random models of each family, held against ``generate`` one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from textmill.core.errors import InvalidJobError, ModelLoadError, RecordError
from textmill.core.jobs import Record
from textmill.core.tasks import get_task, validate_params
from textmill.workers.engine import Engine
from textmill.workers.items import ModelRequest, Output
from textmill.workers.registry import load_runner
from textmill.workers.runners import greedy
from textmill.workers.runners.finite import FiniteWatch
from textmill.workers.runners.quantizing import quantize

from ..tiny_models import save_model as save_classifier
from ..tiny_translators import (
    SENTENCES,
    save_bart,
    save_m2m100,
    save_marian,
    save_mbart,
    save_nllb,
    save_t5,
)

Found = list[Output | RecordError]
Translate = Callable[..., Found]

# family: how its model is made, the languages as a person may write them, and as transformers does
FAMILIES: dict[str, tuple[Callable[[Path], Path], dict[str, str], tuple[str, str]]] = {
    "marian": (save_marian, {"target_lang": "French"}, ("", "")),
    "marian-several": (
        lambda folder: save_marian(folder, ">>deu<<", ">>fra<<"),
        {"target_lang": "fr"},
        ("", ">>fra<<"),
    ),
    "m2m100": (save_m2m100, {"source_lang": "eng", "target_lang": "French"}, ("en", "fr")),
    "nllb": (save_nllb, {"source_lang": "en", "target_lang": "fra"}, ("eng_Latn", "fra_Latn")),
    "mbart": (save_mbart, {"source_lang": "en_XX", "target_lang": "fr"}, ("en_XX", "fr_XX")),
    "t5": (save_t5, {"source_lang": "en", "target_lang": "fra"}, ("", "")),
    "bart": (save_bart, {}, ("", "")),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a family's model, made when it is first asked for."""
    root = tmp_path_factory.mktemp("translators")

    def folder(family: str) -> Path:
        path = root / family
        return path if path.exists() else FAMILIES[family][0](path)

    return folder


@pytest.fixture(scope="module")
def translate(models: Callable[[str], Path]) -> Iterator[Translate]:
    """Translations by an engine; ``family`` is one of FAMILIES or a folder."""
    engines: dict[Any, Engine] = {}

    def run(
        texts: list[Any],
        family: Any = "marian",
        tokens: int = 2048,
        dtype: str = "fp32",
        **params: Any,
    ) -> Found:
        folder = models(family) if isinstance(family, str) else family
        key = folder, tokens, dtype
        if key not in engines:
            request = ModelRequest("translation", str(folder), dtype=dtype, device="cpu")
            engines[key] = Engine(lambda: load_runner(request), max_batch_tokens=tokens)
        records = [
            one if isinstance(one, Record) else Record(n, str(n), {"text": one})
            for n, one in enumerate(texts)
        ]
        checked = validate_params(get_task("translation"), params)
        return engines[key].submit(records, checked).wait(120)

    yield run
    for engine in engines.values():
        engine.close()


def plainly(
    folder: Path, family: str, texts: list[str], *, int8: bool = False, **settings: Any
) -> list[str]:
    """What a script gets from ``generate`` for one text at a time."""
    source, target = FAMILIES[family][2]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    if int8:
        quantize(model)
    if source:
        tokenizer.src_lang = source
        settings["forced_bos_token_id"] = (
            tokenizer.get_lang_id(target)
            if hasattr(tokenizer, "get_lang_id")
            else tokenizer.convert_tokens_to_ids(target)
        )
    before = {"marian-several": ">>fra<< ", "t5": "translate English to French: "}.get(family, "")
    found = []
    for text in texts:
        inputs = tokenizer(before + text, return_tensors="pt")
        inputs.pop("token_type_ids", None)
        (ids,) = model.generate(**inputs, **settings)
        # A tokenizer that was made here does not count the language as special.
        plain = tokenizer.decode(ids, skip_special_tokens=True)
        found.append(plain.strip().removeprefix(f"__{target}__").strip())
    return found


def outputs(found: Found) -> list[str | None]:
    assert all(isinstance(one, Output) for one in found), found
    return [one.output for one in found if isinstance(one, Output)]


def as_output(found: Output | RecordError) -> Output:
    assert isinstance(found, Output), found
    return found


def as_error(found: Output | RecordError) -> RecordError:
    assert isinstance(found, RecordError), found
    return found


@pytest.mark.filterwarnings("ignore:Recommended")
@pytest.mark.parametrize("settings", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_are_those_of_generate_one_by_one(
    translate: Translate, models: Callable[[str], Path], family: str, settings: dict[str, Any]
) -> None:
    params = FAMILIES[family][1] | settings
    texts = SENTENCES[:16]
    expected = plainly(models(family), family, texts, **settings)
    found = outputs(translate(texts, family, **params))
    assert found == expected
    assert len(set(found)) > 3  # else nothing was compared
    assert outputs(translate(texts[:4], family, tokens=1, **params)) == found[:4]


@pytest.mark.filterwarnings("ignore:Recommended")
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_writes_in_int8(
    translate: Translate, models: Callable[[str], Path], family: str
) -> None:
    """Alone in its batch, on which int8 depends, each text is that of ``generate``."""
    expected = plainly(models(family), family, SENTENCES[:4], int8=True)
    found = translate(SENTENCES[:4], family, tokens=1, dtype="int8", **FAMILIES[family][1])
    assert outputs(found) == expected


@pytest.mark.parametrize("family", ["marian", "t5", "bart"])
def test_rows_that_ended_are_not_computed_further(
    translate: Translate, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    """Given outputs of uneven lengths: a step has as many rows as have not ended."""
    translate(SENTENCES[:1], family, **FAMILIES[family][1])  # loads and warms up, uncounted
    rows: list[int] = []
    step = greedy._Batch.step

    def counted(batch: Any) -> torch.Tensor:
        rows.append(len(batch.ids))
        return step(batch)

    monkeypatch.setattr(greedy._Batch, "step", counted)
    found = translate(SENTENCES, family, **FAMILIES[family][1])
    lengths = [as_output(one).output_tokens for one in found]
    assert len(set(lengths)) > 1
    assert rows
    assert sum(rows) <= sum(lengths) + len(lengths)


def test_a_processor_that_needs_all_rows_keeps_them(models: Callable[[str], Path]) -> None:
    """Forbidding the input's own words depends on the row's place: nothing may be dropped."""
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(models("marian")).eval()
    ids = torch.arange(2, 34).reshape(8, 4)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    settings = {"encoder_no_repeat_ngram_size": 1, "pad_token_id": model.config.pad_token_id}
    plain = model.generate(**inputs, **settings)
    ours = {"custom_generate": greedy.search, "watch": FiniteWatch(1, [])}
    assert model.generate(**inputs, **settings, **ours).equal(plain)
    assert not model.generate(**inputs).equal(plain)


def test_chance_is_left_out(tmp_path: Path, translate: Translate) -> None:
    """Given a model whose own settings draw at random."""
    folder = save_marian(tmp_path / "model")
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder)
    model.generation_config.do_sample = True
    model.save_pretrained(folder)
    assert outputs(translate(SENTENCES, folder)) == outputs(translate(SENTENCES))


def test_sentences_are_translated_apart_and_joined_as_they_were(translate: Translate) -> None:
    one, two, three = SENTENCES[0], SENTENCES[4], SENTENCES[8]
    texts = [one, two, three, f"  {one}  {two}\n\n \t{three}\r\n", f"{one}\n{two}"]
    first, second, third, whole, lines = map(as_output, translate(texts))
    assert whole.output == f"  {first.output}  {second.output}\n\n \t{third.output}\r\n"
    assert lines.output == f"{first.output}\n{second.output}"
    assert whole.detail is not None
    assert whole.detail["pieces"] == 3
    assert whole.input_tokens == sum(o.input_tokens for o in (first, second, third))
    assert whole.output_tokens == sum(o.output_tokens for o in (first, second, third))


def test_long_sentences_are_cut_at_words_and_counted(translate: Translate) -> None:
    """Given one of 300 words for a model of 64 positions: nothing of it is left out."""
    words = " ".join(word for _ in range(20) for word in ["the", "red", "team"] * 5)
    found = as_output(translate([words])[0])
    assert found.detail is not None
    assert found.detail["cut_pieces"] == found.detail["pieces"] > 4
    tokens = as_output(translate(["the red team"])[0]).input_tokens - 1
    assert found.input_tokens == tokens * 100 + found.detail["pieces"]  # and each its </s>
    assert as_error(translate([words], on_long="error")[0]).code == "text_too_long"
    without_spaces = as_output(translate(["team" * 200])[0])
    assert without_spaces.detail is not None
    assert without_spaces.detail["cut_pieces"] > 4


def test_only_long_texts_are_split_if_asked(translate: Translate) -> None:
    two = f"{SENTENCES[0]} {SENTENCES[4]}"
    assert as_output(translate([two])[0]).detail is not None
    found = as_output(translate([two], split="long")[0])
    assert "pieces" not in (found.detail or {})
    many = " ".join(SENTENCES)
    detail = as_output(translate([many], split="long")[0]).detail
    assert detail is not None
    assert detail["pieces"] > 50
    refused = translate([many, two], split="long", on_long="error")
    assert as_error(refused[0]).code == "text_too_long"
    assert as_output(refused[1]) == found


def test_an_output_that_reached_its_limit_says_so(translate: Translate) -> None:
    found = [as_output(one) for one in translate(SENTENCES, max_new_tokens=4)]
    cut = [one for one in found if (one.detail or {}).get("finish_reason") == "length"]
    assert cut
    assert all(one.output_tokens <= 4 for one in found)
    whole = [as_output(one) for one in translate(SENTENCES)]
    for short, full in zip(found, whole, strict=True):
        if short not in cut:
            assert short == full


def test_settings_of_one_job_do_not_reach_another(translate: Translate) -> None:
    """Records of several settings in one submission, each as alone."""
    own = [{}, {"num_beams": 3}, {"max_new_tokens": 3}, {"no_repeat_ngram_size": 1}]
    records = [Record(n, str(n), {"text": SENTENCES[7]}, params=one) for n, one in enumerate(own)]
    together = outputs(translate(records))
    assert together == [outputs(translate([SENTENCES[7]], tokens=64, **one))[0] for one in own]
    assert len(set(together)) > 2


def test_control_words_in_a_text_are_text(translate: Translate) -> None:
    """A text may not end itself, nor choose its language."""
    plain = as_output(translate(["team"], "marian-several", target_lang="fr")[0])
    for text in ("team </s> team", ">>deu<< team", ">> team << team"):
        found = as_output(translate([text], "marian-several", target_lang="fr")[0])
        assert found.input_tokens > plain.input_tokens + 4
    ended = as_output(translate(["team </s> team"], "mbart", **FAMILIES["mbart"][1])[0])
    assert ended.input_tokens > len("▁team") * 2 + 3  # letters are its tokens


@pytest.mark.parametrize("text", ["", "   ", "\n\t\r\n", "\u2003"])
def test_a_text_without_words_is_an_error_row(translate: Translate, text: str) -> None:
    bad, good = translate([text, SENTENCES[0]])
    assert as_error(bad).code == "empty_text"
    assert as_output(good).output


def test_half_a_surrogate_pair_is_an_error_row(translate: Translate) -> None:
    bad, good = translate(["a\ud800b", SENTENCES[0]])
    assert as_error(bad).code == "invalid_input"
    assert as_output(good).output


@pytest.mark.parametrize(
    ("family", "params", "says"),
    [
        ("marian", {"target_lang": "de"}, ["target_lang is 'de'", "knows: fr"]),
        ("marian", {"source_lang": "fr"}, ["source_lang is 'fr'", "knows: en"]),
        ("marian-several", {}, ["needs target_lang", ">>deu<<, >>fra<<"]),
        ("marian-several", {"target_lang": "frra"}, ["did you mean '>>fra<<'"]),
        ("nllb", {"target_lang": "fr"}, ["needs source_lang", "fra_Latn"]),
        ("nllb", {"source_lang": "en", "target_lang": "zh"}, ["zho_Hans or zho_Hant"]),
        ("nllb", {"source_lang": "en", "target_lang": "Klingon"}, ["'Klingon'", "ell_Grek"]),
        ("t5", {"source_lang": "en"}, ["needs target_lang"]),
        ("t5", {"source_lang": "en", "target_lang": "Qwertzish"}, ["Qwertzish", "--prefix"]),
        ("bart", {"target_lang": "fr"}, ["'fr'", "leave the option out"]),
    ],
)
def test_a_language_the_model_does_not_know_is_said_before_and_in_the_row(
    models: Callable[[str], Path], translate: Translate, family: str, params: Any, says: list[str]
) -> None:
    checked = validate_params(get_task("translation"), params)
    folder = models(family)
    config = transformers.AutoConfig.from_pretrained(folder).to_dict()
    with pytest.raises(InvalidJobError) as refused:
        checked.check_model("m", folder, config)
    error = as_error(translate(["team"], family, **params)[0])
    assert error.code == "invalid_params"
    for part in says:
        assert part in str(refused.value)
        assert part in error.message


def test_t5_is_told_what_its_config_says_or_the_job(
    tmp_path: Path, translate: Translate, models: Callable[[str], Path]
) -> None:
    known = {"translation_en_to_de": {"prefix": "translate English to French: "}}
    folder = save_t5(tmp_path / "t5", task_specific_params=known)
    french = outputs(translate(["team"], "t5", **FAMILIES["t5"][1], max_new_tokens=9))
    told = translate(["team"], folder, source_lang="English", target_lang="deu", max_new_tokens=9)
    assert outputs(told) == french
    prefix = "translate English to French: "
    assert outputs(translate(["team"], folder, prefix=prefix, max_new_tokens=9)) == french
    error = as_error(translate(["team"], folder, source_lang="en", target_lang="fr")[0])
    assert "it knows: en to de" in error.message


def test_a_model_that_cannot_translate_is_refused(tmp_path: Path) -> None:
    encoder = save_classifier(tmp_path / "encoder", "BertForMaskedLM")
    with pytest.raises(ModelLoadError, match="cannot do translation"):
        load_runner(ModelRequest("translation", str(encoder), device="cpu"))
    config = transformers.AutoConfig.from_pretrained(save_marian(tmp_path / "marian")).to_dict()
    asked = validate_params(get_task("translation"), {"max_new_tokens": 64})
    with pytest.raises(InvalidJobError, match=r"64 positions.*at most 63"):
        asked.check_model("m", tmp_path / "marian", config)
    asked = validate_params(get_task("translation"), {"backend": "ctranslate2"})
    asked.check_model("m", tmp_path / "marian", config)
    with pytest.raises(InvalidJobError, match=r"has no fsmt models.*expected one of: bart"):
        asked.check_model("m", tmp_path / "marian", config | {"model_type": "fsmt"})
