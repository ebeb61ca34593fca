"""Scenes: decided by seed, drawn where they say, told truly, and never held-out ones in training."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from llavaflow.datasets import _scenes_text as say
from llavaflow.datasets._index import IndexWriter
from llavaflow.datasets._scenes_books import book
from llavaflow.datasets._scenes_draw import draw, rgb
from llavaflow.datasets._scenes_files import WorldFiles
from llavaflow.datasets._scenes_web import DIRT, FEWEST_URLS, write_web
from llavaflow.datasets.scenes import COLOURS, PLACES, SHAPES, Scene, Split, covered, is_held_out, palette, scene
from llavaflow.infra.errors import InputError

SEEDS = [str(number) for number in range(300)]


def combinations(pictures: list[Scene]) -> set[tuple[str, str, str]]:
    return {(thing.shape, thing.colour, thing.place) for picture in pictures for thing in picture.things}


@pytest.mark.parametrize("split", ["train", "test"])
def test_one_seed_is_one_scene(split: Split) -> None:
    assert [scene(split, seed) for seed in SEEDS[:20]] == [scene(split, seed) for seed in SEEDS[:20]]
    assert len({scene(split, seed) for seed in SEEDS}) == len(SEEDS)


def test_training_and_test_share_no_combination() -> None:
    train = combinations([scene("train", seed) for seed in SEEDS] + [book(seed, 72) for seed in SEEDS])
    test = combinations([scene("test", seed) for seed in SEEDS])
    assert not train & test
    assert all(is_held_out(*combination) for combination in test)


def test_every_shape_colour_and_place_is_in_both_splits() -> None:
    for split in ("train", "test"):
        seen = combinations([scene(split, seed) for seed in SEEDS])
        for position, values in enumerate((SHAPES, COLOURS, PLACES)):
            assert {combination[position] for combination in seen} == set(values)


def test_each_shape_and_place_holds_out_exactly_one_colour() -> None:
    for shape in SHAPES:
        for place in PLACES:
            assert len(palette(shape, place, "test")) == 1
            assert len(palette(shape, place, "train")) == len(COLOURS) - 1


@pytest.mark.parametrize("seed", SEEDS[:60])
def test_things_stand_inside_the_picture_and_can_be_seen(seed: str) -> None:
    picture = scene("train", seed, side=96)
    assert min(picture.width, picture.height) == 96
    for back, thing in enumerate(picture.things):
        box = thing.box
        assert -0.2 <= box.x1 < box.x2 <= picture.width + 0.2
        assert -0.2 <= box.y1 < box.y2 <= picture.height + 0.2
        for front in picture.things[back + 1 :]:
            assert covered(thing, front) <= (0 if thing.shape == "sign" else 0.3)


def test_the_pixel_at_the_middle_of_an_uncovered_thing_has_its_colour() -> None:
    checked = 0
    for seed in SEEDS:
        picture = scene("train", seed)
        image = draw(picture)
        for number, thing in enumerate(picture.things):
            if thing.word or any(covered(thing, front) for front in picture.things[number + 1 :]):
                continue
            assert image.getpixel((int(thing.x), int(thing.y))) == rgb(thing.colour, thing.tone)
            checked += 1
    assert checked > 300


def test_some_pictures_are_not_square() -> None:
    sizes = {(picture.width, picture.height) for picture in (scene("train", seed) for seed in SEEDS)}
    assert sizes == {(72, 72), (96, 72), (72, 96)}


@pytest.mark.parametrize("seed", SEEDS[:80])
def test_answers_are_true(seed: str) -> None:
    picture, rng = scene("train", seed), random.Random(seed)
    colour = say.ask_colour(picture, rng)
    assert any(thing.colour == colour.answer and thing.place == colour.about for thing in picture.things)
    count = say.ask_count(picture, rng, shape="star")
    assert count.answer == str(sum(thing.shape == "star" for thing in picture.things))
    for present in (True, False):
        asked = say.ask_existence(picture, rng, present=present)
        assert asked is None or (asked.about in {thing.shape for thing in picture.things}) == present
    text = say.ask_text(picture, rng)
    assert text is None or text.answer in {thing.word for thing in picture.things}


@pytest.mark.parametrize("seed", SEEDS[:80])
def test_a_reference_fits_one_thing_only(seed: str) -> None:
    picture, rng = scene("train", seed), random.Random(seed)
    for thing in picture.things:
        text = say.reference(picture, thing, rng)
        fitting = [
            other
            for other in picture.things
            if text in {other.shape, say.phrase(other), say.phrase(other, size=True), say.phrase(other, place=True)}
        ]
        assert fitting == [thing]


def test_the_first_caption_names_every_thing() -> None:
    for seed in SEEDS[:50]:
        picture = scene("train", seed)
        first, *others = say.captions(picture, random.Random(0))
        assert len(others) == 4
        for thing in picture.things:
            assert thing.name in first and f"at the {thing.place}" in first and thing.word in first


@pytest.mark.parametrize("ask", [say.ask_colour, say.ask_shape])
def test_one_of_four_choices_is_the_answer(ask: type) -> None:
    rng = random.Random(0)
    question = ask(scene("train", "4"), rng)
    options, right = say.choices(question, rng)
    assert len(set(options)) == 4 and options[right] == question.answer


def test_a_web_that_is_too_small_for_its_dirt_is_refused(tmp_path: Path) -> None:
    with IndexWriter(tmp_path) as index, pytest.raises(InputError, match="a web of 12 URLs.*at least 20"):
        write_web(WorldFiles(tmp_path, index), seed=0, urls=12, side=72)
    with IndexWriter(tmp_path) as index:
        planted = write_web(WorldFiles(tmp_path, index), seed=0, urls=FEWEST_URLS, side=72)
    assert set(planted) == {*DIRT, "good"}
