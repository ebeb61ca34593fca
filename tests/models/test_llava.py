"""A toy LLaVA joined, saved, reloaded in plain transformers: same pixels, same tokens, same answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llavaflow.infra.errors import InputError
from llavaflow.models import generate, llava, parts, projector
from llavaflow.models.llava import Design


@pytest.fixture(scope="module")
def toy(toy_foundation: Path) -> Any:
    return llava.build(str(toy_foundation / "clip"), str(toy_foundation / "language"), Design(), seed=3)


def picture(width: int, height: int) -> Any:
    from PIL import Image

    rng = np.random.default_rng(width)
    return Image.fromarray(rng.integers(0, 255, (height, width, 3), np.uint8))


@pytest.mark.parametrize("aspect", ["pad", "square"])
def test_transformers_processor_gives_the_pixels_of_training(toy_foundation: Path, aspect: Any) -> None:
    design = Design(image_aspect=aspect)
    made = llava.build(str(toy_foundation / "clip"), str(toy_foundation / "language"), design)
    for size in ((28, 28), (60, 31), (17, 50)):
        image = picture(*size)
        theirs = made.processor(images=image, text="<image>", return_tensors="np")
        ours = generate.pixels(made, image)
        assert np.abs(theirs["pixel_values"] - ours).max() < 0.03
        assert (theirs["input_ids"] == made.image_token_id).sum() == 16


def test_saved_model_answers_the_same_in_plain_transformers(toy: Any, tmp_path: Path) -> None:
    import torch
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    llava.save(toy, tmp_path)
    plain, processor = LlavaForConditionalGeneration.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)
    image = picture(40, 40)
    inputs = processor(images=image, text="USER: <image>\nWhat? ASSISTANT:", return_tensors="pt")
    output = plain.generate(**inputs, do_sample=False, max_new_tokens=8)[0, inputs["input_ids"].shape[1] :]
    asked = generate.Question(inputs["input_ids"][0].numpy(), inputs["pixel_values"].numpy())
    again = llava.load(str(tmp_path))
    assert again.image_rule == toy.image_rule and again.projector == toy.projector
    for model in (toy, again):
        text = generate.answers(model, [asked], template_name="v1", max_new_tokens=8)[0]
        assert text == processor.decode(output, skip_special_tokens=True).strip()
    assert torch.equal(plain.lm_head.weight, toy.model.lm_head.weight)


def test_answers_do_not_depend_on_the_batch_they_are_in(toy: Any) -> None:
    questions = []
    for number, text in enumerate(["What?", "What colour is it? " * 3, "Why", "red green blue"]):
        image = picture(30 + number, 30) if number % 2 == 0 else None
        turns = [("human", f"<image>\n{text}" if image else text)]
        ids = generate.prompt_ids(toy, "v1", turns, [image.size] if image else [])
        questions.append(generate.Question(ids, generate.pixels(toy, image) if image else None))
    together = generate.answers(toy, questions, template_name="v1", max_new_tokens=6)
    alone = [generate.answers(toy, [one], template_name="v1", max_new_tokens=6)[0] for one in questions]
    assert together == alone
    assert len(set(together)) > 1


def test_fresh_projector_depends_on_the_seed_alone(toy: Any, toy_foundation: Path) -> None:
    import torch

    def weights(seed: int) -> Any:
        torch.manual_seed(seed + 100)
        made = llava.build(str(toy_foundation / "clip"), str(toy_foundation / "language"), Design(), seed=seed)
        return made.model.model.multi_modal_projector.linear_1.weight

    assert torch.equal(weights(3), toy.model.model.multi_modal_projector.linear_1.weight)
    assert not torch.equal(weights(4), weights(3))


@pytest.mark.parametrize("select_layer", [-2, 2])
def test_only_the_named_parts_train(toy_foundation: Path, select_layer: int) -> None:
    """The same hidden states, counted from the end or from the embeddings."""
    design = Design(select_layer=select_layer)
    made = llava.build(str(toy_foundation / "clip"), str(toy_foundation / "language"), design)
    counts = {count.part: count for count in parts.set_trainable(made, ["mm_projector", "vision_tower"], 1)}
    assert counts["mm_projector"].trainable == counts["mm_projector"].parameters == 32 * 48 + 48 + 48 * 48 + 48
    assert counts["language_model"].trainable == 0
    tower = {name for name, value in made.model.named_parameters() if value.requires_grad and "vision_tower" in name}
    # of three layers the last gives no selected feature and the first lies under vision_from_layer
    assert tower and all(".layers.1." in name for name in tower)
    with pytest.raises(InputError, match="choose at least one"):
        parts.set_trainable(made, ["mm_projektor"])


@pytest.mark.parametrize("kind", ["linear", "mlp2x_gelu"])
def test_projector_file_round_trip_is_exact(toy_foundation: Path, tmp_path: Path, kind: str) -> None:
    import torch

    first = llava.build(str(toy_foundation / "clip"), str(toy_foundation / "language"), Design(projector=kind), seed=1)
    path = tmp_path / "mm_projector.bin"
    projector.write(path, projector.from_transformers(first.model.state_dict(), first.projector))
    second = llava.build(str(toy_foundation / "clip"), str(toy_foundation / "language"), Design(projector=kind), seed=2)
    llava.load_projector(second, path)
    features = torch.randn(5, 32)
    modules = [made.model.model.multi_modal_projector for made in (first, second)]
    assert torch.equal(modules[0](features), modules[1](features))
    if kind == "linear":
        saved = torch.load(path, weights_only=True)
        assert torch.allclose(
            features @ saved["model.mm_projector.weight"].T + saved["model.mm_projector.bias"],
            modules[0](features),
            atol=1e-6,
        )


def test_parts_that_are_not_there_are_one_message(toy_foundation: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no config.json"):
        llava.build(str(tmp_path / "empty"), str(toy_foundation / "language"), Design())
    with pytest.raises(InputError, match="cannot load the language model '.*empty'"):
        llava.build(str(toy_foundation / "clip"), str(tmp_path / "empty"), Design())


def test_a_tied_head_is_stored_once(toy_foundation: Path, toy_language: Callable[[str], Path], tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    made = llava.build(str(toy_foundation / "clip"), str(toy_language("mpt")), Design())
    gathered = {name: value.clone() for name, value in made.model.state_dict().items()}
    llava.save(made, tmp_path, gathered)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    again = llava.load(str(tmp_path)).model
    assert torch.equal(again.lm_head.weight, gathered["lm_head.weight"])


def test_a_checkpoint_goes_on_as_the_recipe_squares_pictures_and_is_refused_where_it_was_made_otherwise(
    toy_foundation: Path, tmp_path: Path
) -> None:
    parts = (str(toy_foundation / "clip"), str(toy_foundation / "language"))
    cut = llava.build(*parts, Design(image_aspect="square"))
    padded = llava.as_designed(cut, Design(image_aspect="pad"), "base")
    assert padded.image_rule.aspect == "pad" and padded.model is cut.model
    llava.save(padded, tmp_path)
    assert llava.load(str(tmp_path)).image_rule == padded.image_rule
    pinpoints = ((28, 56), (56, 28))
    for design, said in (
        (Design(projector="linear"), "projector is mlp2x_gelu, the recipe has linear"),
        (Design(select_layer=-1), "select_layer is -2, the recipe has -1"),
        (Design(im_start_end=True), "im_start_end is False, the recipe has True"),
        (Design(image_aspect="anyres", pinpoints=pinpoints), "image_aspect is pad, the recipe has anyres"),
    ):
        with pytest.raises(InputError, match=f"^base was made otherwise: {said}"):
            llava.as_designed(padded, design, "base")
    tiles = llava.build(*parts, Design(image_aspect="anyres", pinpoints=pinpoints))
    # published Hugging Face forms of LLaVA-1.6 list them (height, width), so each pair of turned ones is swapped
    assert llava.as_designed(tiles, Design(image_aspect="anyres", pinpoints=pinpoints[::-1]), "base") is tiles
    with pytest.raises(InputError, match="pinpoints is .*28, 56.*the recipe has .*56, 56"):
        llava.as_designed(tiles, Design(image_aspect="anyres", pinpoints=((56, 56),)), "base")
