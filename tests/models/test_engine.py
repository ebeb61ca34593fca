"""The engine starts on a machine that has no compiler, and a warm-up leaves something to learn with."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llavaflow import infra
from llavaflow.infra.errors import InputError
from llavaflow.models import engine
from llavaflow.models.engine import Offload, engine_config, warmup_steps

START = """
import sys
import torch
from deepspeed.accelerator import get_accelerator
from llavaflow.infra.errors import StageFailed
from llavaflow.models.engine import Optimization, engine_config, start, step

torch.distributed.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=0, world_size=1)


class Objective(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.lm_head = torch.nn.Linear(2, 1)

    def forward(self, inputs):
        return self.lm_head(inputs.to(self.lm_head.weight.dtype)).float().sum()


# torch can, DeepSpeed asks for a processor that does it well
get_accelerator().is_fp16_supported = lambda: True
zero, precision = int(sys.argv[2]), sys.argv[3]
settings = engine_config(zero, "none", precision, 1.0)
engine = start(Objective(), Optimization(learning_rate=1e-3, warmup_ratio=0.0, steps=50), settings)
if precision == "fp16":
    # 2^16 times a gradient of 1 is more than fp16 holds
    print(*[(step(engine, [{"inputs": torch.ones(1, 2)}], [1.0]), engine.skipped_steps)[1] for _ in range(4)])
    print(float(engine.get_global_grad_norm()))
    try:
        for _ in range(50):
            step(engine, [{"inputs": torch.ones(1, 2)}], [1e6])
    except StageFailed as error:
        print(error)
    sys.exit()
loss = step(engine, [{"inputs": torch.ones(1, 2)}], [1.0])
print(float(engine.get_global_grad_norm()), loss)
"""


def started(folder: Path, zero: int, precision: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", START, str(folder / "meeting"), str(zero), precision]
    environment = {**os.environ, "LOCAL_RANK": "0", "DS_ACCELERATOR": "cpu", **environment}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done


@pytest.mark.parametrize("zero", [0, 2, 3])
def test_it_starts_without_a_compiler_and_knows_the_norm_of_its_gradient(zero: int, tmp_path: Path) -> None:
    built = tmp_path / "extensions"
    # the interpreter's folder only: no compiler in reach
    here = {"PATH": str(Path(sys.executable).parent), "TORCH_EXTENSIONS_DIR": str(built)}
    done = started(tmp_path, zero, "float32", **here)
    norm, loss = map(float, done.stdout.split()[-2:])
    # of two weights and a bias, each with the gradient 1
    assert loss != 0 and norm == pytest.approx(3**0.5, rel=1e-5)
    assert not list(built.rglob("*"))


@pytest.mark.parametrize("zero", [1, 2, 3])
def test_fp16_leaves_out_what_overflows_and_gives_up_when_all_does(zero: int, tmp_path: Path) -> None:
    skipped, norm, said = started(tmp_path, zero, "fp16").stdout.strip().splitlines()[-3:]
    # the first overflow is forgiven, the second halves the scale, and then it fits
    assert skipped == "1 2 2 2"
    assert float(norm) == pytest.approx(3**0.5, rel=1e-2)
    assert said.startswith("the gradients overflow fp16 at the smallest loss scale.")


@pytest.mark.parametrize(
    ("steps", "ratio", "expected"), [(5197, 0.03, 156), (100, 0.03, 3), (2, 0.03, 1), (1, 0.03, 0)]
)
def test_the_warm_up_is_a_share_of_the_steps_but_never_all_of_them(steps: int, ratio: float, expected: int) -> None:
    assert warmup_steps(steps, ratio) == expected


def test_the_shipped_settings_hold_nothing_that_is_the_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Upstream's zero3_offload.json held a scheduler, which silently took the place of the recipe's."""
    shipped = sorted((Path(infra.__path__[0]) / "deepspeed").glob("*.json"))
    assert len(shipped) == 6
    for path in shipped:
        number = path.stem[4]
        offload: Offload = "cpu" if path.stem.endswith("offload") else "none"
        assert not set(engine_config(int(number), offload, "bf16", 1.0)) & {"optimizer", "scheduler"}
    monkeypatch.setattr(engine, "files", lambda package: tmp_path)
    (tmp_path / "deepspeed").mkdir()
    (tmp_path / "deepspeed" / "zero2.json").write_text('{"scheduler": {"type": "WarmupLR"}}', "utf-8")
    with pytest.raises(InputError, match="belong to the recipe"):
        engine_config(2, "none", "bf16", 1.0)
    with pytest.raises(InputError, match="offload exists for ZeRO 2 and 3"):
        engine_config(0, "cpu", "bf16", 1.0)
