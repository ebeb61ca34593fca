"""Every full-size recipe is what its golden file says, to the last setting, and every number names its source.

A golden file is the recipe as one table: path, value, and where the value comes from. It is there to be read: a change
of a recipe shows as a change of these lines. After an intended change, write them anew and read the difference:

    python tests/recipes/test_golden.py && git diff tests/recipes/golden
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llavaflow.infra.machine import parse
from llavaflow.infra.store import open_store
from llavaflow.pipelines._catalogue import find_recipe, recipe_names
from llavaflow.pipelines._flat import flat_settings
from llavaflow.pipelines._plan import make_plan
from llavaflow.pipelines._recipe import Recipe
from llavaflow.stages.train import Train

GOLDEN = Path(__file__).with_name("golden")
TOY_SIZES = ("llava15-tiny", "llava15-micro")
NAMES = [name for name in recipe_names() if name not in TOY_SIZES]
PLAN_LIMIT_S = 2.0
# what upstream's scripts decide; a recipe that leaves one uncited has a number from nowhere
CITED = ("learning_rate", "global_batch", "max_length", "epochs", "warmup_ratio", "weight_decay", "zero", "projector")


def golden(recipe: Recipe) -> str:
    """The recipe as text: title, notes, then one line per setting."""
    rows = [
        f"{path} = {json.dumps(value, ensure_ascii=False)}" + (f"    # {source}" if source else "")
        for path, value in flat_settings(recipe).items()
        for source in [recipe.sources.get(path, "")]
    ]
    head = [f"{recipe.name}: {recipe.title}", *([recipe.notes] if recipe.notes else [])]
    return "\n".join([*head, "", *rows]) + "\n"


def trainings(recipe: Recipe) -> dict[str, Train]:
    return {name: stage for name, stage in recipe.stages.items() if isinstance(stage, Train)}


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_what_its_golden_file_says(name: str) -> None:
    path = GOLDEN / f"{name}.txt"
    assert path.is_file(), f"{name} has no golden file: see the docstring of this test"
    assert golden(find_recipe(name)) == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["scienceqa", "llava-v1-legacy-13b-v0-scienceqa"])
def test_a_model_that_answers_last_is_given_room_for_its_lesson(name: str) -> None:
    """Upstream's model_vqa_science.py allows 1,024 tokens; 128 end within most lectures, before any answer."""
    assert find_recipe(name).stage("evaluate").fields()["max_new_tokens"] == 1024


def test_no_golden_file_without_a_recipe() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_source_names_a_setting_and_every_trained_number_its_source(name: str) -> None:
    recipe = find_recipe(name)
    assert set(recipe.sources) <= set(flat_settings(recipe))
    for stage in trainings(recipe):
        assert [field for field in CITED if f"{stage}.{field}" not in recipe.sources] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_plan_answers_before_any_data_is_there(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = find_recipe(name)
    plan = make_plan(recipe, open_store(tmp_path / "store"), parse("a100-80g"))
    rows = {row.name: row for row in plan.rows}
    assert all(row.status == "missing" for row in plan.rows)
    for stage, training in trainings(recipe).items():
        assert rows[stage].global_batch == training.global_batch
        # a checkpoint of one's own has a size that nobody knows yet, and some captions have lengths that nobody counted
        if training.base is None or "base" not in recipe.stages:
            assert rows[stage].gpu_memory_gib
            assert rows[stage].hours or "convllava" in str(training.data.outside()["file"])


def test_planning_needs_no_torch_and_no_patience(tmp_path: Path) -> None:
    """The slowest kind of plan, a family's, from a fresh process."""
    code = (
        "import sys; from llavaflow.pipelines._cli.main import main; "
        "code = main(['plan', 'llava15-13b-lora', '--machine', 'a100-80g:2x8', '--json']); "
        "heavy = {'torch', 'transformers', 'prefect', 'ray'} & set(sys.modules); sys.exit(code or len(heavy))"
    )
    environment = {"LLAVAFLOW_STORE": str(tmp_path / "store"), "PATH": "/usr/bin:/bin"}
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    # generous to a busy machine: what counts is that nothing heavy is imported, which is checked above
    assert time.monotonic() - start < 5 * PLAN_LIMIT_S


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for stale in {path.stem for path in GOLDEN.iterdir()} - set(NAMES):
        (GOLDEN / f"{stale}.txt").unlink()
    for known in NAMES:
        (GOLDEN / f"{known}.txt").write_text(golden(find_recipe(known)), encoding="utf-8")
