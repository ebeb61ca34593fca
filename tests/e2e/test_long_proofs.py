"""The long proofs: the toy model learns to see, two fresh runs agree, and a killed run ends as an undisturbed one."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from llavaflow.tests.e2e.conftest import RECIPE, command, pipeline

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def test_the_tiny_recipe_learns_to_see_within_its_time(tmp_path: Path) -> None:
    """The bar of the project: 25 points over blanked pictures on the mean of the question types, 30 on colour."""
    started = time.monotonic()
    run = pipeline("run", "llava15-tiny", cwd=tmp_path, timeout_s=3000)
    seconds = time.monotonic() - started
    facts = next(stage["facts"] for stage in run["stages"] if stage["name"] == "evaluate")
    assert facts["samples"] >= 1000
    margins = {name: kind["images"] - kind["blank"] for name, kind in facts["types"].items()}
    assert margins["colour"] >= 30, margins
    assert sum(margins.values()) / len(margins) >= 25, margins
    assert seconds <= 720


def test_two_fresh_runs_agree_byte_for_byte(first_run: Any, artifacts: dict[str, Path], tmp_path: Path) -> None:
    again = pipeline("run", RECIPE, cwd=tmp_path)
    assert [s["fingerprint"] for s in again["stages"]] == [s["fingerprint"] for s in first_run["stages"]]
    mix = next(Path(stage["uri"]) for stage in again["stages"] if stage["name"] == "mix")
    for name in ("data.jsonl", "llava_mix.json", "index.parquet"):
        assert (mix / name).read_bytes() == (artifacts["mix"] / name).read_bytes()
    finetune = next(Path(stage["uri"]) for stage in again["stages"] if stage["name"] == "finetune")
    assert _largest_difference(finetune / "model", artifacts["finetune"] / "model") <= 1e-5


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("stage", ["download", "synthesize", "finetune"])
def test_a_killed_run_ends_as_an_undisturbed_one(
    stage: str, seed: int, first_run: Any, artifacts: dict[str, Path], tmp_path: Path
) -> None:
    names = [row["name"] for row in first_run["stages"]]
    before, after = names[: names.index(stage)], names[names.index(stage) :]
    _copy_store(artifacts, before, tmp_path)
    undisturbed = next(row for row in first_run["stages"] if row["name"] == stage)
    work = tmp_path / ".llavaflow" / "scratch" / undisturbed["fingerprint"] / "work"
    # a kill that comes late finds a short stage done
    at_most_s = min(3.0, undisturbed["seconds"] / 4)
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command("run", RECIPE), cwd=tmp_path, start_new_session=True, **silent) as process:
        while process.poll() is None and not _has_file(work):
            time.sleep(0.05)
        time.sleep(random.Random(f"{stage}/{seed}").uniform(0, at_most_s))
        assert process.poll() is None, "the run ended before it could be killed"
        os.killpg(process.pid, signal.SIGKILL)
    assert _alive_in(tmp_path) == []

    again = pipeline("run", RECIPE, cwd=tmp_path)
    states = {row["name"]: row["state"] for row in again["stages"]}
    assert states == dict.fromkeys(before, "found") | dict.fromkeys(after, "built")
    finetune = next(Path(row["uri"]) for row in again["stages"] if row["name"] == "finetune")
    assert _largest_difference(finetune / "model", artifacts["finetune"] / "model") <= 1e-5


def _copy_store(artifacts: dict[str, Path], stages: list[str], home: Path) -> None:
    """The finished stages of the first run, in the store of a new folder."""
    for name in stages:
        source = artifacts[name]
        shutil.copytree(source, home / ".llavaflow" / source.parent.name / source.name)


def _has_file(folder: Path) -> bool:
    return folder.is_dir() and any(path.is_file() and path.stat().st_size for path in folder.rglob("*"))


def _alive_in(folder: Path, wait_s: float = 20) -> list[str]:
    """Processes that still work in a run's folder; Ray's daemons need a moment to see that their driver is gone."""
    until = time.monotonic() + wait_s
    while True:
        alive = [" ".join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline", "cwd"]) if _in(p, folder)]
        if not alive or time.monotonic() > until:
            return alive
        time.sleep(0.5)


def _in(process: psutil.Process, folder: Path) -> bool:
    return bool(process.info["cwd"]) and Path(process.info["cwd"]).is_relative_to(folder)


def _largest_difference(one: Path, other: Path) -> float:
    from safetensors.torch import load_file

    left, right = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert left.keys() == right.keys()
    return max(float((left[name] - right[name]).abs().max()) for name in left)
