"""GGUF files: what is seen without torch, what is refused, and that they load as transformers does.

The files are made with the package ``gguf`` that llama.cpp's own tools use.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import gguf
import pytest
import torch
import transformers
from gguf.constants import GGML_QUANT_SIZES
from transformers.integrations.gguf import GGUF_CONFIG_ARCHS
from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

from textmill.core.checkpoints import open_checkpoint
from textmill.core.errors import InvalidJobError, ModelLoadError
from textmill.core.gguf import ARCHITECTURES, BLOCKS, CHANGED, ROPE_TENSORS
from textmill.core.jobs import JobSpec
from textmill.core.settings import load_settings
from textmill.core.tasks import TASKS, get_task
from textmill.producer.submit import validate_spec
from textmill.workers.items import ModelRequest
from textmill.workers.runners import loading

from ..tiny_gguf import CONTEXT, TEMPLATE, TOKENS, save_gguf
from ..tiny_models import save_tokenizer

WRITING = "writing"  # a task of models that write text, registered for these tests


@pytest.fixture(autouse=True)
def writing(monkeypatch: pytest.MonkeyPatch) -> None:
    task = replace(get_task("classification"), name=WRITING, architecture="ForCausalLM")
    monkeypatch.setitem(TASKS, WRITING, task)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_gguf(tmp_path_factory.mktemp("gguf") / "tiny.Q8_0.gguf")


def submit(model: Path, task: str = WRITING, **fields: str) -> None:
    validate_spec(JobSpec(task=task, model=str(model), **fields), load_settings())


def refusal(model: Path, task: str = WRITING, **fields: str) -> str:
    with pytest.raises(InvalidJobError) as caught:
        submit(model, task, **fields)
    return str(caught.value)


def load(model: Path, **fields: str) -> loading.Loaded:
    request = ModelRequest(WRITING, str(model), device="cpu", **fields)
    return loading.load_model(request, transformers.AutoModelForCausalLM, outcome="texts")


def cut(source: Path, target: Path, size: int) -> Path:
    target.write_bytes(source.read_bytes()[:size])
    return target


# -- before anything is enqueued -------------------------------------------------------------


def test_what_the_header_says(tiny: Path) -> None:
    checkpoint = open_checkpoint(str(tiny), None, download=False)
    assert checkpoint.gguf == "tiny.Q8_0.gguf"
    assert checkpoint.config["max_position_embeddings"] == CONTEXT
    assert checkpoint.config["vocab_size"] == len(TOKENS)
    assert checkpoint.config["chat_template"] == TEMPLATE
    assert checkpoint.parameters == sum(
        int(tensor.n_elements) for tensor in gguf.GGUFReader(tiny).tensors
    )
    submit(tiny)


def test_a_file_without_chat_template_has_none(tmp_path: Path) -> None:
    plain = save_gguf(tmp_path / "plain.gguf", tokenizer__chat_template=None)
    assert "chat_template" not in open_checkpoint(str(plain), None).config


def test_a_truncated_file_is_refused_with_both_sizes(tiny: Path, tmp_path: Path) -> None:
    size = tiny.stat().st_size
    message = refusal(cut(tiny, tmp_path / "cut.gguf", size - 100))
    assert "cut.gguf' is damaged" in message
    assert f"it has {size - 100:,} bytes, its header says {size:,}" in message


@pytest.mark.parametrize("size", [0, 3, 20, 24, 100, 1000])
def test_a_file_cut_within_its_header_is_refused(tiny: Path, tmp_path: Path, size: int) -> None:
    message = refusal(cut(tiny, tmp_path / "cut.gguf", size))
    assert f"its {size:,} bytes end within its header" in message


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (b"PK\3\4" + bytes(40), "does not begin with 'GGUF'"),
        (b"GGUF\1\0\0\0" + bytes(40), "its version is 1, expected 2 or 3"),
        (b"GGUF\3\0\0\0" + bytes(8) + b"\xff" * 40, "end within its header"),
        (b"GGUF\3\0\0\0" + b"\xff" * 8 + bytes(8), "end within its header"),
    ],
)
def test_a_file_that_is_something_else_is_refused(head: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "odd.gguf").write_bytes(head)
    assert reason in refusal(tmp_path / "odd.gguf")


def test_no_damage_gives_anything_but_a_refusal(tiny: Path, tmp_path: Path) -> None:
    """Every byte of the first part overwritten in turn: a message, or a header that holds."""
    whole = bytearray(tiny.read_bytes())
    broken = tmp_path / "broken.gguf"
    for at in range(4, 1200, 7):
        broken.write_bytes(bytes([*whole[:at], 255, *whole[at + 1 :]]))
        try:
            open_checkpoint(str(broken), None)
        except ModelLoadError as error:
            assert "broken.gguf" in str(error)


def test_models_that_would_be_loaded_as_others_are_refused(tmp_path: Path) -> None:
    other = save_gguf(tmp_path / "other.gguf", architecture="rwkv7")
    assert "architecture 'rwkv7', which is not supported; supported are bloom" in refusal(other)
    part = save_gguf(tmp_path / "part.gguf", split__count=3)
    assert "one of 3 parts" in refusal(part)
    scaled = save_gguf(tmp_path / "scaled.gguf", llama__rope__scaling__type="yarn")
    assert "RoPE scaling" in refusal(scaled)
    changed = save_gguf(tmp_path / "flan.gguf", architecture="t5")
    assert "holds a t5" in refusal(changed, "translation")


def test_tasks_that_a_gguf_cannot_do_are_refused(tiny: Path) -> None:
    message = refusal(tiny, "classification")
    assert "cannot do classification: it holds a model that writes text" in message
    assert "ForSequenceClassification" in message
    assert "cannot do embeddings" in refusal(tiny, "embeddings")


def test_names_that_lead_nowhere_are_refused(tiny: Path, tmp_path: Path) -> None:
    assert "GGUF file '/no/such.gguf' does not exist" in refusal(Path("/no/such.gguf"))
    assert "GGUF file 'such.gguf' does not exist" in refusal(Path("such.gguf"))
    assert "is a file, which has no revision 'v1'" in refusal(tiny, revision="v1")
    other = tmp_path / "weights.bin"
    other.touch()
    assert "expected the folder it lies in, or a .gguf file" in refusal(other)


# -- held to the libraries that read such files ----------------------------------------------


def test_types_and_sizes_are_those_of_the_package() -> None:
    readable = {int(kind) for kind in gguf.quants._type_traits} | {0, 1}
    assert readable == BLOCKS.keys()
    assert {kind: GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind)] for kind in BLOCKS} == BLOCKS


def test_architectures_are_those_of_transformers() -> None:
    names = {*GGUF_SUPPORTED_ARCHITECTURES, *GGUF_CONFIG_ARCHS} - {"general", "tokenizer"}
    # As files name them. Mistral's files say llama, umt5's t5.
    renamed = {
        "gpt_oss": "gpt-oss",
        "qwen2_moe": "qwen2moe",
        "qwen3_moe": "qwen3moe",
        "minimax_m2": "minimax-m2",
    }
    expected = {renamed.get(name, name) for name in names} - {"mistral", "umt5"}
    assert {*ARCHITECTURES, *CHANGED} == expected


def test_the_activation_of_t5_is_still_not_read_by_transformers(tmp_path: Path) -> None:
    """When it is, the refusal can go."""
    path = save_gguf(tmp_path / "flan.gguf", architecture="t5")
    read = transformers.modeling_gguf_pytorch_utils.load_gguf_checkpoint(path)["config"]
    assert read["is_gated_act"] is True
    flan = transformers.T5Config(feed_forward_proj="gated-gelu")
    assert transformers.T5Config(**read).dense_act_fn != flan.dense_act_fn


def test_scaled_positions_are_still_not_read_by_transformers() -> None:
    """When they are, the refusal can go."""
    config = transformers.modeling_gguf_pytorch_utils.GGUF_CONFIG_MAPPING["llama"]
    assert not [key for key in config if "scaling" in key]
    assert ROPE_TENSORS


# -- loaded ----------------------------------------------------------------------------------


def test_it_loads_and_computes_what_its_numbers_say(tiny: Path) -> None:
    loaded = load(tiny)
    assert loaded.tokenizer.encode_bare(["the cat"]) == [
        [TOKENS.index(piece) for piece in ("the", "Ġ", "c", "a", "t")]
    ]
    assert loaded.tokenizer.limit == CONTEXT
    found = loaded.model.model.layers[1].mlp.down_proj.weight
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(tiny).tensors}
    stored = tensors["blk.1.ffn_down.weight"]
    expected = gguf.dequantize(stored.data, stored.tensor_type)
    assert torch.equal(found, torch.from_numpy(expected))
    with torch.inference_mode():
        logits = loaded.model(torch.tensor([[5, 6, 7]])).logits
    assert logits.shape == (1, 3, len(TOKENS))
    assert logits.isfinite().all()


def test_memory_is_that_of_the_numbers_in_the_dtype(tiny: Path) -> None:
    request = ModelRequest(WRITING, str(tiny), dtype="bf16", device="cpu")
    loaded = load(tiny, dtype="bf16")
    assert loaded.model.dtype == torch.bfloat16
    # the model also has a buffer of the positions' frequencies
    assert 0 <= loaded.model.get_memory_footprint() - loading.estimate_bytes(request) < 1000


def test_files_beside_it_are_not_taken_for_its_own(tiny: Path, tmp_path: Path) -> None:
    """A folder of many GGUF files may hold another model's tokenizer and settings."""
    own = tmp_path / "tiny.gguf"
    own.write_bytes(tiny.read_bytes())
    save_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "generation_config.json").write_text(json.dumps({"max_new_tokens": 3}))
    loaded = load(own)
    assert loaded.tokenizer.encode_bare(["the"]) == [[TOKENS.index("the")]]
    assert loaded.model.generation_config.max_new_tokens is None
