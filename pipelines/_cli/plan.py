"""Say what a run would do and why, how long it would take, whether it fits, and what it would cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from llavaflow.pipelines._cli._options import Usd, emit, json_option, machine_option, recipe_options, store_option

if TYPE_CHECKING:
    from rich.console import Console

    from llavaflow.infra.machine import Machine
    from llavaflow.infra.store import ArtifactStore
    from llavaflow.pipelines._plan import Plan, PlanRow
    from llavaflow.pipelines._recipe import Recipe

COLOURS = {"built": "green", "missing": "yellow", "stale": "yellow"}


@click.command()
@recipe_options
@click.option("--stage", metavar="S", help="Only S and what it needs.")
@click.option("--max-usd", type=Usd(), help="Say whether a run with this limit would start.")
@machine_option
@store_option
@json_option
def command(
    recipe: Recipe,
    stage: str | None,
    max_usd: float | None,
    machine: Machine,
    store: ArtifactStore,
    as_json: bool,
) -> None:
    """Plan RECIPE on a machine, against a store."""
    from llavaflow.pipelines._plan import make_plan, past_budget

    plan = make_plan(recipe, store, machine, stage=stage)
    document = plan.as_json()
    refused = past_budget(plan, max_usd)
    if max_usd is not None:
        document["budget"] = {"max_usd": max_usd, "starts": not refused, "why": refused}
    emit(document, as_json, lambda console: _render(console, plan, refused))


def _render(console: Console, plan: Plan, refused: str) -> None:
    from rich.markup import escape
    from rich.table import Table

    from llavaflow.infra.prices import AS_OF

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
    # a sum that leaves the trainings out must not read as the price of the run
    if plan.unknown_cost and cost:
        cost += f" without {', '.join(plan.unknown_cost)}, whose cost is not known"
    rest = f"; not known for {', '.join(plan.unknown)}" if plan.unknown and plan.hours is not None else ""
    console.print(f"total {hours}{cost}{rest}{f'; prices of {AS_OF}' if plan.cost_usd else ''}", soft_wrap=True)
    if plan.store_bytes:
        console.print(
            f"to fetch {_size(plan.fetch_bytes)}; to store {_size(plan.store_bytes)} "
            f"(on S3 about {plan.s3_usd_per_month:,.2f} USD a month)"
        )
    if refused:
        console.print(f"[red]would not start:[/] {escape(refused)}", soft_wrap=True)


def _cells(row: PlanRow) -> list[str]:
    from rich.markup import escape

    memory = "" if row.gpu_memory_gib is None else f"{row.gpu_memory_gib:.1f}"
    asked = f"{row.requests:,} requests, {row.tokens:,} tokens" if row.requests else ""
    told = "; ".join(text for text in (row.why, asked, _volume(row), row.note) if text)
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


def _volume(row: PlanRow) -> str:
    """What comes over the network and what stays in the store."""
    images = f"{row.images:,} images" if row.images else ""
    lost = f", {row.expected_loss:.0%} of them expected to be lost" if row.expected_loss else ""
    fetched = f"{images} to fetch{lost}, {_size(row.fetch_bytes)}" if row.fetch_bytes else images
    stored = f"{_size(row.store_bytes)} to store" if row.store_bytes else ""
    return "; ".join(filter(None, (fetched, stored)))


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def _batch(row: PlanRow) -> str:
    if row.global_batch is None:
        return ""
    if row.per_device_batch is None:
        return f"{row.global_batch}: see why" if row.grad_accum is None else f"{row.global_batch}, dealt"
    ranks = row.global_batch // (row.per_device_batch * (row.grad_accum or 1))
    return f"{row.global_batch} = {row.per_device_batch} x {row.grad_accum} x {ranks}"
