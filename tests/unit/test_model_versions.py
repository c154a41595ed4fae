"""Where models come from and which of them ran: the hub's cache, folders, pickles, code, int8."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from textmill.core.checkpoints import Permits, open_checkpoint
from textmill.core.errors import InvalidJobError, ModelLoadError
from textmill.core.identities import Identities
from textmill.core.jobs import JobSpec, Record
from textmill.core.params import ClassificationParams
from textmill.core.settings import load_settings
from textmill.producer.submit import validate_spec
from textmill.workers.items import ModelRequest
from textmill.workers.models import ModelPool
from textmill.workers.runners import devices, quantizing
from textmill.workers.runners.classification import ClassificationRunner

from ..hub_cache import HubCache
from ..tiny_gguf import save_gguf
from ..tiny_models import WORDS, save_model

OLD, NEW = "a" * 40, "b" * 40


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("plain") / "model")


@pytest.fixture
def copy(plain: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    return Path(shutil.copytree(plain, tmp_path / "model"))


@pytest.fixture
def cache(tmp_path: Path, plain: Path, monkeypatch: pytest.MonkeyPatch) -> HubCache:
    """``org/tiny`` at one commit, which ``main`` points to; the hub is not asked."""
    import huggingface_hub.constants as constants

    found = HubCache(tmp_path / "hf")
    found.point("main", found.add(OLD, plain))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(found.home / "hub"))
    return found


def checked(model: str | Path, **fields: Any) -> JobSpec:
    spec = JobSpec(**{"task": "classification", "model": str(model), **fields})
    return validate_spec(spec, load_settings())[0]


def refusal(model: str | Path, **fields: Any) -> str:
    with pytest.raises(InvalidJobError) as caught:
        checked(model, **fields)
    return str(caught.value)


def load(model: str | Path, **fields: Any) -> ClassificationRunner:
    return ClassificationRunner.load(
        ModelRequest("classification", str(model), device="cpu", **fields)
    )


def scores(runner: ClassificationRunner, texts: list[str]) -> list[tuple[str, float]]:
    """Label and score of each text, all in one batch."""
    records = [Record(n, str(n), {"text": text}) for n, text in enumerate(texts)]
    items = [found[0] for found in runner.prepare(records, ClassificationParams())]  # type: ignore[index]
    outputs = [
        runner.join(record, [item], [raw], ClassificationParams())
        for record, item, raw in zip(records, items, runner.forward(items), strict=True)
    ]
    return [(str(output.label), float(output.score or 0)) for output in outputs]


# -- hub models ------------------------------------------------------------------------------


def test_a_branch_becomes_the_commit_it_means_at_submit(cache: HubCache, plain: Path) -> None:
    assert checked("org/tiny").model_version == OLD
    cache.point("main", cache.add(NEW, plain))
    cache.point("v1", OLD)
    assert checked("org/tiny").model_version == NEW
    assert checked("org/tiny", revision="v1").model_version == OLD
    assert checked("org/tiny", revision=OLD).model_version == OLD
    assert Identities().identify("org/tiny", None) == NEW
    assert open_checkpoint("org/tiny", OLD, download=False).folder.name == OLD


def test_what_is_not_in_the_cache_is_refused_where_the_worker_is_here(cache: HubCache) -> None:
    assert refusal("org/none").endswith("hf download org/none")
    assert refusal("org/none", revision="v9").endswith("hf download org/none --revision v9")
    message = refusal("org/tiny", revision="v9")
    assert "revision 'v9' is not (wholly) in this machine's cache, which has main, aaaa" in message
    assert "hf download org/tiny --revision v9" in message


def test_what_the_cache_has_is_looked_into(cache: HubCache, tmp_path: Path) -> None:
    encoder = save_model(tmp_path / "encoder", "BertModel")
    cache.point("main", cache.add(NEW, encoder))
    expected = "cannot do classification: its config.json names BertModel"
    assert expected in refusal("org/tiny")
    elsewhere = load_settings(database_url="postgresql://me@host/texts")
    for revision in (None, NEW):
        spec = JobSpec(task="classification", model="org/tiny", revision=revision)
        with pytest.raises(InvalidJobError, match=expected):
            validate_spec(spec, elsewhere)


def test_a_gguf_of_the_hub_is_named_by_its_file(cache: HubCache, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    save_gguf(tmp_path / "files" / "tiny.gguf")
    cache.point("main", cache.add(NEW, tmp_path / "files"))
    name = "org/tiny/tiny.gguf"
    assert open_checkpoint(name, None, download=False).gguf == "tiny.gguf"
    assert "cannot do classification" in refusal(name)
    assert "there is no file 'other.gguf' in org/tiny" in refusal("org/tiny/other.gguf")


# -- local models ----------------------------------------------------------------------------


def test_the_version_of_a_folder_is_what_sha256sum_says(copy: Path) -> None:
    (copy / "README.md").write_text("counts for nothing")
    files = "*.json *.safetensors"
    printed = subprocess.run(
        f"sha256sum $(ls {files} | LC_ALL=C sort) | sha256sum",
        shell=True,
        cwd=copy,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert Identities().identify(str(copy), None) == f"sha256:{printed.split()[0]}"


def test_the_version_of_a_gguf_file_is_its_sha256(tmp_path: Path) -> None:
    path = save_gguf(tmp_path / "tiny.gguf")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert Identities().identify(str(path), None) == f"sha256:{digest}"


def test_other_weights_of_the_same_size_are_another_version(copy: Path) -> None:
    identities = Identities()
    before = identities.identify(str(copy), None)
    assert identities.identify(str(copy), None) == before
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    os.utime(weights, ns=(0, weights.stat().st_mtime_ns + 1))
    assert identities.identify(str(copy), None) != before


def test_a_pool_does_not_load_what_the_job_did_not_begin_with(copy: Path) -> None:
    pool = ModelPool("cpu", limit_bytes=10**9)
    version = pool.identities.identify(str(copy), None)
    request = ModelRequest("classification", str(copy), digest=version)
    try:
        engine = pool.engine(request)
        config = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps(config | {"id2label": {0: "x", 1: "y"}}))
        assert pool.engine(request) is engine, "what is loaded is still the job's model"
        other = ModelRequest("classification", str(copy), dtype="bf16", digest=version)
        with pytest.raises(ModelLoadError, match=r"the job began with sha256:.*retry JOB --all"):
            pool.engine(other)
    finally:
        pool.close()


# -- what needs a permit ---------------------------------------------------------------------


def test_pickles_are_loaded_where_job_and_worker_agree(plain: Path, copy: Path) -> None:
    model = transformers.AutoModelForSequenceClassification.from_pretrained(copy)
    torch.save(model.state_dict(), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    message = refusal(copy)
    assert "only pytorch_model.bin" in message
    assert "--allow-pickle to workers that have TEXTMILL_ALLOW_PICKLE=1" in message
    assert checked(copy, allow_pickle=True)
    with pytest.raises(ModelLoadError, match="pickles are not loaded"):
        load(copy)
    texts = ["good", "free win now"]
    assert scores(load(copy, permits=Permits(pickle=True)), texts) == scores(load(plain), texts)


CODE = """
from transformers import BertConfig, BertForSequenceClassification
class OwnConfig(BertConfig):
    model_type = "own-bert"
class OwnModel(BertForSequenceClassification):
    config_class = OwnConfig
"""


def test_a_models_own_code_runs_where_job_and_worker_agree(
    plain: Path, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "m"))
    config = json.loads((copy / "config.json").read_text())
    own = {
        "AutoConfig": "own.OwnConfig",
        "AutoModelForSequenceClassification": "own.OwnModel",
    }
    (copy / "config.json").write_text(json.dumps(config | {"model_type": "own", "auto_map": own}))
    (copy / "own.py").write_text(CODE)
    with pytest.raises(ModelLoadError, match=r"needs Python code of its own \(own.py\)"):
        load(copy)
    texts = ["good", "free win now"]
    permits = Permits(remote_code=True)
    assert scores(load(copy, permits=permits), texts) == scores(load(plain), texts)
    before = Identities().identify(str(copy), None, permits)
    (copy / "own.py").write_text(CODE + "\n# changed")
    assert Identities().identify(str(copy), None, permits) != before

    own["AutoConfig"] = "org/other--own.OwnConfig"
    (copy / "config.json").write_text(json.dumps(config | {"auto_map": own}))
    assert "takes its code from another repository" in refusal(copy, trust_remote_code=True)


# -- int8 ------------------------------------------------------------------------------------


def test_int8_is_near_to_fp32_and_takes_less_memory(plain: Path) -> None:
    texts = [" ".join(WORDS[at % 9 : at % 9 + 1 + at % 7]) for at in range(40)]
    exact, rounded = load(plain), load(plain, dtype="int8")
    assert rounded.memory_bytes < exact.memory_bytes
    pairs = zip(scores(exact, texts), scores(rounded, texts), strict=True)
    assert sum(one == two for (one, _), (two, _) in pairs) >= 32
    assert scores(exact, texts) != scores(rounded, texts)


def test_a_layer_in_int8_says_nearly_what_it_says_in_fp32() -> None:
    """Weights of rows of very different size, and a bias: 8 bits are good for three percent."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(64, 32)
    layer.weight.data *= torch.logspace(-2, 2, 32)[:, None]
    layer.bias.data *= torch.logspace(-2, 2, 32)
    inputs = torch.randn(20, 64)
    with torch.inference_mode():
        exact, rounded = layer(inputs), quantizing.Int8Linear(layer)(inputs)
    sizes = exact.pow(2).mean(dim=0).sqrt()
    errors = (exact - rounded).pow(2).mean(dim=0).sqrt()
    assert (errors < 0.03 * sizes).all()
    assert not exact.equal(rounded)


def test_int8_is_for_the_cpu() -> None:
    with pytest.raises(ModelLoadError, match="int8 is for the CPU, and this worker has cuda:0"):
        devices.choose_dtype("int8", torch.device("cuda:0"))
