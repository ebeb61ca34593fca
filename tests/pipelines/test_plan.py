"""`pipeline plan`: the contract, the batch split on any machine, and the speed."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, replace
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
    "grad_accum", "cost_usd", "requests", "tokens", "images", "fetch_bytes", "expected_loss", "store_bytes", "note",
    "basis",
}  # fmt: skip


def test_the_document_has_the_fields_of_the_contract(pipeline: Command, toy: Recipe, store: ArtifactStore) -> None:
    make(toy, store, stage="scale")
    told = pipeline("plan", TOY, "--json", "--set", "draw.seed=1")
    assert told.code == 0
    assert set(told.json) == {"recipe", "machine", "stages", "total", "prices"}
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


@dataclass(frozen=True)
class Work:
    """What a split asks of a training."""

    global_batch: int = 128
    max_length: int = 2048
    batching: str = "grouped"


@pytest.mark.parametrize("ranks", [1, 2, 4, 8, 16, 32, 64, 128])
@pytest.mark.parametrize("tokens", ["", "@2048", "@100"])
def test_the_global_batch_is_kept_for_any_number_of_devices(ranks: int, tokens: str) -> None:
    split = split_batch(Work(), parse(f"a100-80g:1x{ranks}{tokens}"))
    assert split.per_device and split.accumulation and not split.problem
    assert split.per_device * split.accumulation * ranks == 128
    assert split.per_device * 2048 <= (2048 if tokens else 10240)


def test_an_impossible_number_of_devices_says_so_and_names_possible_ones() -> None:
    uneven = split_batch(Work(), parse("h100:1x7"))
    assert uneven.accumulation is None and "4 or 8 devices do" in uneven.problem
    many = split_batch(Work(batching="packed"), parse("h100:32x8"))
    assert many.accumulation is None and "cannot share" in many.problem
    packed = split_batch(Work(batching="packed"), parse("h100:1x7@10240"))
    assert packed.accumulation == 4 and packed.per_device is None and "dealt by tokens" in packed.problem


def test_a_plan_past_the_limit_refuses_to_start() -> None:
    row = PlanRow(name="finetune", fingerprint="f", status="missing", why="", hours=10, cost_usd=120.0)
    plan = Plan(recipe="toy", machine=parse("h100"), rows=(row,))
    refuse_past_budget(plan, 120.0)
    refuse_past_budget(plan, None)
    with pytest.raises(InputError, match="past the limit of 100.00 USD"):
        refuse_past_budget(plan, 100.0)


def test_a_limit_is_not_held_where_a_price_is_not_known() -> None:
    row = PlanRow(name="finetune", fingerprint="f", status="missing", why="", hours=10, global_batch=128)
    with pytest.raises(InputError, match=r"what finetune costs on a6000:1x8 is not known.*usd_per_gpu_hour"):
        refuse_past_budget(Plan(recipe="toy", machine=parse("a6000"), rows=(row,)), 100.0)
    refuse_past_budget(Plan(recipe="toy", machine=parse("cpu"), rows=(row,)), 100.0)


@pytest.mark.parametrize(("limit", "starts"), [(5000.0, False), (7000.0, True)])
def test_the_limit_counts_gpus_and_requests_together(pipeline: Command, limit: float, starts: bool) -> None:
    arguments = ("llava15", "--machine", "a100-80g", "--max-usd", str(limit))
    budget = pipeline("plan", *arguments, "--json").json["budget"]
    assert budget["starts"] == starts and ("past the limit" in budget["why"]) != starts
    told = pipeline("run", *arguments)
    # with enough money, what stops the run is that its data is not there
    assert told.code == 2 and ("past the limit" in told.err) != starts
    assert all(part in told.err for part in ("synthesize", "pretrain", "finetune")) or starts


def test_images_bytes_and_losses_are_told(pipeline: Command, tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow.parquet import write_table

    plan = pipeline("plan", "llava15", "--machine", "a100-80g", "--json").json
    rows = {row["name"]: row for row in plan["stages"]}
    assert rows["download"]["images"] == 558_128 and rows["download"]["expected_loss"] == 0.28
    assert 15e9 < rows["download"]["fetch_bytes"] < 25e9 and "issues 34, 165" in rows["download"]["basis"]
    assert rows["mix"]["images"] < 624_610 and 40e9 < rows["mix"]["store_bytes"] < 60e9
    assert rows["finetune"]["store_bytes"] == pytest.approx(2 * 7.06e9, rel=0.02)
    assert rows["publish"]["store_bytes"] == pytest.approx(rows["finetune"]["store_bytes"], rel=0.01)
    total = plan["total"]
    assert total["store_bytes"] == sum(row["store_bytes"] or 0 for row in plan["stages"])
    assert total["fetch_bytes"] == rows["download"]["fetch_bytes"]
    assert total["s3_usd_per_month"] == pytest.approx(total["store_bytes"] / 1e9 * 0.023, abs=0.01)
    write_table(pa.table({"URL": ["http://a.test/1", "http://a.test/2"], "TEXT": ["a", "b"]}), tmp_path / "u.parquet")
    told = pipeline(
        "plan", "llava15", "--stage", "download", "--set", f"download.urls={tmp_path / 'u.parquet'}", "--json"
    )
    assert told.json["stages"][0]["images"] == 2
    toy = pipeline("plan", "llava15-tiny", "--json").json
    assert toy["total"]["fetch_bytes"] == 0 and toy["total"]["store_bytes"] < 50e6, "a toy's pictures are no archive"
    from_hub = pipeline("plan", "finetune-task", "--from-zoo", "llava-v1.5-7b", "--machine", "h100", "--json").json
    assert from_hub["stages"][0]["fetch_bytes"] == pytest.approx(13.5e9, rel=0.01)


def test_paid_requests_are_counted_and_priced() -> None:
    asked = Synthesize(
        data=Path("coco"), model="gpt-4", conversation=1000, detail=0, complex=500, input_usd=30.0, output_usd=60.0
    )
    found = estimate_requests(asked)
    assert found and found.requests == 1500 and found.usd
    assert found.usd == pytest.approx((found.input_tokens * 30 + found.output_tokens * 60) / 1e6, abs=0.01)
    halved = estimate_requests(replace(asked, batch=True))
    assert halved and halved.usd == pytest.approx(found.usd / 2, abs=0.01)
    assert estimate_requests(replace(asked, input_usd=0.0, output_usd=0.0)) == found, "the table's price of gpt-4"
    assert estimate_requests(replace(asked, model="gpt-4-0314", input_usd=0.0, output_usd=0.0)) == found
    unpriced = replace(asked, model="somebody-elses", input_usd=0.0, output_usd=0.0)
    counted_later = replace(asked, detail=None)
    assert estimate_requests(counted_later) is None
    told = estimate_requests(unpriced)
    assert told and not told.told and found.told.endswith("with batch=true") and "batch=false" in halved.told
    assert told.usd is None, "a price that nobody stated is not zero"


def test_reviews_of_a_paid_judge_are_counted_and_priced(pipeline: Command) -> None:
    settings = ("evaluate.review.model=gpt-4", "evaluate.review.runs=3", "evaluate.review.benchmarks=llava-bench-wild")
    sets = [word for setting in settings for word in ("--set", setting)]
    row = pipeline("plan", "llava15", "--json", *sets).json["stages"][-2]
    assert row["name"] == "evaluate" and row["requests"] == 180
    assert row["cost_usd"] == pytest.approx(180 * (500 * 30 + 125 * 60) / 1e6, abs=0.01)


def test_a_sum_names_the_trainings_that_it_leaves_out(pipeline: Command) -> None:
    def total(*machine: str) -> str:
        return next(line for line in pipeline("plan", "llava15", *machine).out.splitlines() if line.startswith("total"))

    assert "USD without pretrain, finetune, whose cost is not known" in total("--machine", "v100-32g")
    assert "USD; not known for" in total("--machine", "h100")


@pytest.mark.parametrize("limit", ["nan", "inf", "-1", "much"])
@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_limit_that_is_no_amount_is_refused(pipeline: Command, command: str, limit: str) -> None:
    told = pipeline(command, TOY, "--max-usd", limit, "--json")
    assert told.code == 2 and "--max-usd" in told.err


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


def test_a_run_refuses_questions_that_nobody_brings_before_any_work(pipeline: Command, tmp_path: Path) -> None:
    told = pipeline("run", "evaluate-checkpoint", "--set", "evaluate.benchmarks=okvqa",
                    "--set", f"evaluate.model.path={tmp_path}", "--set", f"questions.folder={tmp_path}")  # fmt: skip
    assert told.code == 2 and "evaluate asks okvqa" in told.err
    assert "--set questions.benchmarks=" in told.err and not list((tmp_path / "store").rglob("record.json"))


def test_what_is_not_estimated_says_why(pipeline: Command) -> None:
    rows = {row["name"]: row for row in pipeline("plan", "llava15", "--machine", "h100", "--json").json["stages"]}
    assert rows["download"]["hours"] is None and "hours not estimated" in rows["download"]["note"]
    told = pipeline("plan", "conv-llava-768", "--machine", "h100", "--json").json["stages"]
    stages = {row["name"]: row for row in told}
    assert stages["pretrain"]["hours"] and "lengths: estimated" in stages["pretrain"]["note"]


@pytest.mark.parametrize("precision", ["bf16", "fp16", "float32"])
def test_a_chip_without_bf16_is_estimated_as_it_can_run(pipeline: Command, precision: str) -> None:
    arguments = ("llava15", "--stage", "pretrain", "--set", f"pretrain.precision={precision}", "--json")
    told, newer = (
        pipeline("plan", *arguments, "--machine", name).json["stages"][-1] for name in ("v100-32g", "a100-80g")
    )
    assert ("no bf16: estimated in fp16" in told["note"]) == (precision == "bf16") and "bf16" not in newer["note"]
    assert (told["hours"] > 40) == (precision == "float32")
