"""`--from-zoo`: which training a row takes the place of, what is left of the recipe, and what does not fit."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from llavaflow.infra.errors import InputError, StageFailed
from llavaflow.models.zoo import ZOO
from llavaflow.pipelines._catalogue import find_recipe
from llavaflow.pipelines._from_zoo import refuse_unlike, start_from_zoo, zoo_row
from llavaflow.pipelines._settings import apply_settings
from llavaflow.stages.base import Base
from llavaflow.stages.zoo_weights import ZooWeights, from_hub
from llavaflow.tests.pipelines.conftest import Command

PROJECTOR = "llava-v1.5-mlp2x-336px-pretrain-vicuna-7b-v1.5"
V0_PROJECTOR = "LLaVA-13b-pretrain-projector-v0-CC3M-595K-original_caption"


@pytest.mark.parametrize(
    ("recipe", "name", "stage", "left"),
    [
        ("llava15", "llava-v1.5-7b", "finetune", ["finetune", "questions", "evaluate", "publish"]),
        ("llava15-lora", "llava-v1.5-7b-lora", "finetune", ["finetune", "questions", "evaluate", "publish"]),
        ("finetune-task", "llava-v1.6-mistral-7b", "base", ["base", "data", "finetune"]),
        ("projector-vicuna-7b-v1-5-336", PROJECTOR, "pretrain", ["pretrain"]),
        ("conv-llava-768", "ConvLLaVA-pretrain-768", "vl-pretrain",
         ["instructions", "vl-pretrain", "finetune", "questions", "evaluate", "publish"]),
        ("llava-v1-legacy-13b-v0", V0_PROJECTOR, "pretrain",
         ["instructions", "pretrain", "finetune", "questions", "evaluate", "publish"]),
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
        ("llava-v1-legacy-7b-v0", V0_PROJECTOR, r"Vicuna-13B-v0, pretrain has data/vicuna-7b-v0"),
        ("llava-v1-legacy-13b-v0-scienceqa", V0_PROJECTOR, "im_start_end is True, pretrain has False"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(recipe: str, name: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        start_from_zoo(find_recipe(recipe), name)


TILES = (
    "finetune.image_aspect=anyres",
    "finetune.pinpoints=[[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]",
    "finetune.max_length=4096",
)


@pytest.mark.parametrize(
    ("name", "told", "mends"),
    [
        ("llava-v1.5-7b", "", []),
        ("llava-v1.6-vicuna-7b", "saw pictures in tiles (anyres), finetune does not", [*TILES]),
        ("llava-v1.6-mistral-7b", "template 'v1' is not made for mistral models",
         [*TILES, "data.template=mistral_instruct", "finetune.template=mistral_instruct"]),
        ("ConvLLaVA-sft-768", "its select_layer is -1, finetune has -2", ["finetune.select_layer=-1"]),
        ("LLaVA-Lightning-MPT-7B-preview", "its im_start_end is True, finetune has False",
         ["finetune.im_start_end=True", "data.template=mpt", "finetune.template=mpt"]),
    ],
)  # fmt: skip
def test_weights_that_saw_pictures_otherwise_are_refused_with_what_mends_it(
    name: str, told: str, mends: list[str]
) -> None:
    recipe = start_from_zoo(find_recipe("finetune-task"), name)
    if not told:
        refuse_unlike(recipe)
        return
    with pytest.raises(InputError) as caught:
        refuse_unlike(recipe)
    assert told in str(caught.value)
    assert all(mend.partition("=")[0] in str(caught.value) for mend in mends)
    refuse_unlike(apply_settings(recipe, mends))


def test_the_mend_can_be_typed_as_it_stands(pipeline: Command) -> None:
    refused = pipeline("run", "finetune-task", "--from-zoo", "llava-v1.6-34b", "--dry-run")
    assert refused.code == 2 and "does not go with finetune-task" in refused.err
    by_name = pipeline("run", "finetune-task", "--set", "base.hub=liuhaotian/llava-v1.6-34b", "--dry-run")
    assert by_name.code == 2 and "does not go with finetune-task" in by_name.err
    gates = pipeline("check", "finetune-task", "--from-zoo", "llava-v1.6-34b", "--json").json["gates"]
    assert [gate["passed"] for gate in gates if gate["gate"] == "start"] == [False]
    mend = shlex.split(refused.err.partition("Mend it with ")[2].rpartition(".")[0])
    plan = pipeline("plan", "finetune-task", "--from-zoo", "llava-v1.6-34b", "--machine", "h100:4x8", *mend)
    assert plan.code == 0 and "finetune" in plan.out


def test_without_a_hub_the_message_names_the_weights_and_the_way_round(
    pipeline: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "no-hub"))
    with pytest.raises(StageFailed, match=r"cannot get liuhaotian/llava-v1\.5-7b.*--set base\.folder=FOLDER"):
        from_hub("liuhaotian/llava-v1.5-7b", "base.folder")


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


@pytest.mark.parametrize(
    ("hub", "row"),
    [
        ("llava-hf/llava-1.5-7b-hf", "llava-v1.5-7b"),
        ("llava-hf/llava-v1.6-34b-hf", "llava-v1.6-34b"),
        ("llava-hf/llama3-llava-next-8b-hf", "llama3-llava-next-8b"),
        ("liuhaotian/llava-v1.5-13b", "llava-v1.5-13b"),
        ("llava-hf/bakLlava-v1-hf", None),
        ("somebody/llava-1.5-7b-hf", None),
    ],
)
def test_a_published_model_is_known_under_both_of_its_names(hub: str, row: str | None) -> None:
    assert zoo_row(Base(hub=hub)) == (ZOO[row] if row else None)
