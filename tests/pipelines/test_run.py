"""Runs without an orchestrator: what is found, what is made, what a failure leaves behind."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llavaflow.infra.errors import InputError
from llavaflow.infra.store import ArtifactStore, open_store
from llavaflow.pipelines._recipe import Recipe
from llavaflow.pipelines._settings import apply_settings
from llavaflow.tests.pipelines.runs import make, states

BUILT = dict.fromkeys(("draw", "scale", "learn", "score"), "built")


def test_the_second_run_finds_everything(toy: Recipe, store: ArtifactStore) -> None:
    first, second = make(toy, store), make(toy, store)
    assert states(first) == BUILT and first.state == "completed"
    assert set(states(second).values()) == {"found"}
    assert second.all_found


def test_a_changed_setting_rebuilds_what_follows_and_nothing_before(toy: Recipe, store: ArtifactStore) -> None:
    make(toy, store)
    changed = make(apply_settings(toy, ["learn.learning_rate=1e-3"]), store)
    assert states(changed) == {"draw": "found", "scale": "found", "learn": "built", "score": "built"}


def test_stage_makes_what_it_needs_and_nothing_after(toy: Recipe, store: ArtifactStore) -> None:
    assert states(make(toy, store, stage="scale")) == {"draw": "built", "scale": "built"}


def test_only_is_refused_while_an_input_is_missing(toy: Recipe, store: ArtifactStore) -> None:
    with pytest.raises(InputError, match="needs scale.*--stage learn"):
        make(toy, store, only="learn")
    make(toy, store, stage="scale")
    assert states(make(toy, store, only="learn")) == {"learn": "built"}


def test_refresh_makes_a_new_generation_and_what_follows(toy: Recipe, store: ArtifactStore) -> None:
    first = make(toy, store)
    refreshed = make(toy, store, refresh=["draw"])
    assert states(refreshed) == BUILT
    artifact = refreshed.rows["draw"].artifact
    assert artifact and artifact.generation == 1
    assert refreshed.rows["draw"].fingerprint != first.rows["draw"].fingerprint
    assert set(states(make(toy, store)).values()) == {"found"}, "a plain run stays with the newest generation"


def test_refresh_of_a_stage_outside_the_run_is_refused(toy: Recipe, store: ArtifactStore) -> None:
    with pytest.raises(InputError, match="cannot refresh learn"):
        make(toy, store, stage="scale", refresh=["learn"])


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("gate", "loss is not a number"),
        ("bug", "ZeroDivisionError"),
        ("disk", "disk is full at .*model.*free some space"),
    ],
)
def test_a_failure_keeps_what_was_built_and_skips_the_rest(
    toy: Recipe, store: ArtifactStore, how: str, told: str
) -> None:
    run = make(apply_settings(toy, [f"learn.fail={how}"]), store)
    assert states(run) == {"draw": "built", "scale": "built", "learn": "failed", "score": "skipped"}
    assert run.failed and run.failed.exit_code == 1 and run.state == "failed"
    assert re.search(told, run.failed.why)
    assert states(make(toy, store))["scale"] == "found"


def test_another_recipe_finds_what_this_one_built_and_names_it(toy: Recipe, store: ArtifactStore) -> None:
    make(toy, store)
    other = Recipe(name="other", stages=toy.stages)
    assert set(states(make(other, store)).values()) == {"found"}
    assert store.history("other", "learn")[0].fingerprint == store.history("toy", "learn")[0].fingerprint


def test_a_run_on_s3_finds_what_another_machine_built(
    toy: Recipe, s3_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert states(make(toy, open_store(s3_url))) == BUILT
    monkeypatch.setenv("LLAVAFLOW_CACHE", str(tmp_path / "elsewhere"))
    again = make(toy.replace({"learn": {"learning_rate": 0.2}}), open_store(s3_url))
    assert states(again) == {"draw": "found", "scale": "found", "learn": "built", "score": "built"}
    assert again.rows["learn"].as_json()["uri"].startswith("s3://")


def test_two_runs_on_one_store_make_each_stage_once(toy: Recipe, store: ArtifactStore) -> None:
    slow = toy.replace({"draw": {"sleep_s": 0.5}})
    with ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(lambda _: make(slow, open_store(store.url)), range(2)))
    made = [name for run in runs for name, state in states(run).items() if state == "built"]
    assert sorted(made) == sorted(BUILT)
    assert {run.state for run in runs} == {"completed"}
