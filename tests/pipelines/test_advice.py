"""What a plan advises where a training does not fit: it can be typed as it stands, and it helps; the smallest first."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from llavaflow.infra.machine import KINDS, parse
from llavaflow.pipelines._advice import advice
from llavaflow.pipelines._catalogue import find_recipe, recipe_names
from llavaflow.pipelines._estimate import estimate_training
from llavaflow.pipelines._recipe import Recipe
from llavaflow.pipelines._settings import apply_settings
from llavaflow.stages.train import Train
from llavaflow.tests.pipelines.conftest import Command
from llavaflow.tests.pipelines.test_hours import finetuning, in_tiles, job

MACHINES = [f"{kind}{size}" for kind, box in KINDS.items() if box.gpus for size in ("", ":1x4", ":1x1")]


def trainings(recipe: Recipe) -> list[tuple[str, Train]]:
    return [(name, stage) for name, stage in recipe.stages.items() if isinstance(stage, Train)]


def followed(recipe: Recipe, name: str, machine: str, arguments: str) -> bool | None:
    """Whether the training fits once these arguments are given."""
    words = shlex.split(arguments)
    given = {flag: [words[place + 1] for place, word in enumerate(words) if word == flag] for flag in words[::2]}
    changed = apply_settings(recipe, given.get("--set", []))
    box = parse(given.get("--machine", [machine])[-1])
    stage = changed.stages[name]
    assert isinstance(stage, Train)
    return estimate_training(stage, box, name=name).fits


@pytest.mark.parametrize("name", [name for name in recipe_names() if trainings(find_recipe(name))])
def test_every_advice_can_be_followed_as_it_is_written_and_helps(name: str) -> None:
    recipe = find_recipe(name)
    for machine in MACHINES:
        for key, stage in trainings(recipe):
            found = estimate_training(stage, parse(machine), name=key)
            if found.fits is False and found.memory and "nothing does" not in found.change:
                told = re.findall(r"\((--[^)]*)\)", found.change)
                assert told, found.change
                assert [text for text in told if not followed(recipe, key, machine, text)] == [], (machine, key)


def test_the_smallest_change_comes_first() -> None:
    tight = finetuning("vicuna-13b", "instruct-158k", vision="clip-l-224", global_batch=32)
    assert "is smaller micro-steps, more accumulation (--machine a100-40g:1x8@" in advice(tight, parse("a100-40g"), "f")
    whole = finetuning("vicuna-7b", zero=1)
    assert "is ZeRO-3 (--set f.zero=3)" in advice(whole, parse("a100-40g"), "f")
    told = advice(finetuning("vicuna-13b"), parse("a100-40g:1x4"), "f")
    offload, more, lora = (told.index(word) for word in ("ZeRO-3 with offload", "16 devices", "LoRA"))
    assert offload < more < lora


def test_offload_is_not_advised_where_the_host_lacks_the_memory() -> None:
    small = replace(parse("a100-40g"), memory_gib=64.0)
    assert "offload" not in advice(finetuning("vicuna-13b"), small, "f")


def test_a_node_without_the_memory_for_offload_is_told_so(pipeline: Command, tmp_path: Path) -> None:
    box = tmp_path / "box.toml"
    box.write_text('like = "a100-40g"\nmemory_gib = 64\n')
    arguments = ("llava15", "--machine", str(box), "--set", "finetune.offload=cpu", "--json")
    note = {row["name"]: row["note"] for row in pipeline("plan", *arguments).json["stages"]}["finetune"]
    gates = {gate["gate"]: gate["problems"] for gate in pipeline("check", *arguments).json["gates"]}
    for told in (note, gates["gpu-memory"][0]["what"]):
        assert "offload wants 101 GiB of a node's memory, 58 may be taken" in told


def test_what_fits_nowhere_says_what_it_needs() -> None:
    told = advice(in_tiles("yi-34b", zero=0), replace(parse("rtx3090:1x1"), memory_gib=64.0), "f")
    assert told.startswith("nothing does on this kind of machine") and "GiB of a node's memory" in told


@pytest.mark.parametrize(("machine", "precision"), [("v100-32g", "fp16"), ("a100-40g:1x4", "bf16")])
def test_float32_is_told_that_half_the_bytes_would_do(machine: str, precision: str) -> None:
    recipe = apply_settings(find_recipe("llava15-13b"), ["pretrain.precision=float32"])
    stage = recipe.stages["pretrain"]
    assert isinstance(stage, Train)
    change = estimate_training(stage, parse(machine), name="pretrain").change
    argument = f"--set pretrain.precision={precision}"
    assert argument in change and followed(recipe, "pretrain", machine, argument)


def test_rounded_weights_take_a_quarter_and_are_not_divided() -> None:
    qlora = finetuning("vicuna-7b", lora_rank=64, quantized_bits=4, zero=2)
    assert qlora.resting_bytes < 0.4 * job("vicuna-7b", "lcs-558k").resting_bytes
    assert "ZeRO-3 with" not in advice(qlora, replace(parse("rtx3090:1x1"), gpu_memory_gib=4.0), "f")


def test_a_plan_and_a_check_name_the_change(pipeline: Command) -> None:
    arguments = ("llava15-13b", "--machine", "a100-40g", "--json")
    note = {row["name"]: row["note"] for row in pipeline("plan", *arguments).json["stages"]}["finetune"]
    assert note.startswith("does not fit: the smallest change that does is") and "--set finetune.lora.r=128" in note
    told = pipeline("check", *arguments)
    gates = {gate["gate"]: gate for gate in told.json["gates"]}
    assert told.code == 2 and not gates["gpu-memory"]["passed"]
    assert "--set finetune.zero=3" in gates["gpu-memory"]["problems"][0]["mend"]


def test_fewer_tokens_make_more_accumulation_and_the_same_fingerprints(pipeline: Command) -> None:
    usual, fewer = (
        pipeline("plan", "llava15", "--machine", spec, "--json").json["stages"][-4]
        for spec in ("a100-80g", "a100-80g@2048")
    )
    assert fewer["fingerprint"] == usual["fingerprint"]
    assert (usual["per_device_batch"], usual["grad_accum"]) == (4, 4)
    assert (fewer["per_device_batch"], fewer["grad_accum"]) == (1, 16)
    assert fewer["gpu_memory_gib"] < usual["gpu_memory_gib"]
