"""Images in tiles: built, trained on, saved, reloaded by plain transformers, and answered about as in training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from llavaflow.infra.errors import InputError
from llavaflow.models import generate, parts
from llavaflow.models.images import count_tokens, layout, transform
from llavaflow.models.llava import Design, Llava, build, load, save
from llavaflow.models.objective import Objective

PINPOINTS = ((28, 56), (56, 28), (56, 56))
SIZES = ((40, 20), (20, 40), (33, 30))


@pytest.fixture(scope="module")
def tiled(toy_foundation: Path) -> Llava:
    design = Design(image_aspect="anyres", pinpoints=PINPOINTS)
    return build(str(toy_foundation / "clip"), str(toy_foundation / "language"), design)


def picture(size: tuple[int, int]) -> Image.Image:
    pixels = np.random.default_rng(size[0]).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def asked(llava: Llava, size: tuple[int, int]) -> generate.Question:
    image = picture(size)
    ids = generate.prompt_ids(llava, "v1", [("human", "<image>\nWhat is it?")], [size])
    return generate.Question(ids, generate.pixels(llava, image), size)


def loss(llava: Llava, question: generate.Question) -> torch.Tensor:
    assert question.pixels is not None and question.size is not None
    ids = torch.from_numpy(question.input_ids.astype(np.int64))[None]
    total: torch.Tensor = Objective(llava.model)(
        input_ids=ids,
        position_ids=torch.arange(ids.shape[1])[None],
        labels=ids,
        pixel_values=torch.from_numpy(question.pixels),
        image_index=torch.from_numpy(layout(llava.image_rule, *question.size)),
    )
    return total


@pytest.mark.parametrize("size", SIZES)
def test_features_are_those_of_plain_transformers(tiled: Llava, size: tuple[int, int]) -> None:
    tiles = torch.from_numpy(transform(tiled.image_rule, picture(size)))
    index = torch.from_numpy(layout(tiled.image_rule, *size))
    objective = Objective(tiled.model)
    ours = objective._gather(objective.features(tiles), index)
    theirs = tiled.model.model.get_image_features(tiles[None], torch.tensor([[size[1], size[0]]]))
    theirs = torch.cat(list(getattr(theirs, "pooler_output", theirs)))
    assert len(ours) == count_tokens(tiled.image_rule, *size) == len(theirs)
    torch.testing.assert_close(ours, theirs)


def test_the_newline_learns_with_the_language_model_alone(tiled: Llava) -> None:
    newline = tiled.model.model.image_newline
    parts.set_trainable(tiled, ["mm_projector"])
    assert not newline.requires_grad
    parts.set_trainable(tiled, ["mm_projector", "language_model"])
    loss(tiled, asked(tiled, SIZES[0])).backward()  # type: ignore[no-untyped-call]
    assert newline.grad is not None and newline.grad.abs().sum() > 0
    tiled.model.zero_grad()


def test_a_batch_in_words_alone_touches_the_newline_at_no_weight(tiled: Llava) -> None:
    parts.set_trainable(tiled, ["language_model"])
    ids = torch.tensor([[1, 5, 6]])
    rule = tiled.image_rule
    tiles = torch.zeros(1, 3, rule.size, rule.size)
    found: torch.Tensor = Objective(tiled.model)(
        ids, torch.arange(3)[None], ids, tiles, torch.zeros(0, dtype=torch.long)
    )
    found.backward()  # type: ignore[no-untyped-call]
    assert tiled.model.model.image_newline.grad is not None and not tiled.model.model.image_newline.grad.any()
    tiled.model.zero_grad()


def test_a_saved_model_comes_back_whole(tiled: Llava, tmp_path: Path) -> None:
    save(tiled, tmp_path)
    again = load(str(tmp_path))
    assert again.image_rule == tiled.image_rule
    question = asked(tiled, SIZES[2])
    torch.testing.assert_close(loss(again, question), loss(tiled, question))
    questions = [asked(tiled, size) for size in SIZES]
    before = generate.answers(tiled, questions, template_name="v1", max_new_tokens=4)
    assert generate.answers(again, questions, template_name="v1", max_new_tokens=4) == before
    alone = [generate.answers(again, [one], template_name="v1", max_new_tokens=4)[0] for one in questions]
    assert alone == before, "padding and company do not change an answer"


def test_tiles_need_pinpoints(toy_foundation: Path) -> None:
    with pytest.raises(InputError, match="needs pinpoints"):
        build(str(toy_foundation / "clip"), str(toy_foundation / "language"), Design(image_aspect="anyres"))
