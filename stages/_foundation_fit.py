"""One way to train the three tiny models: fixed steps, batches decided by their step, checkpoints that survive a kill.

A part that was killed goes on from its last checkpoint and ends with the weights of a run without the kill: batches
depend on the step alone and the models draw no random numbers while they train.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

CHECKPOINT_EVERY = 50
_WARM_STEPS = 20
Report = Callable[[int, str], None]


class Part(Protocol):
    """A model in training."""

    steps: int
    learning_rate: float

    @property
    def model(self) -> torch.nn.Module: ...

    def loss(self, step: int) -> torch.Tensor: ...

    def save(self, folder: Path) -> None: ...

    def measure(self) -> dict[str, Any]: ...


def fit(name: str, build: Callable[[], Part], seed: int, out: Path, work: Path, report: Report) -> dict[str, Any]:
    """Train a part to the end, save it under `out/name`, and return its measures. A finished part is not redone."""
    import torch

    done = work / f"{name}.json"
    if done.exists():
        measured: dict[str, Any] = json.loads(done.read_text())
        return measured
    torch.manual_seed(seed)
    part = build()
    loss = _train(part, work / f"{name}.pt", report)
    part.model.eval()
    measured = {"loss": round(loss, 4), **part.measure()}
    part.save(out / name)
    _write(done, json.dumps(measured).encode())
    (work / f"{name}.pt").unlink(missing_ok=True)
    return measured


def _train(part: Part, checkpoint: Path, report: Report) -> float:
    import torch

    parameters = [parameter for parameter in part.model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=part.learning_rate, weight_decay=0.01, betas=(0.9, 0.98))
    first, smooth = _resume(part, optimizer, checkpoint)
    part.model.train()
    for step in range(first, part.steps):
        for group in optimizer.param_groups:
            group["lr"] = part.learning_rate * _schedule(step, part.steps)
        loss = part.loss(step)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        smooth = loss.item() if step == 0 else 0.95 * smooth + 0.05 * loss.item()
        report(step + 1, f"loss {smooth:.3f}")
        if (step + 1) % CHECKPOINT_EVERY == 0:
            _save(part, optimizer, checkpoint, step + 1, smooth)
    return smooth


def _schedule(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine to a fiftieth."""
    warm = min(1.0, (step + 1) / _WARM_STEPS)
    return warm * max(0.02, 0.5 * (1 + math.cos(math.pi * step / steps)))


def _save(part: Part, optimizer: Any, path: Path, step: int, loss: float) -> None:
    import torch

    state = {"model": part.model.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "loss": loss}
    scratch = path.with_suffix(".tmp")
    torch.save(state, scratch)
    scratch.replace(path)


def _resume(part: Part, optimizer: Any, path: Path) -> tuple[int, float]:
    """The step to go on with. The file is this stage's own scratch, so its weights are loaded as tensors only."""
    import torch

    if not path.exists():
        return 0, 0.0
    state = torch.load(path, weights_only=True)
    part.model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"]), float(state["loss"])


def _write(path: Path, data: bytes) -> None:
    scratch = path.with_suffix(f".{os.getpid()}.tmp")
    scratch.write_bytes(data)
    scratch.replace(path)
