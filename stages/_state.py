"""Training state on disk: DeepSpeed's shards, made visible by one rename, listed with their digests.

Every worker writes its shard into a hidden folder; then the manifest, with the step (which is the whole data cursor)
and the sha256 of every file, and the rename. A kill at any moment leaves the last complete state or the next one.
Random state needs no file: every step seeds the generators from (seed, step, worker).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llavaflow.infra.errors import StageFailed
from llavaflow.infra.fingerprint import sha256_file

FOLDER = "checkpoints"
MANIFEST = "manifest.json"
TAG = "state"
UNIVERSAL = "universal"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A complete training state: the step that comes next, who wrote it, and its files with their sha256."""

    step: int
    workers: int
    zero: int
    files: dict[str, str]


def newest(work: Path) -> tuple[Path, Manifest] | None:
    """The latest complete state under a work folder."""
    found = sorted(path.parent for path in (work / FOLDER).glob(f"step-*/{MANIFEST}"))
    if not found:
        return None
    return found[-1], Manifest(**json.loads((found[-1] / MANIFEST).read_text("utf-8")))


def save(engine: Any, work: Path, *, step: int, zero: int) -> None:
    """Write the state that resumes at `step`; every worker calls it. The older state goes once the new one is whole."""
    import torch.distributed as distributed

    rank, workers = distributed.get_rank(), distributed.get_world_size()
    hidden, final = work / FOLDER / f".step-{step:08d}", work / FOLDER / f"step-{step:08d}"
    if rank == 0:
        shutil.rmtree(hidden, ignore_errors=True)
        hidden.mkdir(parents=True)
    distributed.barrier()
    engine.save_checkpoint(str(hidden), tag=TAG, save_latest=False, exclude_frozen_parameters=True)
    distributed.barrier()
    files = _agree(_digests(hidden, rank, workers))
    if rank == 0:
        manifest = Manifest(step=step, workers=workers, zero=zero, files=files)
        (hidden / MANIFEST).write_text(json.dumps(asdict(manifest)), "utf-8")
        _replace(hidden, final)
    distributed.barrier()


def load(engine: Any, folder: Path, manifest: Manifest) -> None:
    """Check every file against the manifest, then load optimizer, schedule and trained weights.

    A state of another number of workers is brought into DeepSpeed's universal form first; the engine must have been
    started with `universal_settings`.
    """
    import torch.distributed as distributed

    rank, workers = distributed.get_rank(), distributed.get_world_size()
    seen = _agree(_digests(folder, rank, workers))
    damaged = sorted(name for name, digest in manifest.files.items() if seen.get(name) != digest)
    if damaged:
        raise StageFailed(
            f"training state {folder} is damaged: {', '.join(damaged[:3])} differ from its manifest. "
            "Remove that folder; training then starts from the beginning."
        )
    tag = TAG
    if manifest.workers != workers:
        tag = UNIVERSAL
        trouble = _agree({"": _to_universal(folder)} if rank == 0 else {})[""]
        if trouble:
            raise StageFailed(
                f"training state {folder} was written by another number of workers and DeepSpeed cannot convert it: "
                f"{trouble}. Resume with the machine that wrote it."
            )
    settings = [dict(group) for group in engine.optimizer.param_groups]
    engine.load_checkpoint(str(folder), tag=tag, load_module_strict=False)
    if tag == UNIVERSAL and manifest.zero == 3:
        _repair(engine, settings)


def _repair(engine: Any, settings: list[dict[str, Any]]) -> None:
    """Give every group its own settings and step counter again.

    DeepSpeed 0.19 loads a universal ZeRO-3 state with the settings of the first group for all of them, and with one
    counter shared by all parameters, which each of them then advances: the bias correction of Adam runs away.
    """
    import torch

    optimizer = engine.optimizer.optimizer
    rates = engine.lr_scheduler.get_last_lr()
    for group, own, rate in zip(optimizer.param_groups, settings, rates, strict=True):
        group.update({name: value for name, value in own.items() if name != "params"}, lr=rate)
    for state in optimizer.state.values():
        if isinstance(state.get("step"), torch.Tensor):
            state["step"] = state["step"].clone()


def universal_settings(manifest: Manifest, workers: int) -> dict[str, Any]:
    """What DeepSpeed's configuration needs to load this state with this number of workers."""
    return {"checkpoint": {"load_universal": True}} if manifest.workers != workers else {}


def _to_universal(folder: Path) -> str:
    """One file per parameter and optimizer moment, by DeepSpeed's own script, in a process of its own.

    Returns the last line of what went wrong, or nothing.
    """
    shutil.rmtree(folder / UNIVERSAL, ignore_errors=True)
    command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state"]
    command += ["--input_folder", str(folder / TAG), "--output_folder", str(folder / UNIVERSAL)]
    done = subprocess.run(
        [*command, "--num_extract_workers", "1", "--num_merge_workers", "1"], capture_output=True, text=True
    )
    return (done.stderr.strip().splitlines() or ["no message"])[-1] if done.returncode else ""


def _digests(folder: Path, rank: int, workers: int) -> dict[str, str]:
    """This worker's share of the digests: hashing 100 GB on one core would take minutes."""
    files = sorted(path for path in (folder / TAG).rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): sha256_file(path) for path in files[rank::workers]}


def _agree(mine: dict[str, str]) -> dict[str, str]:
    import torch.distributed as distributed

    all_: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(all_, mine)
    return {name: digest for part in all_ for name, digest in part.items()}


def _replace(hidden: Path, final: Path) -> None:
    shutil.rmtree(final, ignore_errors=True)
    os.replace(hidden, final)
    for folder in final.parent.iterdir():
        if folder != final:
            shutil.rmtree(folder, ignore_errors=True)
