"""The engine starts on a machine that has no compiler, and a warm-up leaves something to learn with."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llavaflow.models.engine import warmup_steps

START = """
import sys
import torch
from llavaflow.models.engine import Optimization, engine_config, start, step

torch.distributed.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=0, world_size=1)


class Objective(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.lm_head = torch.nn.Linear(2, 1)

    def forward(self, inputs):
        return self.lm_head(inputs).sum()


engine = start(Objective(), Optimization(learning_rate=1e-3), engine_config(int(sys.argv[2]), "none", "fp32", 1.0))
loss = step(engine, [{"inputs": torch.ones(1, 2)}], [1.0])
print(float(engine.get_global_grad_norm()), loss)
"""


@pytest.mark.parametrize("zero", [0, 2, 3])
def test_it_starts_without_a_compiler_and_knows_the_norm_of_its_gradient(zero: int, tmp_path: Path) -> None:
    built = tmp_path / "extensions"
    environment = {
        **os.environ,
        # the interpreter's folder only: no compiler in reach
        "PATH": str(Path(sys.executable).parent),
        "TORCH_EXTENSIONS_DIR": str(built),
        "LOCAL_RANK": "0",
        "DS_ACCELERATOR": "cpu",
    }
    command = [sys.executable, "-c", START, str(tmp_path / "meeting"), str(zero)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    norm, loss = map(float, done.stdout.split()[-2:])
    # of two weights and a bias, each with the gradient 1
    assert loss != 0 and norm == pytest.approx(3**0.5, rel=1e-5)
    assert not list(built.rglob("*"))


@pytest.mark.parametrize(
    ("steps", "ratio", "expected"), [(5197, 0.03, 156), (100, 0.03, 3), (2, 0.03, 1), (1, 0.03, 0)]
)
def test_the_warm_up_is_a_share_of_the_steps_but_never_all_of_them(steps: int, ratio: float, expected: int) -> None:
    assert warmup_steps(steps, ratio) == expected
