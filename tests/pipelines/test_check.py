"""Gates: a recipe that passes, one thing broken, and that gate and no other trips."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llavaflow.infra.machine import Machine, parse
from llavaflow.infra.store import ArtifactStore, open_store
from llavaflow.pipelines import _gates
from llavaflow.pipelines._gates import ENVIRONMENT, Preflight, Problem
from llavaflow.pipelines._gates_training import TRAINING
from llavaflow.pipelines._recipe import Recipe
from llavaflow.stages._pretrained import Pretrained
from llavaflow.stages.mix import Component, Mix
from llavaflow.stages.own_data import OwnData
from llavaflow.stages.train import Train
from llavaflow.tests.pipelines.conftest import TOY, Command

CLIP = Pretrained(hub="openai/clip-vit-large-patch14-336")
VICUNA = Pretrained(hub="lmsys/vicuna-7b-v1.5")


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """LLaVA-1.5 7B in two trainings, on data that is there."""
    (tmp_path / "raw").mkdir()
    mix = Mix(components=(Component(name="vqav2", source="vqav2", data=tmp_path / "raw"),), mixture="mix665k")
    common: dict[str, Any] = {"data": mix, "vision": CLIP, "language": VICUNA, "batching": "grouped"}
    pretrain = Train(
        **common,
        template="plain",
        image_aspect="square",
        trainable=("mm_projector",),
        learning_rate=1e-3,
        global_batch=256,
        zero=2,
    )
    finetune = Train(
        **common,
        projector_from=pretrain,
        template="v1",
        image_aspect="pad",
        trainable=("mm_projector", "language_model"),
        learning_rate=2e-5,
        global_batch=128,
        zero=3,
    )
    return Recipe(name="gated", stages={"mix": mix, "pretrain": pretrain, "finetune": finetune})


def failing(recipe: Recipe, store: ArtifactStore, machine: Machine | None = None) -> dict[str, list[Problem]]:
    """The gates that fail, with what they say."""
    preflight = Preflight(recipe, store, machine or parse("a100-80g"))
    found = {
        gate.__name__: [item for item in gate(preflight) if not item.warning] for gate in (*ENVIRONMENT, *TRAINING)
    }
    return {name: problems for name, problems in found.items() if problems}


@pytest.fixture(autouse=True)
def sound_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this computer has installed is not under test here, except where a test breaks it."""
    monkeypatch.setattr(_gates.metadata, "requires", lambda name: ["click>=8"])


def test_a_sound_recipe_passes_every_gate(recipe: Recipe, store: ArtifactStore) -> None:
    assert failing(recipe, store) == {}


@pytest.mark.parametrize(
    ("stage", "fields", "gate", "told"),
    [
        ("finetune", {"template": "llava_llama_3"}, "template", "not made for vicuna"),
        ("finetune", {"template": "v7"}, "template", "no template 'v7'"),
        ("finetune", {"projector": "linear"}, "projector", "projector mlp2x_gelu, it is used with linear"),
        ("finetune", {"select_layer": -1}, "projector", "select_layer"),
        ("finetune", {"max_length": 512}, "length", "576 tokens"),
        ("finetune", {"save_every_steps": 50_000}, "saving", "saves every 50000 steps and has about 5197"),
        ("finetune", {"global_batch": 100}, "global_batch", "does not divide over 8"),
        ("finetune", {"zero": 1, "offload": "cpu"}, "schedule", "zero1_offload.json"),
    ],
)
def test_one_broken_setting_trips_one_gate(
    recipe: Recipe, store: ArtifactStore, stage: str, fields: dict[str, object], gate: str, told: str
) -> None:
    found = failing(recipe.replace({stage: fields}), store)
    assert list(found) == [gate]
    assert told in found[gate][0].what and found[gate][0].mend and stage in found[gate][0].where


def test_a_projector_of_another_language_model_is_seen(recipe: Recipe, store: ArtifactStore) -> None:
    other = recipe.replace({"finetune": {"language": Pretrained(hub="lmsys/vicuna-13b-v1.5")}})
    found = failing(other, store)
    assert list(found) == ["projector"]
    assert "vicuna-7b" in found["projector"][0].what and "vicuna-13b" in found["projector"][0].what


def test_chips_without_bf16_and_too_little_memory_are_seen(recipe: Recipe, store: ArtifactStore) -> None:
    assert "precision" in failing(recipe, store, parse("v100-32g"))
    found = failing(recipe, store, parse("rtx3090:1x4"))
    assert list(found) == ["gpu_memory"] and "LoRA" in found["gpu_memory"][0].mend


def test_a_missing_file_names_the_field_and_the_setting(store: ArtifactStore, tmp_path: Path) -> None:
    data = OwnData(template="v1", file=tmp_path / "none.json")
    found = failing(Recipe(name="own", stages={"data": data}), store)
    assert list(found) == ["files"]
    assert found["files"][0].where == "data.file" and "--set data.file=" in found["files"][0].mend


def test_a_package_outside_its_bounds_is_named(
    recipe: Recipe, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs = ["click>=99", "no-such-package>=1", 'only-on-windows>=1; sys_platform == "win32"']
    monkeypatch.setattr(_gates.metadata, "requires", lambda name: needs)
    problems = failing(recipe, store)["packages"]
    assert ["outside >=99" in problems[0].what, "not installed" in problems[1].what] == [True, True]
    assert len(problems) == 2


def test_the_dataclasses_backport_is_seen(
    recipe: Recipe, store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "site-packages"
    folder.mkdir()
    (folder / "dataclasses.py").touch()
    monkeypatch.syspath_prepend(str(folder))
    assert list(failing(recipe, store)) == ["backport"]


def test_gated_models_and_paid_services_want_their_keys(
    recipe: Recipe, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("HF_TOKEN", "OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    llama = Pretrained(hub="meta-llama/Llama-2-7b-chat-hf")
    changes = {name: {"language": llama, "template": "plain"} for name in ("pretrain", "finetune")}
    gated = recipe.replace(changes)
    assert list(failing(gated, store)) == ["credentials"]
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert failing(gated, store) == {}


def test_a_store_that_cannot_be_written_is_seen(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "store" in failing(recipe, open_store(tmp_path / "file" / "store"))


def test_little_disk_is_seen(recipe: Recipe, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = _gates.shutil.disk_usage(".")
    monkeypatch.setattr(_gates.shutil, "disk_usage", lambda place: usage._replace(free=2**30))
    assert list(failing(recipe, store)) == ["disk"]


def test_little_memory_is_a_warning_on_this_computer_only(recipe: Recipe, store: ArtifactStore) -> None:
    small = replace(parse("cpu"), memory_gib=4.0)
    assert [item.warning for item in _gates.memory(Preflight(recipe, store, small))] == [True]
    assert not list(_gates.memory(Preflight(recipe, store, parse("h100"))))


def test_the_command_tells_every_gate_and_its_exit_code(pipeline: Command, tmp_path: Path) -> None:
    passed = pipeline("check", TOY, "--json")
    assert passed.code == 0 and passed.json["passed"] is True
    assert {"packages", "disk", "ports", "template"} <= {gate["gate"] for gate in passed.json["gates"]}
    failed = pipeline("check", TOY, "--json", "--set", f"draw.note={tmp_path / 'none'}")
    assert failed.code == 2 and failed.json["passed"] is False
