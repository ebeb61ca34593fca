"""Conversions between formats are exact, and a file that does not fit is refused with both sides named."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llavaflow.infra.errors import InputError
from llavaflow.models import checkpoint, llava, lora, parts
from llavaflow.models.llava import Design
from llavaflow.models.lora import Lora


@pytest.fixture(scope="module")
def toy(toy_foundation: Path) -> Any:
    return llava.build(str(toy_foundation / "clip"), str(toy_foundation / "language"), Design(), seed=5)


def same(first: Any, second: Any) -> bool:
    one, two = first.model.state_dict(), second.model.state_dict()
    return set(one) == set(two) and all(torch.equal(one[name], two[name]) for name in one)


def test_hf_to_original_and_back_is_exact(toy: Any, toy_foundation: Path, tmp_path: Path) -> None:
    llava.save(toy, tmp_path / "hf")
    checkpoint.convert(tmp_path / "hf", tmp_path / "original", "original", None)
    assert checkpoint.format_of(tmp_path / "original") == "original"
    names = set(load_file(tmp_path / "original" / "model.safetensors"))
    assert {"model.mm_projector.0.weight", "model.mm_projector.2.bias", "lm_head.weight"} <= names
    checkpoint.convert(tmp_path / "original", tmp_path / "again", "hf", str(toy_foundation / "clip"))
    assert same(llava.load(str(tmp_path / "again")), toy)


def test_projector_for_another_model_is_refused_with_both_sides(toy: Any, tmp_path: Path) -> None:
    path = tmp_path / "mm_projector.bin"
    torch.save({"model.mm_projector.weight": torch.zeros(64, 32), "model.mm_projector.bias": torch.zeros(64)}, path)
    with pytest.raises(InputError, match="linear 32 -> 64.*mlp2x_gelu 32 -> 48.*takes 48, the file gives 64"):
        llava.load_projector(toy, path)


def test_merging_an_adapter_equals_running_it(toy: Any, toy_foundation: Path, tmp_path: Path) -> None:
    settings = Lora(r=4, alpha=8, dropout=0.0)
    adapted = llava.build(str(toy_foundation / "clip"), str(toy_foundation / "language"), Design(), seed=5)
    lora.inject(adapted, settings, seed=1)
    assert not any("lora" in name for name in adapted.model.model.vision_tower.state_dict())
    with torch.no_grad():
        for name, value in adapted.model.named_parameters():
            if "lora_B" in name:
                value.normal_(std=0.1)
    lora.write(tmp_path / "adapter", adapted.model.state_dict(), settings, adapted)
    llava.save(toy, tmp_path / "base")
    merged = llava.load(str(tmp_path / "base"))
    lora.merge_folder(merged, tmp_path / "adapter")
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        expected = adapted.model.eval()(input_ids=ids).logits
        got = merged.model.eval()(input_ids=ids).logits
        assert torch.allclose(got, expected, atol=1e-5)
        assert not torch.allclose(toy.model.eval()(input_ids=ids).logits, expected, atol=1e-3)
    (tmp_path / "adapter" / lora.OTHERS).unlink()
    with pytest.raises(InputError, match="non_lora_trainables.bin"):
        lora.merge_folder(merged, tmp_path / "adapter")


def test_all_that_was_trained_beside_an_adapter_comes_with_it(toy_foundation: Path, tmp_path: Path) -> None:
    """The tower of ours, the newline of upstream's: what is left out of a merge is lost without a word."""
    design = Design(image_aspect="anyres", pinpoints=((28, 56), (56, 28)))
    made = llava.build(str(toy_foundation / "clip"), str(toy_foundation / "language"), design, seed=5)
    llava.save(made, tmp_path / "base")
    settings = Lora(r=4, alpha=8)
    lora.inject(made, settings, seed=1)
    learned = parts.set_trainable(made, ["mm_projector", "language_model", "vision_tower"], adapters=True)
    assert all(part.trainable for part in learned)
    with torch.no_grad():
        for value in made.model.parameters():
            if value.requires_grad:
                value.add_(0.25)
    trained = [name for name, value in made.model.named_parameters() if value.requires_grad]
    beside = [name for name in trained if parts.part_of(name) == "vision_tower"]
    lora.write(tmp_path / "adapter", made.model.state_dict(), settings, made, beside)
    others = torch.load(tmp_path / "adapter" / lora.OTHERS)
    layer = "encoder.layers.0.mlp.fc1.weight"
    there = others[f"base_model.model.model.vision_tower.vision_tower.vision_model.{layer}"]
    assert torch.equal(there, made.model.state_dict()[f"model.vision_tower.{layer}"])
    others["base_model.model.model.image_newline"] = torch.full((48,), 7.0)
    torch.save(others, tmp_path / "adapter" / lora.OTHERS)
    merged = llava.load(str(tmp_path / "base"))
    lora.merge_folder(merged, tmp_path / "adapter")
    expected = lora.merged(made.model.state_dict(), settings.scale)
    expected["model.image_newline"] = others["base_model.model.model.image_newline"]
    got = merged.model.state_dict()
    assert set(got) == set(expected) and all(torch.equal(got[name], expected[name]) for name in expected)
    torch.save(others | {"base_model.model.model.norm.weight": torch.zeros(7)}, tmp_path / "adapter" / lora.OTHERS)
    with pytest.raises(InputError, match=r"holds model.language_model.norm.weight of \(7,\), the base \(48,\)"):
        lora.merge_folder(merged, tmp_path / "adapter")


@pytest.mark.parametrize(
    ("settings", "scale"),
    [({}, 2.0), ({"use_rslora": True}, 4.0), ({"use_dora": True}, None), ({"rank_pattern": {"q": 2}}, None)],
)
def test_an_adapter_says_its_scale_and_what_cannot_be_merged_is_refused(
    toy: Any, tmp_path: Path, settings: dict[str, Any], scale: float | None
) -> None:
    adapted = copy.deepcopy(toy)
    lora.inject(adapted, Lora(r=4, alpha=8), seed=1)
    with torch.no_grad():
        for name, value in adapted.model.named_parameters():
            if "lora_B" in name:
                value.normal_(std=0.1)
    lora.write(tmp_path, adapted.model.state_dict(), Lora(r=4, alpha=8), adapted)
    config = json.loads((tmp_path / lora.CONFIG).read_text("utf-8"))
    (tmp_path / lora.CONFIG).write_text(json.dumps(config | settings), "utf-8")
    merged = copy.deepcopy(toy)
    if scale is None:
        with pytest.raises(InputError, match="only adapters of one rank and scale"):
            lora.merge_folder(merged, tmp_path)
        return
    lora.merge_folder(merged, tmp_path)
    expected = lora.merged(adapted.model.state_dict(), scale)
    assert all(torch.equal(value, expected[name]) for name, value in merged.model.state_dict().items())


def test_delta_is_added_to_the_base(tmp_path: Path) -> None:
    base = {"model.embed_tokens.weight": torch.randn(4, 3).half(), "model.norm.weight": torch.randn(3).half()}
    delta = {
        "model.embed_tokens.weight": torch.randn(6, 3).half(),
        "model.norm.weight": torch.randn(3).half(),
        "model.mm_projector.weight": torch.randn(3, 2).half(),
        "model.mm_projector.bias": torch.randn(3).half(),
        # stored when the deltas were made, computed today
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.randn(2),
    }
    for name, state in (("base", base), ("delta", delta)):
        (tmp_path / name).mkdir()
        save_file(state, tmp_path / name / "model.safetensors")
        (tmp_path / name / "config.json").write_text(json.dumps({"hidden_size": 3}), "utf-8")
    (tmp_path / "delta" / "added_tokens.json").write_text('{"<im_start>": 4, "<im_end>": 5}', "utf-8")
    checkpoint.apply_delta(tmp_path / "base", tmp_path / "delta", tmp_path / "out")
    assert (tmp_path / "out" / "added_tokens.json").is_file()
    total = load_file(tmp_path / "out" / "model.safetensors")
    table = delta["model.embed_tokens.weight"].clone()
    table[:4] += base["model.embed_tokens.weight"]
    assert torch.equal(total["model.embed_tokens.weight"], table)
    assert torch.equal(total["model.mm_projector.weight"], delta["model.mm_projector.weight"])
    assert set(total) == {name for name in delta if "inv_freq" not in name}
    save_file(delta | {"model.extra": torch.zeros(1)}, tmp_path / "delta" / "model.safetensors")
    with pytest.raises(InputError, match="model.extra"):
        checkpoint.apply_delta(tmp_path / "base", tmp_path / "delta", tmp_path / "out2")
