"""--set: text becomes the declared type, and anything else is refused with what would be right."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pytest

from llavaflow.infra.errors import InputError
from llavaflow.models.lora import Lora
from llavaflow.pipelines._catalogue import find_recipe
from llavaflow.pipelines._recipe import Recipe
from llavaflow.pipelines._settings import apply_settings, parse_value
from llavaflow.stages._judging import Judging


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("1e-3", float, 1e-3),
        ("3", float, 3.0),
        ("12", int, 12),
        ("true", bool, True),
        ("no", bool, False),
        ("a b", str, "a b"),
        ("none", int | None, None),
        ("4", int | None, 4),
        ("0.5", float | str, 0.5),
        ("auto", float | str, "auto"),
        ("pad", Literal["pad", "square"], "pad"),
        ("2", Literal[1, 2], 2),
        ("a,b", tuple[str, ...], ("a", "b")),
        ("", tuple[str, ...], ()),
        ("0.9,0.95", tuple[float, float], (0.9, 0.95)),
        ('["a,b","c"]', tuple[str, ...], ("a,b", "c")),
        ("x/y.json", Path, Path("x/y.json")),
        ('{"a": 2}', Mapping[str, int], {"a": 2}),
    ],
)
def test_text_becomes_the_declared_type(text: str, kind: Any, value: object) -> None:
    found = parse_value(text, kind, "stage.field")
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "kind", "told"),
    [
        ("fast", float, "a number"),
        ("nan", float, "a number"),
        ("1.5", int, "a whole number"),
        ("maybe", bool, "true or false"),
        ("wide", Literal["pad", "square"], "one of pad, square"),
        ("0.9", tuple[float, float], "2 values"),
        ("x", int | None, "a whole number or none"),
        ("[1", tuple[int, ...], "values with commas"),
    ],
)
def test_a_wrong_type_says_what_is_needed(text: str, kind: Any, told: str) -> None:
    with pytest.raises(InputError, match=told):
        parse_value(text, kind, "stage.field", 1)


def test_a_setting_reaches_nested_fields_and_those_who_hold_the_stage(toy: Recipe) -> None:
    changed = apply_settings(toy, ["scale.rules[1].factor=5", "scale.rules[1].names=x,y", "draw.samples=4"])
    scale: Any = changed.stages["scale"]
    assert [rule.factor for rule in scale.rules] == [2.0, 5.0]
    assert scale.rules[1].names == ("x", "y")
    assert scale.source.samples == scale.rules[1].source.samples == 4


@pytest.mark.parametrize(
    ("assignment", "told"),
    [
        ("lern.learning_rate=1", "Did you mean learn"),
        ("learn.learning_rat=1", "Did you mean learning_rate"),
        ("learn.learning_rate", "stage.field=value"),
        ("learn=1", "stage.field=value"),
        ("scale.source.samples=1", "another stage"),
        ("scale.rules[7].factor=1", "2 items"),
        ("scale.rules[0].fctor=1", "Did you mean factor"),
        ("learn.data=x", "recipe file"),
        ("learn.fail=perhaps", "one of no, gate, bug, disk"),
    ],
)
def test_a_wrong_setting_is_refused_with_the_nearest_names(toy: Recipe, assignment: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        apply_settings(toy, [assignment])


def test_a_part_that_is_none_begins_with_its_defaults() -> None:
    recipe = apply_settings(
        find_recipe("llava15"), ["evaluate.review.model=gpt-4", "evaluate.review.runs=3", "finetune.lora.r=64"]
    )
    assert recipe.stage("evaluate").fields()["review"] == Judging(model="gpt-4", runs=3)
    assert recipe.stage("finetune").fields()["lora"] == Lora(r=64)
    with pytest.raises(InputError, match="None has no part named 'x'"):
        apply_settings(find_recipe("llava15"), ["evaluate.min_margin.x=1"])


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("global_batch=0", "global_batch 0 cannot be: at least 1"),
        ("max_length=0", "max_length 0 cannot be"),
        ("epochs=-1", "epochs -1 cannot be"),
        ("lora.r=0", "lora.r 0 cannot be"),
        ("save_every_steps=-1", "save_every_steps -1 cannot be: at least 0"),
        ("seed=-1", "seed -1 cannot be"),
        ("projector=mlp0x_gelu", "unknown projector type 'mlp0x_gelu'"),
        ("weight_decay=-0.1", "weight_decay -0.1 cannot be: at least 0"),
        ("warmup_ratio=3", "warmup_ratio 3.0 cannot be: it is a share"),
        ("trainable=", "name parts in trainable"),
        ("image_aspect=anyres", "set both"),
        ("projector=mlp", "unknown projector type 'mlp'"),
    ],
)
def test_a_training_that_cannot_be_is_refused_before_anything_is_planned(setting: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        apply_settings(find_recipe("llava15"), [f"finetune.{setting}"])


@pytest.mark.parametrize("setting", ["learning_rate=0", "max_grad_norm=0", "save_every_steps=0"])
def test_a_nought_that_means_something_is_taken(setting: str) -> None:
    """A part that stays as it is, gradients that are not clipped, a run that saves nothing on its way."""
    apply_settings(find_recipe("llava15"), [f"finetune.{setting}"])


def test_hyphens_are_read_as_underscores(toy: Recipe) -> None:
    changed: Any = apply_settings(toy, ["learn.learning-rate=0.2"]).stages["learn"]
    assert changed.learning_rate == 0.2
