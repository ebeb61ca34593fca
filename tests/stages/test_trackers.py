"""Trackers: refused when missing, written when there, and never the end of a training."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import pytest

from llavaflow.infra.errors import InputError
from llavaflow.stages import _trackers
from llavaflow.stages._trackers import Trackers, Tracking, parse


def tracking(folder: Path, *names: str) -> Tracking:
    return Tracking(names=names, run="f00d", title="toy/finetune", folder=folder, settings={"learning_rate": 1e-3})


def test_none_is_the_default_and_unknown_ones_are_refused() -> None:
    assert parse("") == ()
    with pytest.raises(InputError, match="unknown tracker 'wandbb'.*Did you mean wandb"):
        parse("wandbb")


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_an_absent_package_is_refused_before_anything_starts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_trackers, "find_spec", lambda module: None)
    with pytest.raises(InputError, match=rf"{name}, which is not installed. Run `pip install 'llavaflow\[{name}\]'`"):
        parse(name)


@pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed")
def test_wandb_writes_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    said: list[str] = []
    run = Trackers(tracking(tmp_path, *parse("wandb")), said.append)
    run.log(1, {"loss": 2.0})
    run.close()
    assert said == []
    assert [path.stat().st_size > 0 for path in tmp_path.glob("wandb/offline-run-*/run-f00d.wandb")] == [True]


@pytest.mark.skipif(find_spec("mlflow") is None, reason="mlflow is not installed")
def test_mlflow_goes_on_in_the_same_run(tmp_path: Path) -> None:
    import mlflow

    said: list[str] = []
    for step in (1, 2):
        run = Trackers(tracking(tmp_path, *parse("mlflow")), said.append)
        run.log(step, {"loss": 3.0 - step})
        run.close()
    assert said == []
    found = mlflow.MlflowClient().search_runs([mlflow.set_experiment("llavaflow").experiment_id])
    assert [row.data.metrics["loss"] for row in found] == [1.0]


def test_a_tracker_that_fails_is_told_and_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        calls = 0

        def log(self, step: int, values: Mapping[str, float]) -> None:
            Full.calls += 1
            raise OSError("no space left on their side")

        def close(self) -> None:
            raise AssertionError("closed although it was left out")

    monkeypatch.setitem(_trackers._OPEN, "wandb", lambda tracking: Full())
    said: list[str] = []
    run = Trackers(tracking(tmp_path, "wandb"), said.append)
    run.log(1, {"loss": 1.0})
    run.log(2, {"loss": 1.0})
    run.close()
    assert Full.calls == 1
    assert said == ["wandb is left out from here on: no space left on their side"]
