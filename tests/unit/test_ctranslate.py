"""CTranslate2 in place of torch: the same texts, converted once, in the time of a load."""

from __future__ import annotations

import importlib.util
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from textmill.core.checkpoints import Permits
from textmill.core.errors import RecordError
from textmill.core.jobs import Record
from textmill.core.params.seq2seq import CTRANSLATE2_FAMILIES
from textmill.core.settings import Settings
from textmill.core.tasks import get_task, validate_params
from textmill.workers.engine import Activity, Engine
from textmill.workers.items import ModelRequest, Output
from textmill.workers.registry import load_runner
from textmill.workers.runners import ctranslate
from textmill.workers.watchdog import REPLACE_EXIT_CODE, find_fault

from ..servers import wait_until
from ..tiny_translators import SENTENCES, save_m2m100, save_marian, save_mbart, save_t5

FAMILIES: dict[str, tuple[Callable[[Path], Path], dict[str, str]]] = {
    "marian": (save_marian, {"target_lang": "French"}),
    "m2m100": (save_m2m100, {"source_lang": "eng", "target_lang": "French"}),
    "mbart": (save_mbart, {"source_lang": "en_XX", "target_lang": "fr"}),
    "t5": (save_t5, {"source_lang": "en", "target_lang": "fra"}),
}
# With 1 the tokens that start an output count for transformers, and not for CTranslate2.
SETTINGS: dict[str, Any] = {"max_new_tokens": 16, "no_repeat_ngram_size": 2}

Found = list[Output | RecordError]
needs_ctranslate2 = pytest.mark.skipif(
    importlib.util.find_spec("ctranslate2") is None and not os.environ.get("CI"),
    reason="ctranslate2 is not installed",
)


@pytest.fixture
def open_engine(home: Path) -> Iterator[Callable[..., Engine]]:
    """Engines of this test, with a data folder of its own."""
    engines: list[Engine] = []

    def opened(folder: Path, **more: Any) -> Engine:
        request = ModelRequest("translation", str(folder), device="cpu", **more)
        engines.append(Engine(lambda: load_runner(request), name=str(folder)))
        engines[-1].wait_ready(60)
        return engines[-1]

    yield opened
    for engine in engines:
        engine.close()


def translate(engine: Engine, texts: list[str], **params: Any) -> Found:
    records = [Record(n, str(n), {"text": text}) for n, text in enumerate(texts)]
    checked = validate_params(get_task("translation"), SETTINGS | params)
    return engine.submit(records, checked).wait(60)


def outputs(found: Found) -> list[str | None]:
    assert all(isinstance(one, Output) for one in found), found
    return [one.output for one in found if isinstance(one, Output)]


def errors(found: Found) -> list[RecordError]:
    assert all(isinstance(one, RecordError) for one in found), found
    return [one for one in found if isinstance(one, RecordError)]


@needs_ctranslate2
@pytest.mark.parametrize("family", FAMILIES)
def test_it_writes_the_same_and_converts_once(
    tmp_path: Path, home: Path, open_engine: Callable[[Path], Engine], family: str
) -> None:
    save, params = FAMILIES[family]
    engine = open_engine(save(tmp_path / "model"))
    expected = outputs(translate(engine, SENTENCES, **params))
    asked = params | {"backend": "ctranslate2"}
    converted = outputs(translate(engine, SENTENCES, **asked))
    # Rounding differs: where two words of a random model are as likely, the other may be taken.
    same = [one == other for one, other in zip(converted, expected, strict=True)]
    assert sum(same) >= 0.9 * len(same)
    (folder,) = [one for one in (home / "ctranslate2").iterdir() if one.is_dir()]
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    again = translate(open_engine(tmp_path / "model"), SENTENCES[:2], **asked)
    assert outputs(again) == converted[:2]
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


@needs_ctranslate2
def test_the_threads_of_torch_stay_as_many(home: Path, tmp_path: Path) -> None:
    """Both may use one OpenMP, which keeps a number for each thread."""
    runner: Any = load_runner(
        ModelRequest("translation", str(save_marian(tmp_path / "model")), device="cpu")
    )
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        runner._converted.open()
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@needs_ctranslate2
@pytest.mark.filterwarnings("ignore:Recommended")
def test_a_model_of_pickles_that_is_trained_again_is_converted_again(
    tmp_path: Path, open_engine: Callable[..., Engine]
) -> None:
    """Given other weights in the folder of the old ones, and no safetensors."""
    folder = save_marian(tmp_path / "model")
    found = []
    for factor in (1, -3):
        model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder)
        model.model.decoder.layers[0].fc2.weight.data *= factor
        model.save_pretrained(folder)
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
        (folder / "model.safetensors").rename(tmp_path / "model.safetensors")
        engine = open_engine(folder, permits=Permits(pickle=True))
        found.append(outputs(translate(engine, SENTENCES[:9], backend="ctranslate2")))
        (tmp_path / "model.safetensors").rename(folder / "model.safetensors")
    assert found[0] != found[1]


@needs_ctranslate2
def test_int8_is_refused_in_the_row_where_the_submitter_did_not(
    tmp_path: Path, open_engine: Callable[..., Engine]
) -> None:
    engine = open_engine(save_marian(tmp_path / "model"), dtype="int8")
    (error,) = errors(translate(engine, ["team"], backend="ctranslate2"))
    assert error.code == "backend_unavailable"
    assert "int8" in error.message


@needs_ctranslate2
def test_the_families_are_those_that_can_be_converted() -> None:
    from textmill.workers.runners import ctranslate_convert

    assert set(CTRANSLATE2_FAMILIES) == set(ctranslate_convert.LOADERS)


@needs_ctranslate2
def test_converting_has_the_time_of_a_load(
    tmp_path: Path, open_engine: Callable[[Path], Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a conversion that outlasts the limit of a batch."""
    from textmill.workers.runners import ctranslate_convert

    convert, converting, go_on = ctranslate_convert.convert, threading.Event(), threading.Event()

    def slow(*given: Any) -> None:
        converting.set()
        assert go_on.wait(60)
        convert(*given)

    monkeypatch.setattr(ctranslate_convert, "convert", slow)
    engine = open_engine(save_marian(tmp_path / "model"))
    found: list[Found] = []
    asking = threading.Thread(
        target=lambda: found.append(translate(engine, SENTENCES[:4], backend="ctranslate2"))
    )
    asking.start()
    assert converting.wait(60)
    assert engine.activity is Activity.LOAD
    patient = Settings(batch_timeout_seconds=0.001, load_timeout_seconds=600)
    wait_until(
        lambda: time.monotonic() - engine.last_progress > 0.1,
        what="a conversion that takes its time",
    )
    assert find_fault([engine], patient, woke_at=0) is None
    short = Settings(batch_timeout_seconds=600, load_timeout_seconds=0.001)
    fault = find_fault([engine], short, woke_at=0)
    assert fault is not None
    assert (fault.exit_code, fault.unloadable) == (REPLACE_EXIT_CODE, engine.name)
    go_on.set()
    asking.join(60)
    assert outputs(found[0])


@needs_ctranslate2
def test_a_conversion_that_fails_is_said_in_the_rows_and_tried_again_later(
    tmp_path: Path, open_engine: Callable[[Path], Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a full disk: no batch is halved for it, and texts for torch go on."""
    from textmill.workers.runners import ctranslate_convert

    convert, tries = ctranslate_convert.convert, []

    def full(*given: Any) -> None:
        tries.append(given)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ctranslate_convert, "convert", full)
    engine = open_engine(save_marian(tmp_path / "model"))
    for _ in range(2):
        for error in errors(translate(engine, SENTENCES[:9], backend="ctranslate2")):
            assert error.code == "backend_unavailable"
            assert "No space left on device" in error.message
    assert len(tries) == 1
    assert outputs(translate(engine, SENTENCES[:9]))
    monkeypatch.setattr(ctranslate_convert, "convert", convert)
    monkeypatch.setattr(ctranslate, "PAUSE_SECONDS", 0.0)
    assert outputs(translate(engine, SENTENCES[:9], backend="ctranslate2"))


def test_an_absent_package_is_said_in_the_row(
    tmp_path: Path, open_engine: Callable[[Path], Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *more: None if name == "ctranslate2" else find(name, *more),
    )
    engine = open_engine(save_marian(tmp_path / "model"))
    (error,) = errors(translate(engine, ["team"], backend="ctranslate2"))
    assert error.code == "backend_unavailable"
    assert "textmill[ct2]" in error.message
