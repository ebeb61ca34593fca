"""The main job from outside: run it, read the artifacts, run it again, change one setting, ask the model."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from llavaflow.tests.e2e.conftest import RECIPE, pipeline

STAGES = ["world", "download", "foundation", "filter", "caption", "synthesize", "mix", "pretrain", "finetune"]
STAGES += ["evaluate", "publish"]

pytestmark = pytest.mark.timeout(1200)


def test_every_stage_is_built_in_order(first_run: Any) -> None:
    assert first_run["state"] == "completed"
    assert sorted(stage["name"] for stage in first_run["stages"]) == sorted(STAGES)
    assert {stage["state"] for stage in first_run["stages"]} == {"built"}


def test_the_second_run_finds_everything_within_15_s(first_run: Any, home: Path) -> None:
    started = time.monotonic()
    again = pipeline("run", RECIPE, cwd=home)
    assert time.monotonic() - started < 15
    assert {stage["state"] for stage in again["stages"]} == {"found"}
    assert [s["fingerprint"] for s in again["stages"]] == [s["fingerprint"] for s in first_run["stages"]]


def test_a_changed_learning_rate_rebuilds_finetune_and_what_follows(first_run: Any, home: Path) -> None:
    dry = pipeline("run", RECIPE, "--set", "finetune.learning_rate=1e-3", "--dry-run", cwd=home)
    todo = [stage["name"] for stage in dry["stages"] if stage["state"] != "found"]
    assert todo == ["finetune", "evaluate", "publish"]


def test_plain_transformers_loads_and_runs_what_was_published(artifacts: dict[str, Path]) -> None:
    import torch
    from PIL import Image
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    folder = artifacts["publish"]
    model = LlavaForConditionalGeneration.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder)
    prompt = "USER: <image>\nWhat color is the circle? ASSISTANT:"
    inputs = processor(text=prompt, images=Image.new("RGB", (72, 72), "white"), return_tensors="pt")
    with torch.inference_mode():
        out = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    assert out.shape[1] > inputs["input_ids"].shape[1]


def test_a_published_projector_has_upstream_s_names(artifacts: dict[str, Path]) -> None:
    import torch

    weights = torch.load(artifacts["publish"] / "mm_projector.bin", weights_only=True)
    assert set(weights) == {f"model.mm_projector.{layer}.{part}" for layer in (0, 2) for part in ("weight", "bias")}


def test_ask_answers_about_a_picture(first_run: Any, artifacts: dict[str, Path], home: Path) -> None:
    picture = next((artifacts["world"] / "eval" / "images").iterdir())
    answer = pipeline("ask", f"{RECIPE}/finetune", str(picture), "What color is the circle?", cwd=home)
    assert answer["answer"].strip()


def test_scores_hold_the_blank_and_shuffled_runs_beside_the_real_one(artifacts: dict[str, Path]) -> None:
    scores = json.loads((artifacts["evaluate"] / "scores.json").read_text())
    text = json.dumps(scores)
    for word in ("blank", "shuffled", "prior"):
        assert word in text


def test_open_questions_are_reviewed_by_the_named_local_judge(first_run: Any, artifacts: dict[str, Path]) -> None:
    facts = next(stage["facts"] for stage in first_run["stages"] if stage["name"] == "evaluate")
    judged = facts["judged"]["llava-bench-coco"]
    assert (judged["judge"], judged["n"], judged["failed"]) == ("llavaflow-local-judge", 12, 0)
    scores = json.loads((artifacts["evaluate"] / "scores.json").read_text())
    assert "not a language model" in scores["judge"]["title"]
    assert scores["results"]["llava-bench-coco"]["images"]["score"] == judged["score"]
    assert "not a language model" in (artifacts["evaluate"] / "report.html").read_text()
    assert "not a language model" in (artifacts["publish"] / "README.md").read_text()


def test_the_card_says_what_scores_alone_would_not_tell(artifacts: dict[str, Path]) -> None:
    card = (artifacts["publish"] / "README.md").read_text()
    assert "about generated scenes of shapes and signs, and about nothing else" in card


def test_a_sample_of_the_mixture_is_traced_to_parents_that_exist(artifacts: dict[str, Path], home: Path) -> None:
    import pyarrow.parquet as pq

    index = pq.read_table(artifacts["mix"] / "index.parquet", columns=["id", "parents", "dropped"]).to_pylist()
    kept = next(row for row in index if row["dropped"] is None and row["parents"])
    trace = pipeline("trace", "--sample", kept["id"], cwd=home)
    assert json.dumps(trace).count(kept["parents"][0].partition(":")[2]) >= 1
