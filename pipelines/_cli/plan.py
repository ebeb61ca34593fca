"""Say what a run would do and why, how long it would take, whether it fits, and what it would cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from llavaflow.pipelines._cli._options import emit, json_option, machine_option, store_option

if TYPE_CHECKING:
    from rich.console import Console

    from llavaflow.infra.machine import Machine
    from llavaflow.infra.store import ArtifactStore
    from llavaflow.pipelines._plan import Plan, PlanRow

COLOURS = {"built": "green", "missing": "yellow", "stale": "yellow"}


@click.command()
@click.argument("recipe")
@click.option("--stage", metavar="S", help="Only S and what it needs.")
@click.option("--set", "settings", metavar="STAGE.FIELD=VALUE", multiple=True, help="Replace one setting; repeatable.")
@machine_option
@store_option
@json_option
def command(
    recipe: str,
    stage: str | None,
    settings: tuple[str, ...],
    machine: Machine,
    store: ArtifactStore,
    as_json: bool,
) -> None:
    """Plan RECIPE on a machine, against a store."""
    from llavaflow.pipelines._catalogue import find_recipe
    from llavaflow.pipelines._plan import make_plan
    from llavaflow.pipelines._settings import apply_settings

    plan = make_plan(apply_settings(find_recipe(recipe), settings), store, machine, stage=stage)
    emit(plan.as_json(), as_json, lambda console: _render(console, plan))


def _render(console: Console, plan: Plan) -> None:
    from rich.table import Table

    table = Table(title=f"{plan.recipe} on {plan.machine.name}", title_justify="left", box=None, pad_edge=False)
    for title in ("stage", "status", "fingerprint"):
        table.add_column(title, no_wrap=True)
    for title in ("hours", "GiB/device", "batch", "USD"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("why", overflow="fold")
    for row in plan.rows:
        table.add_row(*_cells(row))
    console.print(table)
    hours = "unknown" if plan.hours is None else f"{plan.hours:,.2f} h"
    cost = "" if plan.cost_usd is None else f", {plan.cost_usd:,.2f} USD"
    rest = f"; not known for {', '.join(plan.unknown)}" if plan.unknown and plan.hours is not None else ""
    console.print(f"total {hours}{cost}{rest}")


def _cells(row: PlanRow) -> list[str]:
    from rich.markup import escape

    memory = "" if row.gpu_memory_gib is None else f"{row.gpu_memory_gib:.1f}"
    asked = f"{row.requests:,} requests, {row.tokens:,} tokens" if row.requests else ""
    told = "; ".join(text for text in (row.why, asked, row.note) if text)
    return [
        f"[bold]{row.name}[/]",
        f"[{COLOURS[row.status]}]{row.status}[/]",
        row.fingerprint[:12],
        "" if row.hours is None else f"{row.hours:.2f}",
        f"[red]{memory}[/]" if row.fits is False else memory,
        _batch(row),
        "" if row.cost_usd is None else f"{row.cost_usd:,.2f}",
        escape(told),
    ]


def _batch(row: PlanRow) -> str:
    if row.global_batch is None:
        return ""
    if row.per_device_batch is None:
        return f"{row.global_batch}: see why" if row.grad_accum is None else f"{row.global_batch}, dealt"
    ranks = row.global_batch // (row.per_device_batch * (row.grad_accum or 1))
    return f"{row.global_batch} = {row.per_device_batch} x {row.grad_accum} x {ranks}"
