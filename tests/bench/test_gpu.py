"""The script of `make bench-gpu` on a CPU with a toy shape: it runs, counts right and needs nothing beside torch."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("gpu.py")


@pytest.fixture(scope="module")
def gpu() -> Any:
    spec = importlib.util.spec_from_file_location("gpu", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    # its dataclasses look their module up
    sys.modules["gpu"] = module
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module


def test_it_measures_both_ways(gpu: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gpu.main(["--shape", "tiny", "--steps", "1", "--warm", "0", "--out", str(tmp_path / "report.json")])
    report = json.loads((tmp_path / "report.json").read_text("utf-8"))
    packed, padded = report["ways"]
    assert packed["fill"] == 1.0 and padded["fill"] < 1.0
    assert packed["way"] == "packed" and packed["tokens_per_second"] > 0
    assert "attention sdpa" in report["kernels"]
    assert "| packed |" in capsys.readouterr().out


def test_operations_are_those_of_the_usual_rule(gpu: Any) -> None:
    """6 x parameters x tokens and the attention term; the head and the frozen tower counted apart."""
    shape, full = gpu.models.SHAPES["llava-1.5-7b"], gpu.models.REGIMES[0]
    text_only = gpu.models.flops(shape, full, [1000], images=0, learned=1000)
    assert text_only == pytest.approx(6 * 6.607e9 * 1000 + 32 * 6 * 1000**2 * 4096, rel=1e-3)
    # CLIP-L forward on 577 patches: about 0.35 TFLOP; projector: 6 x 21M x 576
    image = gpu.models.flops(shape, full, [1000], images=1, learned=1000) - text_only
    assert image == pytest.approx(0.35e12 + 6 * 20.97e6 * 576, rel=0.1)


def test_an_h200_takes_the_full_finetune_and_an_80_gib_card_the_lighter_states(gpu: Any) -> None:
    shape = gpu.models.SHAPES["llava-1.5-7b"]
    first = {memory: next(gpu.models.candidates(shape, memory, gpu.ROW_TOKENS)) for memory in (139, 79, 30)}
    assert first[139][0].name == "full finetune, AdamW on float32 master weights"
    assert first[79][0].name == "full finetune, AdamW with bf16 states"
    assert first[30][0].layers < 1
    assert list(gpu.models.candidates(shape, 8, gpu.ROW_TOKENS)) == []


def test_the_optimizer_in_pieces_is_adamw(gpu: Any) -> None:
    import torch

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
    twin = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
    twin.load_state_dict(model.state_dict())
    ours, theirs = (
        gpu.models.Optimizer(model, master=True),
        torch.optim.AdamW(twin.parameters(), lr=2e-5, weight_decay=0),
    )
    for _ in range(3):
        for one in (model, twin):
            one(torch.ones(3, 4)).square().sum().backward()
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
        ours.step()
        theirs.step()
        theirs.zero_grad()
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), twin.parameters(), strict=True))


@pytest.mark.slow
def test_neither_ray_nor_deepspeed_is_needed() -> None:
    code = (
        "import sys, runpy\nfor name in ('ray', 'deepspeed', 'prefect', 'boto3', 'webdataset', 'orjson', 'duckdb'):\n"
    )
    code += "    sys.modules[name] = None\nsys.argv = ['gpu.py', '--shape', 'tiny', '--steps', '1', '--warm', '0']\n"
    code += f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "packed over padded" in done.stdout
