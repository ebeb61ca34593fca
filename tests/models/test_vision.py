"""Towers behind one description, and ConvLLaVA's fifth stage inside transformers' Llava."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from llavaflow.infra.errors import InputError
from llavaflow.models.vision import (
    SELECT_LAYER,
    add_stage,
    load_tower,
    names_from_layer,
    save_tower,
    set_image_size,
    shape_of,
)

TINY = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}


@pytest.fixture
def convnext(tmp_path: Path) -> Any:
    from transformers import ConvNextConfig, ConvNextModel

    torch.manual_seed(0)
    config = ConvNextConfig(depths=[1, 1, 2, 1], hidden_sizes=[8, 12, 16, 24], image_size=256)
    ConvNextModel(config).save_pretrained(tmp_path / "base")
    return load_tower(str(tmp_path / "base"))


def test_clip_and_siglip_give_their_vision_half(tmp_path: Path) -> None:
    from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

    vision = {**TINY, "image_size": 28, "patch_size": 14}
    text = {**TINY, "vocab_size": 40, "max_position_embeddings": 8}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).save_pretrained(tmp_path / "clip")
    SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).save_pretrained(tmp_path / "siglip")
    clip, siglip = (shape_of(load_tower(str(tmp_path / name)).config) for name in ("clip", "siglip"))
    assert (clip.kind, clip.hidden, clip.tokens, clip.class_token, clip.crops) == ("clip", 16, 4, True, True)
    assert (siglip.kind, siglip.tokens, siglip.class_token, siglip.crops) == ("siglip", 4, False, False)


def test_a_folder_that_is_no_tower_is_refused(tmp_path: Path) -> None:
    from transformers import LlamaConfig

    with pytest.raises(InputError, match="no config.json"):
        load_tower(str(tmp_path))
    LlamaConfig().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="'llama' model is no vision tower"):
        load_tower(str(tmp_path))


@pytest.mark.parametrize(("image", "tokens"), [(128, 4), (192, 9), (256, 16)])
def test_a_fifth_stage_gives_a_token_per_64_pixels(convnext: Any, image: int, tokens: int) -> None:
    assert (shape_of(convnext.config).stride, shape_of(convnext.config).hidden) == (32, 24)
    tower = add_stage(convnext, depth=2, width=32)
    set_image_size(tower, image)
    shape = shape_of(tower.config)
    assert (shape.stride, shape.hidden, shape.layers, shape.tokens) == (64, 32, 5, tokens)
    out = tower(torch.randn(2, 3, image, image))
    assert out.last_hidden_state.shape == (2, tokens, 32)
    assert torch.equal(out.hidden_states[SELECT_LAYER["convnext"]], out.last_hidden_state)


def test_tokens_are_the_map_row_by_row(convnext: Any) -> None:
    from transformers import ConvNextModel

    pixels = torch.randn(1, 3, 64, 96)
    plain = ConvNextModel(convnext.config)
    plain.load_state_dict(convnext.state_dict())
    feature_map = plain(pixels).last_hidden_state[0]
    tokens = convnext(pixels).last_hidden_state[0]
    assert feature_map.shape == (24, 2, 3)
    assert torch.equal(tokens, torch.stack([feature_map[:, y, x] for y in range(2) for x in range(3)]))


def test_a_tower_saved_alone_is_read_again_and_by_plain_transformers(convnext: Any, tmp_path: Path) -> None:
    tower = add_stage(convnext, depth=1, width=32)
    set_image_size(tower, 128)
    save_tower(tower, tmp_path / "five")
    again = load_tower(str(tmp_path / "five"))
    pixels = torch.randn(1, 3, 128, 128)
    assert shape_of(again.config) == shape_of(tower.config)
    assert torch.equal(again(pixels).last_hidden_state, tower(pixels).last_hidden_state)


def test_the_fresh_stage_depends_on_its_seed_alone(convnext: Any, tmp_path: Path) -> None:
    base = str(tmp_path / "base")
    stages = []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(noise)
        tower = add_stage(load_tower(base), depth=1, width=32, seed=seed)
        stages.append(tower.encoder.stages[4].downsampling_layer[1].weight)
    assert torch.equal(stages[0], stages[1]) and not torch.equal(stages[0], stages[2])


def test_training_from_a_stage_upwards(convnext: Any) -> None:
    tower = add_stage(convnext, depth=1, width=32)
    names = names_from_layer(tower, 2)
    assert {name.split(".")[2] for name in names} == {"2", "3", "4"}
    everything = {name for name, _ in tower.named_parameters() if ".stages." in name}
    assert names_from_layer(tower, 0) == everything


def test_wrong_uses_are_refused(convnext: Any) -> None:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    clip = CLIPVisionModel(CLIPVisionConfig(**TINY, image_size=28, patch_size=14))
    with pytest.raises(InputError, match="goes on a ConvNeXt"):
        add_stage(clip)
    with pytest.raises(InputError, match="position embeddings"):
        set_image_size(clip, 56)
    with pytest.raises(InputError, match="no multiple of this tower's 32 px"):
        set_image_size(convnext, 100)


def test_inside_llava_it_travels_with_its_code(convnext: Any, tmp_path: Path) -> None:
    from transformers import LlamaConfig

    from llavaflow.models.convnext import ConvLlavaConfig, ConvLlavaForConditionalGeneration

    set_image_size(add_stage(convnext, depth=1, width=32), 128)
    text = LlamaConfig(**TINY, vocab_size=64)
    config = ConvLlavaConfig(
        vision_config=convnext.config,
        text_config=text,
        image_token_index=63,
        vision_feature_layer=SELECT_LAYER["convnext"],
        vision_feature_select_strategy="full",
        image_seq_length=4,
    )
    model = ConvLlavaForConditionalGeneration(config).eval()
    ids, pixels = torch.tensor([[1, 63, 63, 63, 63, 5, 6]]), torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        logits = model(input_ids=ids, pixel_values=pixels).logits
    model.save_pretrained(tmp_path / "model")
    torch.save({"ids": ids, "pixels": pixels, "logits": logits}, tmp_path / "expected.pt")
    code = (
        "import sys, torch; from transformers import AutoModelForImageTextToText as Auto\n"
        "model = Auto.from_pretrained('model', trust_remote_code=True).eval(); seen = torch.load('expected.pt')\n"
        "logits = model(input_ids=seen['ids'], pixel_values=seen['pixels']).logits\n"
        "assert 'llavaflow' not in sys.modules and torch.equal(logits, seen['logits'])"
    )
    home = {**os.environ, "HF_HOME": str(tmp_path / "hub")}
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, env=home, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
