"""The decode loop: whatever rows share the passes, each row's output is its own."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
import transformers

from textmill.core.errors import RecordError
from textmill.workers.runners.decoding.loop import DecodeLoop
from textmill.workers.runners.decoding.requests import DecodeRequest, Generated, Sampling
from textmill.workers.runners.quantizing import quantize

EOS = 2
CPU = torch.device("cpu")
SMALL = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
IDS: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": EOS, "pad_token_id": 0}
LLAMA = SMALL | IDS | {"intermediate_size": 64, "max_position_embeddings": 256}
GQA = LLAMA | {"num_key_value_heads": 2}
OPT = SMALL | IDS | {"ffn_dim": 64, "word_embed_proj_dim": 32, "max_position_embeddings": 256}
BLOOM = {"vocab_size": 97, "hidden_size": 32, "n_layer": 2, "n_head": 4} | IDS

IN_SLOTS: list[Any] = [
    transformers.LlamaConfig(**GQA),
    transformers.Qwen2Config(**GQA),
    transformers.Qwen3Config(**GQA, head_dim=8),
    transformers.GemmaConfig(**LLAMA, num_key_value_heads=1, head_dim=8),
    transformers.GPTNeoXConfig(**LLAMA),
    transformers.OPTConfig(**OPT),
    transformers.GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=4, n_positions=256, **IDS),
]
BY_GENERATE: list[Any] = [
    transformers.MistralConfig(**GQA, sliding_window=16),
    transformers.Gemma2Config(**GQA, head_dim=8, sliding_window=16),
    transformers.MambaConfig(vocab_size=97, hidden_size=32, num_hidden_layers=2, state_size=8),
    transformers.BloomConfig(**BLOOM),
]


class Numbers:
    """A tokenizer that only decodes: each id is a word."""

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        return "".join(f" {number}" for number in ids)


def make_model(config: Any) -> Any:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for weights in model.parameters():
        if weights.dim() > 1:
            weights.data.mul_(3)  # outputs of random weights are else all alike
    model.generation_config = transformers.GenerationConfig(pad_token_id=0)
    return model


@pytest.fixture(scope="module")
def llama() -> Any:
    return make_model(IN_SLOTS[0])


def make_loop(model: Any, **options: Any) -> DecodeLoop:
    return DecodeLoop(model, Numbers(), CPU, **({"max_held_tokens": 2000} | options))


def make_requests(count: int = 16) -> dict[int, DecodeRequest]:
    """Prompts of 1 to 30 tokens, outputs of 1 to 50."""
    chosen = random.Random(1)
    return {
        n: DecodeRequest(
            chosen.choices(range(3, 97), k=chosen.choice([1, 2, 5, 9, 30])),
            chosen.choice([1, 2, 7, 20, 50]),
            frozenset([EOS]),
        )
        for n in range(count)
    }


def run(loop: DecodeLoop, requests: dict[int, DecodeRequest], rows: int = 6) -> dict[int, Any]:
    """Let rows in one by one while there is room."""
    waiting, active = list(requests), 0
    found: dict[int, Any] = {}
    while len(found) < len(requests):
        if waiting and active < rows:
            handle = waiting.pop(0)
            loop.admit({handle: requests[handle]})
            active += 1
        finished = loop.step().finished
        found.update(finished)
        active -= len(finished)
    return found


def generate(model: Any, request: DecodeRequest) -> list[int]:
    """What transformers says to this prompt alone, without the end token."""
    ids = torch.tensor([request.ids])
    found = model.generate(
        ids, max_new_tokens=request.max_new_tokens, do_sample=False, eos_token_id=EOS
    )
    output: list[int] = found[0, len(request.ids) :].tolist()
    return output[:-1] if output[-1] == EOS else output


def name(config: Any) -> str:
    return str(config.model_type)


@pytest.mark.parametrize("config", IN_SLOTS, ids=name)
def test_greedy_outputs_are_those_of_generate_one_by_one(config: Any) -> None:
    model, requests = make_model(config), make_requests()
    loop = make_loop(model, prefill_tokens=40)
    assert loop.in_slots
    found = run(loop, requests)
    for handle, request in requests.items():
        expected = generate(model, request)
        assert found[handle].ids == expected
        ended_early = len(expected) < request.max_new_tokens
        assert found[handle].finish_reason == ("stop" if ended_early else "length")


@pytest.mark.parametrize("config", [IN_SLOTS[0], IN_SLOTS[-1], BY_GENERATE[-1]], ids=name)
def test_int8_is_decoded_as_the_model_in_fp32_would_be(config: Any) -> None:
    """Though its outputs depend on the batch: they say nothing of whether slots are right."""
    model = make_model(config)
    in_slots = make_loop(model).in_slots
    quantize(model)
    loop = make_loop(model)
    assert loop.in_slots == in_slots
    found = run(loop, make_requests(4))
    assert all(isinstance(one, Generated) for one in found.values())


@pytest.mark.parametrize("config", BY_GENERATE, ids=name)
def test_a_model_that_slots_would_get_wrong_is_served_by_generate(config: Any) -> None:
    """Given windows, a recurrent state or masks of its own, outputs are right all the same."""
    model, requests = make_model(config), make_requests(10)
    loop = make_loop(model)
    assert not loop.in_slots
    found = run(loop, requests)
    assert {n: row.ids for n, row in found.items()} == {
        n: generate(model, request) for n, request in requests.items()
    }


@pytest.mark.parametrize("config", [IN_SLOTS[0], BY_GENERATE[0]], ids=name)
def test_a_sampled_record_has_one_text_in_any_company(config: Any) -> None:
    model = make_model(config)
    sampling = Sampling(temperature=0.9, top_k=40, top_p=0.95, seed=5)
    request = DecodeRequest([5, 6, 7], 30, sampling=sampling)
    others = {
        n: DecodeRequest(
            one.ids, one.max_new_tokens, sampling=Sampling(temperature=1.5, seed=n, top_p=0.5)
        )
        for n, one in make_requests(7).items()
    }
    alone = run(make_loop(model), {9: request})[9]
    first = run(make_loop(model), {9: request} | others, rows=8)[9]
    last = run(make_loop(model), others | {9: request}, rows=3)[9]
    assert alone.ids == first.ids == last.ids
    other_seed = DecodeRequest([5, 6, 7], 30, sampling=Sampling(temperature=0.9, seed=6))
    assert run(make_loop(model), {0: other_seed})[0].ids != alone.ids


@pytest.mark.parametrize("config", [IN_SLOTS[0], BY_GENERATE[0]], ids=name)
def test_rows_dropped_in_the_middle_change_nothing_for_the_others(config: Any) -> None:
    model, requests = make_model(config), make_requests(8)
    loop = make_loop(model)
    loop.admit(requests)
    found: dict[int, Any] = {}
    for _ in range(6):
        found.update(loop.step().finished)
    gone = {0, 3, 6} - set(found)
    loop.drop(gone)
    while len(found) < len(requests) - len(gone):
        step = loop.step()
        assert not gone & set(step.computed)
        found.update(step.finished)
    assert {n: row.ids for n, row in found.items()} == {
        n: generate(model, requests[n]) for n in found
    }


def test_a_step_computes_no_row_that_has_ended(llama: Any) -> None:
    loop = make_loop(llama)
    loop.admit({n: DecodeRequest([5, 6], limit) for n, limit in enumerate((1, 2, 4))})
    computed = [dict(loop.step().computed) for _ in range(4)]
    assert computed == [{0: 2, 1: 2, 2: 2}, {1: 1, 2: 1}, {2: 1}, {2: 1}]


def test_scores_that_are_no_numbers_end_their_row_alone() -> None:
    """Given a token whose embedding is broken, the row that gets the slot next is none the worse.

    A longer row is beside it, so the places of the slot that it has not written are looked at.
    """
    model = make_model(IN_SLOTS[0])
    model.get_input_embeddings().weight.data[50] = float("nan")
    long, short = DecodeRequest([5] * 60, 12), DecodeRequest([5, 6, 7], 6)
    loop = make_loop(model)
    loop.admit({0: long, 1: DecodeRequest([50] * 40, 5)})
    found: dict[int, Any] = {}
    while 1 not in found:
        found.update(loop.step().finished)
    assert isinstance(found[1], RecordError)
    assert found[1].code == "not_finite"
    loop.admit({2: short})
    while len(found) < 3:
        found.update(loop.step().finished)
    assert [found[n].ids for n in (0, 2)] == [generate(model, one) for one in (long, short)]


def test_a_constraint_decides_what_may_come_and_when_it_is_over(llama: Any) -> None:
    class Count:
        def __init__(self) -> None:
            self.said: list[int] = []

        def allowed(self) -> torch.Tensor:
            mask = torch.zeros(90, dtype=torch.bool)
            mask[10 + len(self.said)] = True
            return mask

        def accept(self, token_id: int) -> None:
            self.said.append(token_id)

        @property
        def finished(self) -> bool:
            return len(self.said) == 4

    requests = {0: DecodeRequest([5], 9, constraint=Count), 1: DecodeRequest([5], 9)}
    found = run(make_loop(llama), requests)
    assert found[0] == Generated([10, 11, 12, 13], " 10 11 12 13", "stop")
    assert found[1].ids == generate(llama, requests[1])


def test_a_penalty_works_as_in_generate(llama: Any) -> None:
    request = DecodeRequest([5, 6, 7], 40, sampling=Sampling(repetition_penalty=1.4))
    expected = llama.generate(
        torch.tensor([[5, 6, 7]]), max_new_tokens=40, do_sample=False, repetition_penalty=1.4
    )
    assert run(make_loop(llama), {0: request})[0].ids == expected[0, 3:].tolist()
