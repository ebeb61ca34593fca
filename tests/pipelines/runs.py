"""Running a recipe in a plain loop, without Prefect."""

from __future__ import annotations

from typing import Any

from llavaflow.infra.machine import Machine
from llavaflow.infra.store import ArtifactStore
from llavaflow.pipelines._recipe import Recipe
from llavaflow.pipelines._run import Run, prepare


def make(recipe: Recipe, store: ArtifactStore, **wanted: Any) -> Run:
    """Run to the end and return the run."""
    run = prepare(recipe, store, Machine(kind="cpu"), **wanted)
    run.attempt_rest()
    return run


def states(run: Run) -> dict[str, str]:
    return {name: row.state for name, row in run.rows.items()}
