"""Train on a Ray Train job with DeepSpeed: real workers, real processes, the smallest model that has all parts."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from llavaflow.infra.artifact import Artifact
from llavaflow.infra.errors import InputError, StageFailed
from llavaflow.infra.machine import Machine
from llavaflow.infra.store import open_store
from llavaflow.models.lora import Lora
from llavaflow.stages._pretrained import Pretrained
from llavaflow.stages.train import Train


def beside(name: str) -> Any:
    """A module that lies next to this file."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


train_data = beside("train_data")


@dataclass(frozen=True, kw_only=True)
class OneWorker(Machine):
    @property
    def ranks(self) -> int:
        return 1


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """One Ray cluster for this file, gone with it."""
    from llavaflow.infra import ray

    yield
    ray.shutdown()


def finetune(bench: Any, foundation: Path, **changes: Any) -> Train:
    """Eight steps of a finetune in float32, with a training state every second step."""
    settings: dict[str, Any] = {
        "data": changes.pop("data", None) or bench.given("data", train_data.write),
        "vision": Pretrained(path=foundation / "clip"),
        "language": Pretrained(path=foundation / "language"),
        "image_aspect": "pad",
        "template": "v1",
        "trainable": ("mm_projector", "language_model"),
        "learning_rate": 2e-3,
        "global_batch": 12,
        "max_length": 256,
        "zero": 2,
        "precision": "float32",
        "gradient_checkpointing": False,
        "save_every_steps": 2,
        "epochs": 2,
    }
    return Train(**settings | changes)


def losses(bench: Any, artifact: Artifact) -> list[float]:
    lines = (bench.path(artifact) / "log.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line)["loss"] for line in lines]


def weights(bench: Any, artifact: Artifact) -> dict[str, Any]:
    from safetensors.torch import load_file

    state: dict[str, Any] = load_file(bench.path(artifact) / "model" / "model.safetensors")
    return state


def furthest(first: dict[str, Any], second: dict[str, Any]) -> float:
    assert set(first) == set(second)
    return max(float((first[name] - second[name]).abs().max()) for name in first)


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
    model = LlavaForConditionalGeneration.from_pretrained(bench.path(artifact) / "model")
    processor = AutoProcessor.from_pretrained(bench.path(artifact) / "model")
    assert model.config.image_token_id == processor.image_token_id
    file = projector.read(bench.path(artifact) / "mm_projector.bin")
    assert torch.equal(file.state["0.weight"], model.model.multi_modal_projector.linear_1.weight)


def test_bad_settings_are_refused_before_workers_start(bench: Any, toy_foundation: Path) -> None:
    with pytest.raises(InputError, match="needs either `base`"):
        bench.run(finetune(bench, toy_foundation, vision=None))
    with pytest.raises(InputError, match="no model at .*blip.*clip, language"):
        bench.run(finetune(bench, toy_foundation, vision=Pretrained(path=toy_foundation, folder="blip")))


@pytest.mark.slow
def test_zero_stages_and_worker_counts_give_one_curve(bench: Any, toy_foundation: Path, tmp_path: Path) -> None:
    data = bench.given("data", train_data.write)
    plain = bench.run(finetune(bench, toy_foundation, data=data, zero=0))
    for changes in ({"zero": 2}, {"zero": 3}, {"zero": 2, "batching": "padded"}):
        other = bench.run(finetune(bench, toy_foundation, data=data, **changes))
        assert losses(bench, other) == pytest.approx(losses(bench, plain), abs=1e-5)
        assert furthest(weights(bench, other), weights(bench, plain)) < 1e-5
    alone = finetune(bench, toy_foundation, data=data, zero=1)
    one = alone.run(replace(bench.context(alone), machine=OneWorker(kind="cpu", cores=2)))
    assert losses(bench, one) == pytest.approx(losses(bench, plain), abs=1e-5)


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
    assert "3.png" in (bench.path(artifact) / "broken_images.txt").read_text("utf-8")


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {folder!r})
from test_train import beside, finetune
conftest = beside("conftest")
from llavaflow.infra.store import open_store
if __name__ == "__main__":
    bench = conftest.Bench(store=open_store(Path(sys.argv[1])))
    bench.run(finetune(bench, Path(sys.argv[2]), zero=int(sys.argv[3])))
"""


def run_and_kill(tmp_path: Path, foundation: Path, zero: int, seed: int) -> list[str]:
    """Start a run in a process group of its own and kill it at a random moment after its first training state."""
    script = tmp_path / "run.py"
    script.write_text(SCRIPT.format(folder=str(Path(__file__).parent)), "utf-8")
    command = [sys.executable, str(script), str(tmp_path / "killed"), str(foundation), str(zero)]
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list((tmp_path / "killed").glob("scratch/*/*/checkpoints/step-*/manifest.json")):
        assert process.poll() is None, "ended before its first training state"
        time.sleep(0.02)
    time.sleep(random.Random(seed).uniform(0, 1.5))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return command


@pytest.mark.slow
@pytest.mark.parametrize("zero", [2, 3])
def test_two_workers_killed_and_one_goes_on(bench: Any, toy_foundation: Path, tmp_path: Path, zero: int) -> None:
    run_and_kill(tmp_path, toy_foundation, zero, seed=0)
    other = type(bench)(store=open_store(tmp_path / "killed"))
    stage = finetune(other, toy_foundation, zero=zero)
    one = stage.run(replace(other.context(stage), machine=OneWorker(kind="cpu", cores=2)))
    unbroken = bench.run(finetune(bench, toy_foundation, zero=zero))
    assert losses(other, one) == pytest.approx(losses(bench, unbroken), abs=1e-5)
    assert furthest(weights(other, one), weights(bench, unbroken)) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(("zero", "seed"), [(2, 1), (3, 2), (3, 3)])
def test_killed_run_ends_with_the_weights_of_an_unbroken_one(
    bench: Any, toy_foundation: Path, tmp_path: Path, zero: int, seed: int
) -> None:
    command = run_and_kill(tmp_path, toy_foundation, zero, seed)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    unbroken = bench.run(finetune(bench, toy_foundation, zero=zero))
    killed = open_store(tmp_path / "killed")
    artifact = killed.find(unbroken.fingerprint)
    assert artifact is not None
    other = type(bench)(store=killed)
    assert losses(other, artifact) == losses(bench, unbroken)
    assert furthest(weights(other, artifact), weights(bench, unbroken)) < 1e-5
