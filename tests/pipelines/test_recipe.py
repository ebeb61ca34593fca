"""A recipe is a value: replacing a stage rebuilds those who hold it and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from llavaflow.infra.errors import InputError
from llavaflow.pipelines._catalogue import find_recipe
from llavaflow.pipelines._recipe import Recipe


def test_a_number_that_is_changed_loses_its_source() -> None:
    slower = {"finetune": {"learning_rate": 1e-5}}
    recipe = find_recipe("llava15").replace(slower)
    assert "finetune.learning_rate" not in recipe.sources and "finetune.global_batch" in recipe.sources
    kept = find_recipe("llava15").replace(slower, sources={"finetune.learning_rate": "x"})
    assert dict(kept.sources) == {"finetune.learning_rate": "x"}


def test_inputs_come_before_those_who_take_them(toy: Recipe) -> None:
    assert toy.needed_for("score") == ["draw", "scale", "learn", "score"]
    assert toy.needed_for("scale") == ["draw", "scale"]
    shuffled = Recipe(name="toy", stages=dict(reversed(toy.stages.items())))
    assert shuffled.needed_for(*shuffled.stages) == ["draw", "scale", "learn", "score"]


def test_a_replaced_stage_is_seen_by_every_holder(toy: Recipe) -> None:
    changed = toy.replace({"draw": {"samples": 3}})
    stages: dict[str, Any] = dict(changed.stages)
    draw, scale, score = stages["draw"], stages["scale"], stages["score"]
    assert draw.samples == 3
    assert scale.source is draw and score.data is draw
    assert scale.rules[1].source is draw, "also inside a tuple of dataclasses"
    assert score.model.data is scale


def test_what_does_not_hold_the_replaced_stage_stays_the_same_object(toy: Recipe) -> None:
    changed = toy.replace({"learn": {"learning_rate": 0.2}})
    assert changed.stages["draw"] is toy.stages["draw"]
    assert changed.stages["scale"] is toy.stages["scale"]
    assert changed.stages["score"] != toy.stages["score"]


def test_an_equal_copy_counts_as_the_stage_it_equals(toy: Recipe) -> None:
    copied = toy.replace({"score": {"data": type(toy.stages["draw"])()}})
    score: Any = copied.replace({"draw": {"seed": 7}}).stages["score"]
    assert score.data.seed == 7


def test_an_unknown_stage_names_the_nearest(toy: Recipe) -> None:
    with pytest.raises(InputError, match="Did you mean learn"):
        toy.stage("lern")
