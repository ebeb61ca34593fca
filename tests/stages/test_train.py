"""Train on a Ray Train job with DeepSpeed: two real workers, real processes, the smallest model that has all parts."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import Any

import pytest

from llavaflow.datasets._shards import ShardWriter
from llavaflow.infra.artifact import Artifact
from llavaflow.stages._pretrained import Pretrained
from llavaflow.stages.train import Train

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 50, 220)}


def write_data(folder: Path, samples: int = 48, broken: str = "") -> None:
    """Coloured rectangles with a question each, every fifth sample text only."""
    from PIL import Image

    rng = random.Random(0)
    records = []
    with ShardWriter(folder) as shards:
        for number in range(samples):
            colour = rng.choice(sorted(COLOURS))
            record: dict[str, Any] = {"id": f"s{number}"}
            question = f"{'Please tell me. ' * rng.randint(0, 3)}What colour is it?"
            if number % 5:
                size = (rng.randint(20, 60), rng.randint(20, 60))
                data = io.BytesIO()
                Image.new("RGB", size, COLOURS[colour]).save(data, "PNG")
                content = b"no picture" if record["id"] == broken else data.getvalue()
                shards.add(f"{number}.png", content, {}, width=size[0], height=size[1])
                record["image"] = f"{number}.png"
                question = f"<image>\n{question}"
            record["conversations"] = [{"from": "human", "value": question}, {"from": "gpt", "value": f"{colour}."}]
            records.append(record)
    (folder / "data.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")


def stage(bench: Any, foundation: Path, **changes: Any) -> Train:
    """A finetune of a few steps in float32."""
    settings: dict[str, Any] = {
        "data": changes.pop("data", None) or bench.given("data", write_data),
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


def log(bench: Any, artifact: Artifact) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (bench.path(artifact) / "log.jsonl").read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def trained() -> dict[str, Any]:
    return {}


def test_finetune_writes_a_model_that_plain_transformers_loads(bench: Any, toy_foundation: Path) -> None:
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    artifact = bench.run(stage(bench, toy_foundation))
    rows = log(bench, artifact)
    assert [row["step"] for row in rows] == list(range(1, 9))
    assert sum(row["samples"] for row in rows) == 96
    assert rows[-1]["loss"] < rows[0]["loss"]
    model = LlavaForConditionalGeneration.from_pretrained(bench.path(artifact) / "model")
    processor = AutoProcessor.from_pretrained(bench.path(artifact) / "model")
    assert model.config.image_token_id == processor.image_token_id
    assert (bench.path(artifact) / "mm_projector.bin").exists()
    assert artifact.facts["changed_tensors"]["vision_tower"] == 0
    assert artifact.facts["changed_tensors"]["mm_projector"] == 4
