"""`--from-zoo`: which training a row takes the place of, what is left of the recipe, and what does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from llavaflow.infra.errors import InputError
from llavaflow.models.zoo import ZOO
from llavaflow.pipelines._catalogue import find_recipe
from llavaflow.pipelines._from_zoo import start_from_zoo
from llavaflow.stages.zoo_weights import ZooWeights
from llavaflow.tests.pipelines.conftest import Command

PROJECTOR = "llava-v1.5-mlp2x-336px-pretrain-vicuna-7b-v1.5"


@pytest.mark.parametrize(
    ("recipe", "name", "stage", "left"),
    [
        ("llava15", "llava-v1.5-7b", "finetune", ["finetune", "questions", "evaluate", "publish"]),
        ("llava15-lora", "llava-v1.5-7b-lora", "finetune", ["finetune", "questions", "evaluate", "publish"]),
        ("finetune-task", "llava-v1.6-mistral-7b", "base", ["base", "data", "finetune"]),
        ("projector-vicuna-7b-v1-5-336", PROJECTOR, "pretrain", ["pretrain"]),
        ("conv-llava-768", "ConvLLaVA-pretrain-768", "vl-pretrain",
         ["instructions", "vl-pretrain", "finetune", "questions", "evaluate", "publish"]),
    ],
)  # fmt: skip
def test_a_row_takes_the_place_of_the_training_that_it_ends(
    recipe: str, name: str, stage: str, left: list[str]
) -> None:
    made = start_from_zoo(find_recipe(recipe), name)
    assert made.stages[stage] == ZooWeights(name=name)
    assert list(made.stages) == left
    assert {path.partition(".")[0] for path in made.sources} <= set(left) - {stage}


def test_a_projector_leaves_out_what_only_its_training_saw() -> None:
    made = start_from_zoo(find_recipe("llava15"), PROJECTOR)
    assert "caption" not in made.stages and "download" not in made.stages
    assert {"mix", "finetune", "publish"} <= set(made.stages)
    assert made.inputs_of("publish") == ["finetune", "pretrain", "mix", "evaluate"]


@pytest.mark.parametrize(
    ("recipe", "name", "told"),
    [
        ("llava15", "llava-v1.5-13b", r"its language is lmsys/vicuna-13b-v1\.5.*`llava15-13b` is the recipe"),
        ("llava15", "llava-336px-pretrain-vicuna-7b-v1.3", "does not fit llava15"),
        ("projector-vicuna-7b-v1-5-336", "llava-v1.5-7b", "could stand for: it trains pretrain"),
        ("llava15", "LLaVA-13b-delta-v0", "apply-delta"),
        ("llava15", "llava-v1.5", "unknown row of the model zoo"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(recipe: str, name: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        start_from_zoo(find_recipe(recipe), name)


def test_the_command_takes_settings_of_the_stage_that_came_in(pipeline: Command, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    told = pipeline(
        "run", "llava15", "--from-zoo", "llava-v1.5-7b", "--set", f"finetune.folder={tmp_path / 'copy'}",
        "--stage", "finetune", "--dry-run", "--json",
    )  # fmt: skip
    assert told.code == 0 and [row["name"] for row in told.json["stages"]] == ["finetune"]
    missing = pipeline("run", "llava15", "--from-zoo", "llava-v1.5-7c")
    assert missing.code == 2 and "llava-v1.5-7b" in missing.err


@pytest.mark.parametrize("name", [name for name, row in ZOO.items() if row.recipe and row.form != "delta"])
def test_every_row_starts_the_recipe_that_makes_it(name: str) -> None:
    made = start_from_zoo(find_recipe(str(ZOO[name].recipe)), name)
    assert ZooWeights(name=name) in made.stages.values()
