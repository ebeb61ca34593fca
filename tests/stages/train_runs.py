"""Small training runs for the tests of `train`, in this process or, to be killed, in one of their own.

    python -m llavaflow.tests.stages.train_runs STORE FOUNDATION '{"zero": 2}'
    python -m llavaflow.tests.stages.train_runs STORE FOUNDATION '{"zero": 2}' --one-worker
    python -m llavaflow.tests.stages.train_runs STORE FOUNDATION '{"zero": 2}' --lose-a-node

`--lose-a-node` runs on a cluster of two Ray nodes with room for one worker each, kills the second one after the first
training state, and lets a third one join. It prints how many steps were done when the node was lost.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from llavaflow.infra.artifact import Artifact
from llavaflow.infra.machine import Machine
from llavaflow.models.lora import Lora
from llavaflow.stages._pretrained import Pretrained
from llavaflow.stages.train import Train
from llavaflow.tests.stages import train_data

STATES = "scratch/*/*/checkpoints/step-*/manifest.json"
LOGS = "scratch/*/out/log.jsonl"


@dataclass(frozen=True, kw_only=True)
class OneWorker(Machine):
    @property
    def ranks(self) -> int:
        return 1


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
        "projector_lr": 1e-3,
        "weight_decay": 0.01,
        "global_batch": 12,
        "max_length": 256,
        "zero": 2,
        "precision": "float32",
        "gradient_checkpointing": False,
        "save_every_steps": 2,
        "epochs": 2,
    }
    return Train(**settings | changes)


def changed(text: str) -> dict[str, Any]:
    """Changes of `finetune` from JSON: `{"lora": {"r": 4}, "trainable": ["mm_projector"]}`."""
    changes: dict[str, Any] = json.loads(text)
    if "lora" in changes:
        changes["lora"] = Lora(**changes["lora"])
    if "trainable" in changes:
        changes["trainable"] = tuple(changes["trainable"])
    return changes


def losses(bench: Any, artifact: Artifact) -> list[float]:
    lines = (bench.path(artifact) / "log.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line)["loss"] for line in lines]


def weights(bench: Any, artifact: Artifact) -> dict[str, Any]:
    """All weights of the model; of a projector run the projector's."""
    import torch
    from safetensors.torch import load_file

    folder = bench.path(artifact)
    if (folder / "model").exists():
        state: dict[str, Any] = load_file(folder / "model" / "model.safetensors")
        return state
    projector: dict[str, Any] = torch.load(folder / "mm_projector.bin", weights_only=True)
    return projector


def furthest(first: dict[str, Any], second: dict[str, Any]) -> float:
    assert set(first) == set(second) and first
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def lose_a_node(store: Path, job: Callable[[], object]) -> None:
    """Run a job on a head and a second node, one worker each; the second dies on the way and another one joins.

    Ray starts nodes in the main thread alone, so the job has one of its own.
    """
    from llavaflow.infra import ray

    folder = ray._temporary_folder()
    (folder / "ray").mkdir()
    os.environ.update(ray.ENVIRONMENT, RAY_TMPDIR=str(folder))
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": ray.OBJECT_STORE_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    second = cluster.add_node(**node)
    os.environ["RAY_ADDRESS"] = cluster.address
    ray.session()
    thread = threading.Thread(target=job, daemon=True)
    try:
        thread.start()
        while not list(store.glob(STATES)) and thread.is_alive():
            time.sleep(0.02)
        steps = sum(len(path.read_text("utf-8").splitlines()) for path in store.glob(LOGS))
        cluster.remove_node(second, allow_graceful=False)
        print(f"lost a node after {steps} steps", flush=True)
        cluster.add_node(**node)
        thread.join()
    finally:
        ray.shutdown()
        cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def main(store: Path, foundation: Path, changes: str, *flags: str) -> None:
    from llavaflow.infra.store import open_store
    from llavaflow.tests.stages.conftest import Bench

    bench = Bench(store=open_store(store))
    stage = finetune(bench, foundation, **changed(changes))
    machine = OneWorker(kind="cpu", cores=2) if "--one-worker" in flags else Machine(kind="cpu", cores=2)
    run = partial(stage.run, replace(bench.context(stage), machine=machine))
    if "--lose-a-node" in flags:
        lose_a_node(store, run)
    else:
        run()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
