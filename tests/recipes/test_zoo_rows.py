"""A recipe makes what its row of the model zoo says: base model, tower, projector, template, epochs, adapters."""

from __future__ import annotations

import re

import pytest

from llavaflow.infra.machine import parse
from llavaflow.infra.store import open_store
from llavaflow.models.templates import template
from llavaflow.models.zoo import ZOO
from llavaflow.pipelines._catalogue import find_recipe, recipe_names
from llavaflow.pipelines._plan import make_plan
from llavaflow.stages.train import Train

# ConvLLaVA's rows list three stages in words
MADE = {
    name: row for name, row in ZOO.items() if row.recipe in recipe_names() and re.search(r"(^|-)\d+e$", row.schedule)
}

TURNS = [("human", "<image>\nWhat is it?"), ("gpt", "A cat.")]

# hours for the stage, by the sources named in reference pages; a range counts as its ends
PUBLISHED = (
    ("llava15", "pretrain", "a100-80g", (3.5, 3.5)),
    ("llava15-13b", "pretrain", "a100-80g", (5.5, 5.5)),
    ("llava15-13b", "finetune", "a100-80g", (20, 20)),
    ("llava15", "finetune", "a100-40g", (10, 10)),
    ("conv-llava-768", "finetune", "a800-80g", (6, 6)),
    ("llava-next-llama3-8b", "finetune", "a100-80g:2x8", (15, 20)),
    # the script that the sentence came with asks for neither bf16 nor fp16
    ("projector-vicuna-7b-v1-3-224", "pretrain:float32", "v100-32g", (20, 20)),
)
# (recipe, machine): what users report about memory
FITS = (
    ("llava15", "a100-40g", True),
    ("llava15-13b", "a100-80g", True),
    ("llava15-13b-lora", "a100-40g", True),
    ("llava15-13b-lora", "a6000", True),
    ("llava15-lora", "rtx3090", True),
    ("llava15-13b", "rtx3090", False),
    ("llava15-13b", "a100-40g:1x4", False),
    ("llava15-13b", "a100-40g", False),
    ("llava15", "a100-40g:1x4", False),
    ("llava15", "a100-80g:1x1", False),
    ("llava16-34b", "a100-80g:4x8", True),
    ("llava16-34b", "a100-80g", False),
)


@pytest.mark.parametrize("name", MADE)
def test_a_recipe_trains_what_its_row_lists(name: str) -> None:
    row = MADE[name]
    assert row.recipe is not None
    last = find_recipe(row.recipe).stage("pretrain" if row.form == "projector" else "finetune")
    assert isinstance(last, Train) and last.language is not None and last.vision is not None
    # Vicuna v0 is on no hub
    assert last.language.hub in (row.language, None)
    assert last.vision.hub == row.tower
    assert last.projector == row.projector
    assert last.im_start_end == row.im_start_end
    # `vicuna_v1` is another name of `v1`
    assert template(last.template).text(TURNS) == template(row.template).text(TURNS)
    assert f"{last.epochs}e" == row.schedule.rpartition("-")[2]
    assert (last.lora is not None) == ("lora" in row.schedule)


@pytest.mark.parametrize(("recipe", "stage", "machine", "hours"), PUBLISHED)
def test_a_plan_is_within_a_fifth_of_the_published_time(
    recipe: str, stage: str, machine: str, hours: tuple[float, float], store_url: str
) -> None:
    stage, _, precision = stage.partition(":")
    chosen = find_recipe(recipe).replace({stage: {"precision": precision or "bf16"}})
    plan = make_plan(chosen, open_store(store_url), parse(machine), stage=stage)
    found = {row.name: row.hours for row in plan.rows}[stage]
    assert found is not None
    assert found == pytest.approx(min(max(found, hours[0]), hours[1]), rel=0.2)


@pytest.mark.parametrize(("recipe", "machine", "fits"), FITS)
def test_a_plan_knows_what_fits(recipe: str, machine: str, fits: bool, store_url: str) -> None:
    plan = make_plan(find_recipe(recipe), open_store(store_url), parse(machine), stage="finetune")
    assert {row.name: row.fits for row in plan.rows}["finetune"] is fits


@pytest.fixture
def store_url(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> str:
    """A store in an empty folder, which is also where recipes look for `data/`."""
    folder = tmp_path_factory.mktemp("place")
    monkeypatch.chdir(folder)
    return str(folder / "store")
