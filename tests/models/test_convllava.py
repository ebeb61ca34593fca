"""ConvLLaVA through the engine: a ConvNeXt with a fresh fifth stage is joined, trains in part, is saved and read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from llavaflow.infra.errors import InputError
from llavaflow.models import generate, parts
from llavaflow.models.llava import Design, Llava, build, load, save

DESIGN = Design(image_aspect="pad", select_layer=-1, image_size_px=128, added_stage=(1, 32))


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> str:
    from transformers import ConvNextConfig, ConvNextModel

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("convnext")
    config = ConvNextConfig(depths=[1, 1, 2, 1], hidden_sizes=[8, 12, 16, 24], image_size=256)
    ConvNextModel(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def joined(tower: str, toy_foundation: Path) -> Llava:
    return build(tower, str(toy_foundation / "language"), DESIGN)


def test_a_token_per_64_pixels_and_the_width_of_the_new_stage(joined: Llava) -> None:
    assert (joined.image_rule.tile_tokens, joined.projector.vision_width) == (4, 32)


@pytest.mark.parametrize(("first", "stages"), [(4, {"4"}), (2, {"2", "3", "4"}), (0, {"0", "1", "2", "3", "4"})])
def test_the_tower_trains_from_a_stage_upwards(joined: Llava, first: int, stages: set[str]) -> None:
    parts.set_trainable(joined, ["mm_projector", "vision_tower"], first)
    trained = [name for name, parameter in joined.model.named_parameters() if parameter.requires_grad]
    assert {name.split(".stages.")[1].split(".")[0] for name in trained if ".stages." in name} == stages
    assert any("embeddings" in name for name in trained) == (first == 0)
    assert not any("vision_tower.layernorm" in name or "language_model" in name for name in trained)


def test_a_saved_model_answers_as_before(joined: Llava, tmp_path: Path) -> None:
    save(joined, tmp_path)
    again = load(str(tmp_path))
    assert (again.image_rule, again.projector) == (joined.image_rule, joined.projector)
    pixels = np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)
    answers = [generate.ask(model, "v1", "What is it?", Image.fromarray(pixels), 4) for model in (joined, again)]
    assert answers[0] == answers[1]


def test_a_map_is_not_cut_into_tiles(tower: str, toy_foundation: Path) -> None:
    with pytest.raises(InputError, match="not cut into tiles"):
        build(tower, str(toy_foundation / "language"), Design(image_aspect="anyres", pinpoints=((64, 128),)))
