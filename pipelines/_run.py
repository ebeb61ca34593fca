"""Run: what the store lacks is made, one stage after the other. No orchestrator in here.

`prepare` decides everything from the store first: fingerprints, what is found, what must be made. `Run.attempt` then
finds or makes one stage, under a lease, and never raises for a stage that failed: its row says so and the rest is
skipped. `pipelines/_flow.py` calls it from Prefect tasks; a test may call it in a plain loop.
"""

from __future__ import annotations

import logging
import math
import time
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from llavaflow.infra.artifact import Artifact, Json
from llavaflow.infra.context import Budget, Progress, RunContext, Silent
from llavaflow.infra.errors import InputError, LlavaflowError
from llavaflow.infra.machine import Machine
from llavaflow.infra.store import ArtifactStore
from llavaflow.pipelines._errors import one_line_errors
from llavaflow.pipelines._recipe import Recipe
from llavaflow.stages._identity import Resolved, resolve

RowState = Literal["found", "built", "failed", "skipped"]
RunState = Literal["completed", "failed", "interrupted", "planned"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """What became of one stage in this run."""

    name: str
    state: RowState
    fingerprint: str
    artifact: Artifact | None = None
    seconds: float = 0.0
    why: str = ""
    exit_code: int = 0

    def as_json(self) -> dict[str, Json]:
        body: dict[str, Json] = {
            "name": self.name,
            "state": self.state,
            "fingerprint": self.fingerprint,
            "uri": self.artifact.uri if self.artifact else None,
            "seconds": round(self.seconds, 3),
            "facts": dict(self.artifact.facts) if self.artifact else {},
        }
        return {**body, "why": self.why} if self.why else body


@dataclass(kw_only=True)
class Run:
    """One run of a recipe; `rows` fills up while it goes on."""

    recipe: Recipe
    store: ArtifactStore
    machine: Machine
    resolved: Mapping[str, Resolved]
    selected: list[str]
    budget: Budget = field(default_factory=Budget)
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("llavaflow"))
    progress: Progress = field(default_factory=Silent)
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    rows: dict[str, Row] = field(default_factory=dict)
    interrupted: bool = False
    dry: bool = False
    started: float = field(default_factory=time.monotonic)
    ended: float | None = None

    @property
    def seconds(self) -> float:
        """Wall-clock seconds, until now or until it ended."""
        return (self.ended or time.monotonic()) - self.started

    @property
    def all_found(self) -> bool:
        """Whether there is nothing to make."""
        return all(self.resolved[name].artifact for name in self.selected)

    @property
    def failed(self) -> Row | None:
        return next((row for row in self.rows.values() if row.state == "failed"), None)

    @property
    def state(self) -> RunState:
        if self.interrupted:
            return "interrupted"
        return "planned" if self.dry else "failed" if self.failed else "completed"

    def attempt(self, name: str) -> Row:
        """Find or make one stage. A failure becomes a row; only an interruption is raised."""
        started = time.monotonic()
        row: Row | None = None
        try:
            with one_line_errors():
                row = self._skip(name) if self.failed else self._find(name) or self._make(name)
        except LlavaflowError as error:
            row = self._row(name, "failed", why=str(error), exit_code=error.exit_code)
        except Exception as error:
            self.log.exception("%s failed", name)
            row = self._row(name, "failed", why=f"{type(error).__name__}: {error}", exit_code=1)
        except BaseException:
            # Ctrl-C, or the signal that Prefect makes of a SIGTERM
            self.interrupted = True
            row = self._row(name, "failed", why="interrupted", exit_code=130)
            raise
        finally:
            if row is not None:
                self.rows[name] = _timed(row, time.monotonic() - started)
        return self.rows[name]

    def attempt_rest(self) -> None:
        """Every selected stage that has no row yet, in order."""
        for name in self.selected:
            if name not in self.rows:
                self.attempt(name)

    def look(self) -> None:
        """Rows for a dry run: what is found, and why the rest would be made."""
        self.dry = True
        for name in self.selected:
            artifact = self.resolved[name].artifact
            self.rows[name] = self._row(name, "found", artifact) if artifact else self._skip(name)

    def skip_rest(self) -> None:
        """Rows for what will not be tried any more."""
        for name in self.selected:
            if name not in self.rows:
                self.rows[name] = self._skip(name)

    def as_json(self) -> dict[str, Json]:
        return {
            "recipe": self.recipe.name,
            "run_id": self.run_id,
            "state": self.state,
            "stages": [self.rows[name].as_json() for name in self.selected if name in self.rows],
            "seconds": round(self.seconds, 3),
        }

    def _row(self, name: str, state: RowState, artifact: Artifact | None = None, **fields: Any) -> Row:
        fingerprint = self.resolved[name].fingerprint
        return Row(name=name, state=state, fingerprint=fingerprint, artifact=artifact, **fields)

    def _skip(self, name: str) -> Row:
        return self._row(name, "skipped", why=self.resolved[name].why)

    def _find(self, name: str) -> Row | None:
        artifact = self.resolved[name].artifact
        return self._found(name, artifact) if artifact else None

    def _found(self, name: str, artifact: Artifact) -> Row:
        # also for what another recipe has built: RECIPE/STAGE must lead here
        self.store.point(self.recipe.name, name, artifact)
        return self._row(name, "found", artifact)

    def _make(self, name: str) -> Row:
        item = self.resolved[name]
        with self.store.lease(item.fingerprint, wait_s=math.inf, on_wait=lambda who: self.log.info("waiting: %s", who)):
            # another run may have made it while this one made the stages before, or waited
            made = self.store.find(item.fingerprint, item.kind)
            if made:
                return self._found(name, made)
            self.log.info("%s: %s", name, item.why)
            with self.progress.bar(f"{name} ({self.selected.index(name) + 1} of {len(self.selected)})"):
                artifact = item.stage.run(self._context(item))
        assert artifact.fingerprint == item.fingerprint, f"{name} must end with `return ctx.finish(facts)`"
        return self._row(name, "built", artifact)

    def _context(self, item: Resolved) -> RunContext:
        scratch = self.store.scratch(item.fingerprint)
        held = item.stage.inputs()
        return RunContext(
            store=self.store,
            machine=self.machine,
            recipe=self.recipe.name,
            run_id=self.run_id,
            stage=item.name,
            kind=item.kind,
            fingerprint=item.fingerprint,
            out=scratch.out,
            work=scratch.work,
            generation=item.generation,
            inputs={stage: self._artifact(item.inputs[path]) for path, stage in held.items()},
            previous=item.previous,
            log=self.log.getChild(item.name),
            progress=self.progress,
            budget=self.budget,
            identity=item.identity,
        )

    def _artifact(self, name: str) -> Artifact:
        row = self.rows.get(name)
        artifact = row.artifact if row else self.resolved[name].artifact
        assert artifact is not None, f"{name} is an input and was neither found nor made"
        return artifact


def _timed(row: Row, seconds: float) -> Row:
    return Row(**{**vars(row), "seconds": seconds})


def prepare(
    recipe: Recipe,
    store: ArtifactStore,
    machine: Machine,
    *,
    stage: str | None = None,
    only: str | None = None,
    refresh: Collection[str] = (),
    budget: Budget | None = None,
) -> Run:
    """Decide from the store what a run has to do. Raises InputError where the request cannot be met."""
    if stage and only:
        raise InputError("--stage and --only exclude each other: --stage S makes what S needs too, --only S does not.")
    selected = recipe.selected(stage=stage, only=only, refresh=refresh)
    if outside := [name for name in refresh if name not in selected]:
        raise InputError(f"cannot refresh {outside[0]}: this run has only {', '.join(selected)}.")
    resolved = resolve(recipe.stages, store, recipe=recipe.name, refresh=refresh)
    _require_outside([resolved[name] for name in selected if resolved[name].artifact is None])
    if only:
        _require_inputs(only, recipe, resolved)
    run = Run(recipe=recipe, store=store, machine=machine, resolved=resolved, selected=selected)
    run.budget = budget or run.budget
    return run


def _require_inputs(name: str, recipe: Recipe, resolved: Mapping[str, Resolved]) -> None:
    missing = [source for source in recipe.inputs_of(name) if resolved[source].artifact is None]
    if missing:
        raise InputError(
            f"--only {name} needs {', '.join(missing)}, which the store does not have ({resolved[missing[0]].why}). "
            f"Use --stage {name} to make what is missing too."
        )


def _require_outside(missing: list[Resolved]) -> None:
    absent = [place for item in missing for place in item.absent]
    if absent:
        raise InputError(
            f"nothing was started: {len(absent)} outside file{'s are' if len(absent) > 1 else ' is'} not there "
            f"({'; '.join(absent)}). Put it there, or name another place with --set STAGE.FIELD=PATH."
        )
