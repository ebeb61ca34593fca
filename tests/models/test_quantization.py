"""QLoRA: what transformers is asked for, the refusal where it cannot be, and the merge into unrounded weights."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest
import torch

from llavaflow.infra.errors import InputError
from llavaflow.models import llava, lora
from llavaflow.models.llava import Design
from llavaflow.models.lora import Lora
from llavaflow.models.quantization import Quantization, check_available, config_of


def test_settings_are_those_of_upstreams_code() -> None:
    asked = config_of(Quantization(), "bf16").to_dict()
    assert asked["load_in_4bit"] and not asked["load_in_8bit"]
    assert (asked["bnb_4bit_quant_type"], asked["bnb_4bit_use_double_quant"]) == ("nf4", True)
    assert asked["bnb_4bit_compute_dtype"] == "bfloat16"
    eight = config_of(Quantization(bits=8), "bf16").to_dict()
    assert eight["load_in_8bit"] and not eight["load_in_4bit"]
    assert (eight["llm_int8_threshold"], eight["llm_int8_has_fp16_weight"]) == (6.0, False)


def test_only_layers_of_the_language_model_are_rounded(toy_foundation: Path) -> None:
    from transformers.quantizers.quantizers_utils import should_convert_module

    made = llava.build(str(toy_foundation / "clip"), str(toy_foundation / "language"), Design())
    kept = config_of(Quantization(), "bf16").llm_int8_skip_modules
    linears = [name for name, module in made.model.named_modules() if isinstance(module, torch.nn.Linear)]
    rounded = {name for name in linears if should_convert_module(name, kept)}
    assert rounded == {name for name in linears if name.startswith("model.language_model.")}


def test_it_is_refused_where_something_is_missing(monkeypatch: pytest.MonkeyPatch, toy_foundation: Path) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(importlib.metadata, "version", missing)
    said = r"in 4 bits needs a CUDA device .* and the package bitsandbytes .*plain LoRA"
    with pytest.raises(InputError, match=said):
        check_available(Quantization())
    with pytest.raises(InputError, match="in 8 bits needs"):
        llava.build(
            str(toy_foundation / "clip"),
            str(toy_foundation / "language"),
            Design(),
            quantization=Quantization(bits=8),
        )


def test_adapters_of_a_rounded_model_are_merged_into_the_unrounded(toy_foundation: Path) -> None:
    settings = Lora(r=4, alpha=8, quantization=Quantization())
    rounded, plain = (
        llava.build(str(toy_foundation / "clip"), str(toy_foundation / "language"), Design(), seed=5) for _ in range(2)
    )
    lora.inject(rounded, settings, seed=1)
    with torch.no_grad():
        for name, value in rounded.model.named_parameters():
            if ".lora_B" in name or ".multi_modal_projector." in name:
                value.normal_()
            elif ".base_layer." in name:
                value.copy_(value.round())
    state = rounded.model.state_dict()
    whole = lora.merged(lora.restored(state, plain), settings.scale)
    assert set(whole) == set(plain.model.state_dict())
    name = "model.language_model.layers.0.self_attn.q_proj"
    added = state[f"{name}.lora_B.default.weight"] @ state[f"{name}.lora_A.default.weight"] * 2
    assert torch.allclose(whole[f"{name}.weight"], plain.model.state_dict()[f"{name}.weight"] + added, atol=1e-6)
    key = "model.multi_modal_projector.linear_1.weight"
    assert torch.equal(whole[key], state[key])
    assert torch.equal(whole["lm_head.weight"], plain.model.state_dict()["lm_head.weight"])
