"""Plan: what a run would do, why, and what it would take. Nothing is imported that costs time, nothing is started.

What is built costs nothing. A training stage is estimated from its fields (`_estimate`), a synthesis stage from its
prompts and prices (`_requests`), any other, on this computer, by how long this recipe took for it the last time. What
is not known is null, and the note says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from llavaflow.infra.artifact import Json
from llavaflow.infra.errors import InputError
from llavaflow.infra.machine import Machine
from llavaflow.infra.store import ArtifactStore
from llavaflow.pipelines._estimate import estimate_training
from llavaflow.pipelines._recipe import Recipe
from llavaflow.pipelines._requests import estimate_requests
from llavaflow.stages._identity import Resolved, State, resolve
from llavaflow.stages.synthesize import Synthesize
from llavaflow.stages.train import Train

# why a plan has no hours for a kind of stage that it has not seen run
NOT_ESTIMATED = {
    "Download": "the servers that hold the images set the pace",
    "Synthesize": "the service's rate limit sets the pace",
    "Judge": "the service's rate limit sets the pace",
    "ZooWeights": "the hub sets the pace",
    "Evaluate": "the lengths of the answers are not known",
    "Caption": "the number of images that the filters leave is not known",
}


@dataclass(frozen=True, kw_only=True)
class PlanRow:
    """One stage of a plan; None is unknown. `note` says what stands in the way, or where a number comes from."""

    name: str
    fingerprint: str
    status: State
    why: str
    hours: float | None = None
    gpu_memory_gib: float | None = None
    fits: bool | None = None
    global_batch: int | None = None
    per_device_batch: int | None = None
    grad_accum: int | None = None
    cost_usd: float | None = None
    requests: int | None = None
    tokens: int | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A recipe on a machine."""

    recipe: str
    machine: Machine
    rows: tuple[PlanRow, ...]

    @property
    def hours(self) -> float | None:
        return _total([row.hours for row in self.rows])

    @property
    def cost_usd(self) -> float | None:
        return _total([row.cost_usd for row in self.rows])

    @property
    def unknown(self) -> list[str]:
        """The stages whose time is not known."""
        return [row.name for row in self.rows if row.hours is None]

    def as_json(self) -> dict[str, Json]:
        return {
            "recipe": self.recipe,
            "machine": self.machine.name,
            "stages": [dict(vars(row)) for row in self.rows],
            "total": {"hours": self.hours, "cost_usd": self.cost_usd, "unknown": self.unknown},
        }


def _total(values: list[float | None]) -> float | None:
    """The sum of what is known; None when nothing is."""
    known = [value for value in values if value is not None]
    return round(sum(known), 4) if known else None


def make_plan(recipe: Recipe, store: ArtifactStore, machine: Machine, *, stage: str | None = None) -> Plan:
    """The plan of a recipe, or of one stage and what it needs."""
    if stage:
        recipe.stage(stage)
    resolved = resolve(recipe.stages, store, recipe=recipe.name)
    names = recipe.needed_for(*([stage] if stage else recipe.stages))
    rows = tuple(_row(resolved[name], recipe, resolved, store, machine) for name in names)
    return Plan(recipe=recipe.name, machine=machine, rows=rows)


def _row(
    item: Resolved, recipe: Recipe, resolved: Mapping[str, Resolved], store: ArtifactStore, machine: Machine
) -> PlanRow:
    row = PlanRow(name=item.name, fingerprint=item.fingerprint, status=item.state, why=item.why)
    if isinstance(item.stage, Train):
        data = resolved[recipe.name_of(item.stage.data)].artifact
        row = _training_row(row, item.stage, machine, data.facts if data else None)
    elif isinstance(item.stage, Synthesize) and (asked := estimate_requests(item.stage)):
        tokens = asked.input_tokens + asked.output_tokens
        row = replace(row, requests=asked.requests, tokens=tokens, cost_usd=asked.usd)
    if item.state == "built":
        return replace(row, hours=0.0, cost_usd=0.0)
    if row.hours is not None:
        return row
    why_not = NOT_ESTIMATED.get(item.stage.type_name(), "it has not run here")
    return _as_last_time(row, recipe.name, store, machine, why_not)


def _training_row(row: PlanRow, stage: Train, machine: Machine, facts: Mapping[str, Json] | None) -> PlanRow:
    found = estimate_training(stage, machine, facts)
    price, hours = machine.usd_per_gpu_hour, found.hours
    return replace(
        row,
        global_batch=stage.global_batch,
        per_device_batch=found.split.per_device,
        grad_accum=found.split.accumulation,
        gpu_memory_gib=round(found.memory.total, 1) if found.memory else None,
        fits=found.fits,
        hours=round(hours, 2) if hours is not None else None,
        cost_usd=round(hours * machine.devices * price, 2) if hours is not None and price is not None else None,
        note="; ".join(found.notes),
    )


def _as_last_time(row: PlanRow, recipe: str, store: ArtifactStore, machine: Machine, why_not: str) -> PlanRow:
    """How long the newest artifact of this recipe's stage took, where it is the same kind of work."""
    for pointer in store.history(recipe, row.name)[:1] if not machine.gpus else ():
        artifact = store.find(pointer.fingerprint)
        if artifact is not None:
            seconds = store.record(artifact).seconds
            return replace(row, hours=round(seconds / 3600, 4), note=row.note or "hours: as the last time")
    return row if row.note else replace(row, note=f"hours not estimated: {why_not}")


def refuse_past_budget(plan: Plan, max_usd: float | None) -> None:
    """Raise InputError when the known cost of a plan is past a limit: nothing is started then."""
    if max_usd is not None and plan.cost_usd is not None and plan.cost_usd > max_usd:
        parts = ", ".join(f"{row.name} {row.cost_usd:,.0f}" for row in plan.rows if row.cost_usd)
        raise InputError(
            f"the plan costs {plan.cost_usd:,.2f} USD ({parts}), past the limit of {max_usd:,.2f} USD. "
            f"Raise --max-usd, choose another --machine, or run fewer stages with --stage."
        )
