"""Train on a Ray Train job with DeepSpeed: real workers, real processes, the smallest model that has all parts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llavaflow.infra.errors import InputError, StageFailed
from llavaflow.models.lora import Lora
from llavaflow.stages._pretrained import Pretrained
from llavaflow.tests.stages import train_data
from llavaflow.tests.stages.train_runs import OneWorker, finetune, furthest, losses, weights


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """One Ray cluster for this file, gone with it."""
    from llavaflow.infra import ray

    yield
    ray.shutdown()


def test_finetune_from_a_pretrained_projector(bench: Any, toy_foundation: Path) -> None:
    """Stage 1, then stage 2 on it: what each leaves, and that just the named parts changed."""
    import torch
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    from llavaflow.models import projector

    data = bench.given("data", train_data.write)
    first = finetune(bench, toy_foundation, data=data, trainable=("mm_projector",), epochs=1)
    pretrained = bench.run(first)
    assert not (bench.path(pretrained) / "model").exists()
    assert pretrained.facts["changed_tensors"] == {"mm_projector": 4, "language_model": 0, "vision_tower": 0}
    artifact = bench.run(finetune(bench, toy_foundation, data=data, projector_from=first))
    assert artifact.facts["samples"] == 48 and artifact.facts["steps"] == 8
    assert losses(bench, artifact)[-1] < losses(bench, artifact)[0]
    assert "attention sdpa" in artifact.facts["kernels"]
    model = LlavaForConditionalGeneration.from_pretrained(bench.path(artifact) / "model")
    processor = AutoProcessor.from_pretrained(bench.path(artifact) / "model")
    assert model.config.image_token_id == processor.image_token_id
    file = projector.read(bench.path(artifact) / "mm_projector.bin")
    assert torch.equal(file.state["0.weight"], model.model.multi_modal_projector.linear_1.weight)


def test_bad_settings_are_refused_before_workers_start(bench: Any, toy_foundation: Path) -> None:
    with pytest.raises(InputError, match="needs either `base`"):
        bench.run(finetune(bench, toy_foundation, vision=None))
    with pytest.raises(InputError, match="no model at .*blip.*clip, convnext, language"):
        bench.run(finetune(bench, toy_foundation, vision=Pretrained(path=toy_foundation, folder="blip")))


def test_kernels_and_trackers_that_cannot_be_are_refused_before_workers_start(
    bench: Any, toy_foundation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = finetune(bench, toy_foundation)
    monkeypatch.setenv("LLAVAFLOW_KERNELS", "flish=on")
    with pytest.raises(InputError, match="unknown kernel 'flish'"):
        bench.run(stage)
    monkeypatch.setenv("LLAVAFLOW_KERNELS", "flash=off")
    monkeypatch.setenv("LLAVAFLOW_TRACKERS", "wandbb")
    with pytest.raises(InputError, match="unknown tracker 'wandbb'"):
        bench.run(stage)


@pytest.mark.slow
def test_zero_stages_and_worker_counts_give_one_curve(bench: Any, toy_foundation: Path, tmp_path: Path) -> None:
    data = bench.given("data", train_data.write)
    twenty_steps = {"data": data, "epochs": 5, "save_every_steps": 0}
    plain = bench.run(finetune(bench, toy_foundation, zero=0, **twenty_steps))
    assert len(losses(bench, plain)) == 20
    for changes in ({"zero": 2}, {"zero": 3}, {"zero": 2, "batching": "padded"}):
        other = bench.run(finetune(bench, toy_foundation, **twenty_steps, **changes))
        assert losses(bench, other) == pytest.approx(losses(bench, plain), abs=1e-4)
        assert furthest(weights(bench, other), weights(bench, plain)) < 1e-4
    alone = finetune(bench, toy_foundation, zero=1, **twenty_steps)
    one = alone.run(replace(bench.context(alone), machine=OneWorker(kind="cpu", cores=2)))
    assert losses(bench, one) == pytest.approx(losses(bench, plain), abs=1e-4)


@pytest.mark.slow
def test_lora_merges_into_a_whole_model_and_trains_on_from_a_base(bench: Any, toy_foundation: Path) -> None:
    data = bench.given("data", train_data.write)
    adapted = finetune(bench, toy_foundation, data=data, lora=Lora(r=4, alpha=8), learning_rate=5e-3)
    artifact = bench.run(adapted)
    assert losses(bench, artifact)[-1] < losses(bench, artifact)[0]
    folder = bench.path(artifact)
    assert {path.name for path in (folder / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "non_lora_trainables.bin",
    }
    again = finetune(
        bench, toy_foundation, data=data, vision=None, language=None, base=Pretrained(path=folder / "model")
    )
    assert losses(bench, bench.run(again))[0] < losses(bench, artifact)[0]


@pytest.mark.slow
def test_a_part_that_did_not_learn_is_reported(bench: Any, toy_foundation: Path) -> None:
    with pytest.raises(StageFailed, match="language_model changed although it trained"):
        bench.run(finetune(bench, toy_foundation, learning_rate=0.0, projector_lr=1e-3))


@pytest.mark.slow
def test_a_broken_image_stops_all_workers_with_its_name(bench: Any, toy_foundation: Path) -> None:
    data = bench.given("broken", lambda folder: train_data.write(folder, broken="s3"))
    with pytest.raises(StageFailed, match="s3: 3.png"):
        bench.run(finetune(bench, toy_foundation, data=data))
    artifact = bench.run(finetune(bench, toy_foundation, data=data, broken_images="skip"))
    assert artifact.facts["dropped"] == {"broken-image": 1}
    (line,) = (bench.path(artifact) / "dropped.jsonl").read_text("utf-8").splitlines()
    assert json.loads(line)["id"] == "s3" and "3.png" in line


@pytest.mark.slow
@pytest.mark.parametrize("zero", [0, 2, 3])
def test_a_run_that_blows_up_stops_before_it_writes_a_checkpoint(bench: Any, toy_foundation: Path, zero: int) -> None:
    """What overflows first, the gradient or the loss, is the arithmetic's business; neither may pass."""
    stage = finetune(bench, toy_foundation, learning_rate=1e30, warmup_ratio=0.0, save_every_steps=1, zero=zero)
    with pytest.raises(StageFailed, match=r"the (loss|gradient) is (nan|inf) at step 2"):
        bench.run(stage)
    states = bench.context(stage).work / "checkpoints"
    assert [path.name for path in states.iterdir()] == ["step-00000001"]


@pytest.mark.slow
def test_a_step_whose_images_are_all_broken_says_so(bench: Any, toy_foundation: Path) -> None:
    data = bench.given("broken", lambda folder: train_data.write(folder, samples=4, broken="s3"))
    with pytest.raises(StageFailed, match=r"no supervised token.*its images are broken"):
        bench.run(finetune(bench, toy_foundation, data=data, broken_images="skip", global_batch=1))
