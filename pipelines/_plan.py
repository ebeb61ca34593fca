"""Plan: what a run would do, why, and what it would take. Nothing is imported that costs time, nothing is started.

What is built costs nothing. A training stage is estimated from its fields (`_estimate`), what a paid service is asked
from prompts and prices (`_requests`), what is fetched and stored from the published sets (`_volume`), any other time,
on this computer, by how long this recipe took for it the last time. What is not known is null, and the note says why.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from llavaflow.infra.artifact import Json
from llavaflow.infra.errors import InputError
from llavaflow.infra.machine import Machine
from llavaflow.infra.prices import AS_OF, STORED_GB_MONTH
from llavaflow.infra.store import ArtifactStore
from llavaflow.pipelines._estimate import estimate_training
from llavaflow.pipelines._recipe import Recipe
from llavaflow.pipelines._requests import estimate_requests
from llavaflow.pipelines._volume import estimate_volume
from llavaflow.stages._identity import Resolved, State, resolve
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
    """One stage of a plan; None is unknown.

    images, fetch_bytes   to gather, and to bring over the network; `expected_loss` is the share that will not come
    store_bytes           of the artifact; `basis` says on what these rest
    note                  what stands in the way, or where a number comes from
    """

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
    images: int | None = None
    fetch_bytes: int | None = None
    expected_loss: float | None = None
    store_bytes: int | None = None
    note: str = ""
    basis: str = ""


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
    def fetch_bytes(self) -> int:
        return sum(row.fetch_bytes or 0 for row in self.rows)

    @property
    def store_bytes(self) -> int:
        """What the store, a folder or a bucket, will hold of this recipe, as far as it is known."""
        return sum(row.store_bytes or 0 for row in self.rows)

    @property
    def s3_usd_per_month(self) -> float:
        return round(self.store_bytes / 1e9 * STORED_GB_MONTH, 2)

    @property
    def unknown_cost(self) -> list[str]:
        """The stages that cost money, nobody knows how much."""
        return [row.name for row in self.rows if row.cost_usd is None and (row.requests or _on_gpus(row, self.machine))]

    @property
    def unknown(self) -> list[str]:
        """The stages whose time is not known."""
        return [row.name for row in self.rows if row.hours is None]

    def as_json(self) -> dict[str, Json]:
        return {
            "recipe": self.recipe,
            "machine": self.machine.name,
            "stages": [dict(vars(row)) for row in self.rows],
            "total": {
                "hours": self.hours,
                "cost_usd": self.cost_usd,
                "unknown": self.unknown,
                "unknown_cost": self.unknown_cost,
                "fetch_bytes": self.fetch_bytes,
                "store_bytes": self.store_bytes,
                "s3_usd_per_month": self.s3_usd_per_month,
            },
            "prices": f"of {AS_OF} (infra/prices.py)",
        }


def _on_gpus(row: PlanRow, machine: Machine) -> bool:
    return bool(machine.gpus) and row.global_batch is not None


def _total(values: list[float | None]) -> float | None:
    """The sum of what is known; None when nothing is."""
    known = [value for value in values if value is not None]
    return round(sum(known), 4) if known else None


def make_plan(
    recipe: Recipe,
    store: ArtifactStore,
    machine: Machine,
    *,
    stage: str | None = None,
    only: str | None = None,
    refresh: Collection[str] = (),
) -> Plan:
    """The plan of a recipe, of one stage and what it needs, or of one stage alone; `refresh`: as for a run."""
    names = recipe.selected(stage=stage, only=only, refresh=refresh)
    resolved = resolve(recipe.stages, store, recipe=recipe.name, refresh=refresh)
    rows = tuple(_row(resolved[name], recipe, resolved, store, machine) for name in names)
    return Plan(recipe=recipe.name, machine=machine, rows=rows)


def _row(
    item: Resolved, recipe: Recipe, resolved: Mapping[str, Resolved], store: ArtifactStore, machine: Machine
) -> PlanRow:
    row = PlanRow(name=item.name, fingerprint=item.fingerprint, status=item.state, why=item.why)
    if isinstance(item.stage, Train):
        data = resolved[recipe.name_of(item.stage.data)].artifact
        row = _training_row(row, item.stage, machine, data.facts if data else None)
    if asked := estimate_requests(item.stage):
        tokens = asked.input_tokens + asked.output_tokens
        row = replace(row, requests=asked.requests, tokens=tokens, cost_usd=asked.usd)
    volume = estimate_volume(item.stage)
    if item.artifact is not None:
        size = store.record(item.artifact).size
        return replace(row, hours=0.0, cost_usd=0.0, images=volume.images, fetch_bytes=0, store_bytes=size)
    row = replace(row, **vars(volume))
    if row.hours is not None:
        return row
    why_not = NOT_ESTIMATED.get(item.stage.type_name(), "it has not run here")
    row = _as_last_time(row, recipe.name, store, machine, why_not)
    return replace(row, note="; ".join(filter(None, (asked.told, row.note)))) if asked else row


def _training_row(row: PlanRow, stage: Train, machine: Machine, facts: Mapping[str, Json] | None) -> PlanRow:
    found = estimate_training(stage, machine, facts, name=row.name)
    price, hours = machine.usd_per_gpu_hour, found.hours
    return replace(
        row,
        global_batch=stage.global_batch,
        per_device_batch=found.split.per_device,
        grad_accum=found.split.accumulation,
        gpu_memory_gib=round(found.memory.total, 1) if found.memory and machine.gpus else None,
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


def past_budget(plan: Plan, max_usd: float | None) -> str:
    """Why a run with this limit would not start: it costs more, or part of its cost is unknown; empty when it would."""
    if max_usd is None:
        return ""
    if plan.cost_usd is not None and plan.cost_usd > max_usd:
        parts = ", ".join(f"{row.name} {row.cost_usd:,.2f}" for row in plan.rows if row.cost_usd)
        return (
            f"the plan costs {plan.cost_usd:,.2f} USD ({parts}), past the limit of {max_usd:,.2f} USD. "
            f"Raise --max-usd, choose another --machine, or run fewer stages with --stage."
        )
    if plan.unknown_cost:
        return (
            f"a limit of {max_usd:,.2f} USD cannot be held: what {', '.join(plan.unknown_cost)} costs on "
            f"{plan.machine.name} is not known (prices: infra/prices.py). Give usd_per_gpu_hour in a machine file of "
            f"your own (--machine FILE.toml), input_usd and output_usd of the stage that asks, or leave --max-usd out."
        )
    return ""


def refuse_past_budget(plan: Plan, max_usd: float | None) -> None:
    """Raise InputError when a run with this limit would not start."""
    if why := past_budget(plan, max_usd):
        raise InputError(why)
