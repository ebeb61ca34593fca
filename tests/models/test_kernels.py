"""Kernels: what a machine and a run allow, what a user forces or forbids, and that equal choices give equal numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AttentionInterface

from llavaflow.infra.errors import InputError
from llavaflow.models import attention, kernels
from llavaflow.models.backbone import precision_here
from llavaflow.models.kernels import Kernels, Present, choose, parse
from llavaflow.models.labels import IGNORE
from llavaflow.models.objective import Objective

BARE = Present(cuda=False, obstacles=dict.fromkeys(("flash", "varlen", "liger"), "no GPU"))
GPU = Present(cuda=True, obstacles={})


def chosen(
    wishes: str = "", machine: Present = GPU, zero: int = 2, half: bool = True, family: str = "llama"
) -> Kernels:
    return choose(parse(wishes), machine, zero=zero, half=half, family=family)


def test_a_cpu_takes_sdpa_and_says_why() -> None:
    assert str(chosen(machine=BARE)) == (
        "attention sdpa, loss in parts, compile off "
        "(off: flash, varlen, liger: no GPU; compile: it takes longer than it saves without a GPU)"
    )


def test_a_gpu_takes_the_fastest_that_it_has() -> None:
    assert str(chosen()) == "attention flash_attention_2, loss by liger, compile on"
    without = Present(cuda=True, obstacles={"flash": "flash-attn is not installed"})
    assert chosen(machine=without).attention == "varlen"
    assert chosen("flash=off").attention == chosen("varlen=on").attention == "varlen"
    assert chosen("flash=off,varlen=off").attention == "sdpa"


def test_a_run_may_rule_kernels_out() -> None:
    assert chosen(half=False).attention == "sdpa"
    pieces = chosen(zero=3)
    assert (pieces.liger, pieces.compile, pieces.attention) == (False, False, "flash_attention_2")
    assert chosen(family="mpt_text").attention == "sdpa"


@pytest.mark.parametrize(
    ("wishes", "settings", "match"),
    [
        ("flash=on", {"machine": BARE}, "forces flash, but no GPU"),
        ("liger=on", {"zero": 3}, "forces liger, but ZeRO-3"),
        ("varlen=on", {"half": False}, "forces varlen, but they compute in half"),
        ("flash=on varlen=on", {}, "one of them"),
        ("flash=maybe", {}, "flash=on to force it"),
        ("flish=on", {}, "Did you mean flash"),
    ],
)
def test_what_cannot_be_forced_is_refused(wishes: str, settings: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        chosen(wishes, **settings)


def test_attention_that_sees_across_samples_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def blind_to_edges(module: Any, query: Any, key: Any, value: Any, mask: Any, **_: Any) -> tuple[Any, None]:
        seen = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return seen.transpose(1, 2).contiguous(), None

    AttentionInterface.register("blind", blind_to_edges)
    assert attention.agrees("eager", "cpu")
    assert not attention.agrees("blind", "cpu")
    monkeypatch.setattr(kernels, "present", lambda: GPU)
    monkeypatch.setattr(attention, "agrees", lambda name, device: name != "flash_attention_2")
    settled = kernels.settle({}, zero=2, half=True, family="llama")
    assert settled.attention == "varlen"
    with pytest.raises(InputError, match="forces flash, but it gives other"):
        kernels.settle({"flash": "on"}, zero=2, half=True, family="llama")


def test_spans_are_the_samples_of_a_row() -> None:
    edges = attention.spans(torch.tensor([[0, 1, 2, 0, 1], [0, 0, 1, 2, 3]]))
    assert edges["cu_seq_lens_q"].tolist() == [0, 3, 5, 6, 10]
    assert edges["max_length_k"] == 4


def packed_row() -> dict[str, torch.Tensor]:
    return {
        "input_ids": torch.arange(3, 43)[None],
        "position_ids": torch.cat([torch.arange(25), torch.arange(15)])[None],
        "labels": torch.where(torch.arange(40) % 3 == 0, IGNORE, torch.arange(3, 43))[None],
        "pixel_values": torch.zeros(1, 3, 28, 28),
        "image_index": torch.zeros(0, dtype=torch.int64),
    }


def gradients(objective: Objective, rows: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    objective.zero_grad()
    objective(**rows).backward()
    return {name: value.grad.clone() for name, value in objective.named_parameters() if value.grad is not None}


@pytest.fixture(scope="module")
def toy_llava(toy_foundation: Any) -> Any:
    from llavaflow.models import llava

    model = llava.build(str(toy_foundation / "clip"), str(toy_foundation / "language"), llava.Design()).model
    model.lm_head.weight.requires_grad_(True)
    return model


def test_a_loss_in_parts_changes_no_gradient(toy_llava: Any) -> None:
    whole = gradients(Objective(toy_llava), packed_row())
    split = gradients(Objective(toy_llava, loss_parts=3), packed_row())
    assert furthest(whole, split) < 1e-5


@pytest.mark.slow
def test_compiled_layers_change_no_gradient(toy_llava: Any) -> None:
    """Last, because the layers stay compiled."""
    plain = gradients(Objective(toy_llava), packed_row())
    kernels.apply(Kernels(compile=True), toy_llava)
    assert furthest(plain, gradients(Objective(toy_llava, Kernels(compile=True)), packed_row())) < 1e-5


def furthest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys() and one
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.parametrize(
    ("cuda", "half", "expected"), [(False, False, "float32"), (True, True, "bf16"), (True, False, "fp16")]
)
def test_answers_are_computed_in_what_the_machine_has(
    cuda: bool, half: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: half)
    assert precision_here() == expected
