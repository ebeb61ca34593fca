"""`pipeline plan`: the contract, the batch split on any machine, and the speed."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from llavaflow.infra.errors import InputError
from llavaflow.infra.machine import Machine, parse
from llavaflow.infra.store import ArtifactStore
from llavaflow.pipelines._batch import split_batch
from llavaflow.pipelines._plan import Plan, PlanRow, make_plan, refuse_past_budget
from llavaflow.pipelines._recipe import Recipe
from llavaflow.pipelines._requests import estimate_requests
from llavaflow.stages.synthesize import Synthesize
from llavaflow.tests.pipelines.conftest import TOY, Command
from llavaflow.tests.pipelines.runs import make

FIELDS = {
    "name", "fingerprint", "status", "why", "hours", "gpu_memory_gib", "fits", "global_batch", "per_device_batch",
    "grad_accum", "cost_usd", "requests", "tokens", "note",
}  # fmt: skip


def test_the_document_has_the_fields_of_the_contract(pipeline: Command, toy: Recipe, store: ArtifactStore) -> None:
    make(toy, store, stage="scale")
    told = pipeline("plan", TOY, "--json", "--set", "draw.seed=1")
    assert told.code == 0
    assert set(told.json) == {"recipe", "machine", "stages", "total"}
    assert {"hours", "cost_usd"} <= set(told.json["total"])
    rows = {row["name"]: row for row in told.json["stages"]}
    assert all(set(row) == FIELDS for row in rows.values())
    assert rows["draw"]["status"] == "stale" and "seed 0 -> 1" in rows["draw"]["why"]
    assert rows["learn"]["status"] == "missing" and "never built" in rows["learn"]["why"]


def test_what_is_built_costs_nothing_and_the_rest_what_it_took_last_time(toy: Recipe, store: ArtifactStore) -> None:
    make(toy, store)
    built = make_plan(toy, store, Machine(kind="cpu"))
    assert [row.hours for row in built.rows] == [0.0] * 4 and built.cost_usd == 0.0
    changed = make_plan(toy.replace({"learn": {"learning_rate": 0.3}}), store, Machine(kind="cpu"))
    assert changed.rows[2].hours is not None and "last time" in changed.rows[2].note
    assert make_plan(toy, store, parse("h100"), stage="scale").rows[-1].name == "scale"


@pytest.mark.parametrize("ranks", [1, 2, 4, 8, 16, 32, 64, 128])
def test_the_global_batch_is_kept_for_any_number_of_devices(ranks: int) -> None:
    machine = parse(f"a100-80g:1x{ranks}")
    split = split_batch(128, machine, max_length=2048, row_tokens=10240, batching="grouped")
    assert split.per_device and split.accumulation and not split.problem
    assert split.per_device * split.accumulation * ranks == 128
    assert split.per_device * 2048 <= 10240


def test_an_impossible_number_of_devices_says_so_and_names_possible_ones() -> None:
    uneven = split_batch(128, parse("h100:1x7"), max_length=2048, row_tokens=10240, batching="grouped")
    assert uneven.accumulation is None and "4 or 8 devices do" in uneven.problem
    many = split_batch(128, parse("h100:32x8"), max_length=2048, row_tokens=10240, batching="packed")
    assert many.accumulation is None and "cannot share" in many.problem
    packed = split_batch(128, parse("h100:1x7"), max_length=2048, row_tokens=10240, batching="packed")
    assert packed.accumulation == 4 and packed.per_device is None and "dealt by tokens" in packed.problem


def test_a_plan_past_the_limit_refuses_to_start() -> None:
    row = PlanRow(name="finetune", fingerprint="f", status="missing", why="", hours=10, cost_usd=120.0)
    plan = Plan(recipe="toy", machine=parse("h100"), rows=(row,))
    refuse_past_budget(plan, 120.0)
    with pytest.raises(InputError, match="past the limit of 100.00 USD"):
        refuse_past_budget(plan, 100.0)


def test_paid_requests_are_counted_and_priced() -> None:
    asked = Synthesize(
        data=Path("coco"), model="gpt-4", conversation=1000, detail=0, complex=500, input_usd=30.0, output_usd=60.0
    )
    found = estimate_requests(asked)
    assert found and found.requests == 1500 and found.usd
    assert found.usd == pytest.approx((found.input_tokens * 30 + found.output_tokens * 60) / 1e6, abs=0.01)
    halved = estimate_requests(replace(asked, batch=True))
    assert halved and halved.usd == pytest.approx(found.usd / 2, abs=0.01)
    unpriced, counted_later = replace(asked, input_usd=0.0, output_usd=0.0), replace(asked, detail=None)
    assert estimate_requests(counted_later) is None
    told = estimate_requests(unpriced)
    assert told and told.usd is None, "a price that nobody stated is not zero"


def test_a_plan_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; from llavaflow.pipelines._cli.main import main;"
        "code = main(['plan', 'llava15-tiny', '--json']);"
        "heavy = {'prefect', 'ray', 'torch', 'transformers'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_run_refuses_a_batch_that_cannot_be_kept_before_any_work(pipeline: Command, tmp_path: Path) -> None:
    rows = tmp_path / "rows.json"
    rows.write_text("[]")
    told = pipeline(
        "run", "finetune-task", "--machine", "h100:1x7", "--set", f"data.file={rows}",
        "--set", "base.hub=liuhaotian/llava-v1.5-7b", "--set", "finetune.batching=padded",
    )  # fmt: skip
    assert told.code == 2
    assert "finetune cannot run on h100:1x7" in told.err and "4 or 8 devices do" in told.err
    assert not list((tmp_path / "store").rglob("record.json"))


def test_what_is_not_estimated_says_why(pipeline: Command) -> None:
    rows = {row["name"]: row for row in pipeline("plan", "llava15", "--machine", "h100", "--json").json["stages"]}
    assert rows["download"]["hours"] is None and "hours not estimated" in rows["download"]["note"]
    told = pipeline("plan", "conv-llava-768", "--machine", "h100", "--json").json["stages"]
    stages = {row["name"]: row for row in told}
    assert stages["pretrain"]["hours"] and "lengths: estimated" in stages["pretrain"]["note"]


@pytest.mark.parametrize("name", ["v100-32g", "a100-80g"])
def test_a_chip_without_bf16_is_estimated_as_it_would_run(pipeline: Command, name: str) -> None:
    told = pipeline("plan", "llava15", "--machine", name, "--stage", "pretrain", "--json").json["stages"][-1]
    assert ("no bf16" in told["note"]) == (name == "v100-32g")
