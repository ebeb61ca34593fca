"""Where the numbers of a training run go beside its own log and TensorBoard: W&B and MLflow, when asked for.

    LLAVAFLOW_TRACKERS=wandb,mlflow

Addresses, keys, projects and the offline mode are the packages' own environment variables (WANDB_*, MLFLOW_*); without
them both write under the folder of the run's command. A run that was killed and goes on goes on in the same tracked
run. A tracker that fails never stops a training: it is told, and left out from then on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from llavaflow.infra.errors import InputError, unknown

SETTING = "LLAVAFLOW_TRACKERS"
PROJECT = "llavaflow"


@dataclass(frozen=True, kw_only=True)
class Tracking:
    """Which trackers, and under what they keep the run: its fingerprint, a title for people, its settings."""

    names: tuple[str, ...]
    run: str
    title: str
    folder: Path
    settings: Mapping[str, Any]


class Tracker(Protocol):
    """One service."""

    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


def parse(text: str) -> tuple[str, ...]:
    """The trackers named in a setting. Raises InputError for an unknown one, and for one whose package is missing."""
    names = tuple(dict.fromkeys(text.replace(",", " ").split()))
    for name in names:
        if name not in _OPEN:
            raise unknown("tracker", name, _OPEN, f"{SETTING}={text}")
        if find_spec(name) is None:
            raise InputError(
                f"{SETTING} asks for {name}, which is not installed. Run `pip install 'llavaflow[{name}]'`, "
                "or leave it out: TensorBoard is written in any case."
            )
    return names


class _WandbRun:
    def __init__(self, tracking: Tracking) -> None:
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=tracking.run,
            name=tracking.title,
            dir=os.environ.get("WANDB_DIR", str(tracking.folder)),
            config=dict(tracking.settings),
            resume="allow",
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


class _MlflowRun:
    def __init__(self, tracking: Tracking) -> None:
        import mlflow

        if "MLFLOW_TRACKING_URI" not in os.environ:
            mlflow.set_tracking_uri(f"sqlite:///{tracking.folder / 'mlflow.db'}")
        experiment = mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)).experiment_id
        self._client = mlflow.MlflowClient()
        known = self._client.search_runs([experiment], f"tags.fingerprint = '{tracking.run}'")
        tags = {"fingerprint": tracking.run}
        run = known[0] if known else self._client.create_run(experiment, run_name=tracking.title, tags=tags)
        self._id = run.info.run_id
        if not known:
            for name, value in tracking.settings.items():
                self._client.log_param(self._id, name, str(value)[:500])

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._client.log_metric(self._id, name, value, step=step)

    def close(self) -> None:
        self._client.set_terminated(self._id)


_OPEN: dict[str, Callable[[Tracking], Tracker]] = {"wandb": _WandbRun, "mlflow": _MlflowRun}


class Trackers:
    """All trackers of a run as one; `say` takes the messages."""

    def __init__(self, tracking: Tracking, say: Callable[[str], None]) -> None:
        self._say = say
        self._open: dict[str, Tracker] = {}
        for name in tracking.names:
            opened = self._tried(name, partial(_OPEN[name], tracking))
            if opened is not None:
                self._open[name] = opened

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, tracker in list(self._open.items()):
            self._tried(name, partial(tracker.log, step, values))

    def close(self) -> None:
        for name, tracker in list(self._open.items()):
            self._tried(name, tracker.close)

    def _tried(self, name: str, work: Callable[[], Any]) -> Any:
        try:
            return work()
        # whatever a service raises (network, quota, login), the training is worth more
        except Exception as error:
            self._open.pop(name, None)
            self._say(f"{name} is left out from here on: {error}")
            return None
