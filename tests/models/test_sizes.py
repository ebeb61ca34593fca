"""Shapes give the published parameter counts."""

from __future__ import annotations

import pytest

from llavaflow.infra.errors import InputError
from llavaflow.models.sizes import (
    ConvNextSize,
    VisionSize,
    language_size,
    projector_params,
    recognise_language,
    recognise_vision,
    vision_size,
)

PUBLISHED = {
    "vicuna-7b": 6_738_415_616,
    "vicuna-13b": 13_015_864_320,
    "llama-2-7b": 6_738_415_616,
    "mistral-7b": 7_241_732_096,
    "yi-34b": 34_388_917_248,
    "llama-3-8b": 8_030_261_248,
    "qwen2-7b": 7_615_616_512,
    "mpt-7b": 6_649_286_656,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_language_models_have_their_published_size(name: str) -> None:
    assert language_size(name).params == PUBLISHED[name]


@pytest.mark.parametrize(
    ("name", "params", "tokens", "hidden"),
    [
        ("clip-l-224", 303_179_776, 256, 1024),
        ("clip-l-336", 303_507_456, 576, 1024),
        ("siglip-so400m-384", 412_987_248, 729, 1152),
    ],
)
def test_towers_have_the_size_of_their_class_in_transformers(name: str, params: int, tokens: int, hidden: int) -> None:
    import torch
    from transformers import CLIPVisionConfig, CLIPVisionModel, SiglipVisionConfig, SiglipVisionModel

    size = vision_size(name)
    assert isinstance(size, VisionSize)
    assert (size.params, size.tokens, size.hidden) == (params, tokens, hidden)
    shape = {
        "hidden_size": size.hidden,
        "intermediate_size": size.intermediate,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "image_size": size.image,
        "patch_size": size.patch,
    }
    with torch.device("meta"):
        made = (
            CLIPVisionModel(CLIPVisionConfig(**shape))
            if size.clip
            else SiglipVisionModel(SiglipVisionConfig(**shape, vision_use_head=False))
        )
    assert sum(weight.numel() for weight in made.parameters()) == params


@pytest.mark.parametrize(("image", "tokens"), [(768, 144), (1024, 256), (1536, 576)])
def test_convnext_gives_convllavas_tokens(image: int, tokens: int) -> None:
    size = vision_size(f"convnext-l-{image}")
    assert isinstance(size, ConvNextSize) and (size.tokens, size.hidden) == (tokens, 3072)
    assert vision_size(size.hub, image) == size
    # four stages are torchvision's convnext_large without its classifier (197,767,336 - 1,537,000 - 3,072)
    four = ConvNextSize(name="four", hub="", depths=size.depths[:4], widths=size.widths[:4], image=image, patch=32)
    assert four.params == 196_227_264
    assert size.image_flops() > four.image_flops()


@pytest.mark.parametrize(
    ("kind", "vision", "language", "params"),
    [
        ("linear", 1024, 4096, 4_198_400),
        ("linear", 1024, 5120, 5_248_000),
        ("mlp2x_gelu", 1024, 4096, 20_979_712),
        ("mlp2x_gelu", 1024, 5120, 31_467_520),
        ("mlp2x_gelu", 1024, 7168, 58_734_592),
        ("identity", 64, 64, 0),
    ],
)
def test_projectors_have_the_sizes_of_the_recipes(kind: str, vision: int, language: int, params: int) -> None:
    assert projector_params(kind, vision, language) == params


def test_hub_names_are_known_and_others_refused() -> None:
    assert language_size("lmsys/vicuna-13b-v1.3").name == "vicuna-13b"
    assert vision_size("openai/clip-vit-large-patch14-336").tokens == 576
    with pytest.raises(InputError, match=r"vicuna-8b.*vicuna-7b"):
        language_size("vicuna-8b")
    with pytest.raises(InputError, match="unknown vision tower"):
        vision_size("clip-l-336", image=448)


@pytest.mark.parametrize(
    ("names", "language", "vision"),
    [
        (["openai/clip-vit-large-patch14-336", "lmsys/vicuna-13b-v1.5"], "vicuna-13b", "clip-l-336"),
        (["openai/clip-vit-large-patch14", "data/vicuna-13b-v0"], "vicuna-13b", "clip-l-224"),
        (["liuhaotian/llava-v1.6-34b"], "yi-34b", "clip-l-336"),
        (["llava-hf/llava-1.5-7b-hf"], "vicuna-7b", "clip-l-336"),
        (["data/convnext_large", "lmsys/vicuna-7b-v1.5"], "vicuna-7b", "convnext-l-768"),
        (["NousResearch/Nous-Hermes-2-Yi-34B", "google/siglip-so400m-patch14-384"], "yi-34b", "siglip-so400m-384"),
        (["my-checkpoint"], None, None),
    ],
)
def test_names_of_weights_and_folders_tell_the_shape(
    names: list[str], language: str | None, vision: str | None
) -> None:
    model, tower = recognise_language(names), recognise_vision(names, 768)
    assert (model and model.name, tower and tower.name) == (language, vision)


def test_only_the_part_that_trains_is_counted() -> None:
    tower, clip = vision_size("convnext-l-768"), vision_size("clip-l-336")
    assert tower.params_from(4) < tower.params_from(2) < tower.params
    assert 0 < tower.image_flops(4) < tower.image_flops(2) < tower.image_flops()
    # what LLaVA's tower does on one picture, by the matrices and the attention over 577 places
    assert clip.image_flops() == pytest.approx(382e9, rel=0.01)
    assert language_size("vicuna-7b").lora_params(128) == 319_815_680
