"""Serve a recipe as a Prefect deployment: a cron schedule that refreshes a stage and makes what follows from it.

The process stays: it runs the server (unless PREFECT_API_URL names one) and starts each scheduled run in a process of
its own. Keep it under a service manager; Ctrl-C stops it and leaves the deployment paused.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llavaflow.pipelines._cli._options import emit, json_option, machine_option, store_option

if TYPE_CHECKING:
    from rich.console import Console

    from llavaflow.infra.machine import Machine
    from llavaflow.infra.store import ArtifactStore
    from llavaflow.pipelines._recipe import Recipe


@click.command()
@click.argument("recipe")
@click.option("--cron", required=True, metavar="EXPRESSION", help='When, such as "0 3 * * 1": Mondays at three.')
@click.option("--timezone", metavar="ZONE", help="Of the schedule, such as Europe/Berlin; UTC when not given.")
@click.option("--refresh", metavar="S", help="The stage to renew; download, or else the first one.")
@click.option("--stage", metavar="S", help="Make S and what it needs, nothing after it.")
@click.option("--set", "settings", metavar="STAGE.FIELD=VALUE", multiple=True, help="Replace one setting; repeatable.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Of the Prefect server; any when not given.")
@machine_option
@store_option
@json_option
def command(
    recipe: str,
    cron: str,
    timezone: str | None,
    refresh: str | None,
    stage: str | None,
    settings: tuple[str, ...],
    port: int,
    machine: Machine,
    store: ArtifactStore,
    as_json: bool,
) -> None:
    """Deploy RECIPE on a schedule that refreshes one of its stages."""
    from llavaflow.infra.console import stdout_to_stderr
    from llavaflow.infra.prefect import home_of, server
    from llavaflow.pipelines._catalogue import find_recipe
    from llavaflow.pipelines._flow import cron_schedule, serve_flow
    from llavaflow.pipelines._settings import apply_settings

    chosen = apply_settings(find_recipe(recipe), settings)
    renewed = _stage_to_refresh(chosen, refresh)
    schedule = cron_schedule(cron, timezone)
    store.check_writable()
    parameters: dict[str, Any] = {
        "recipe": str(Path(recipe).resolve()) if recipe.endswith(".py") else recipe,
        "store": store.url,
        "machine": machine.spec,
        "stage": stage,
        "refresh": [renewed],
        "settings": list(settings),
    }
    with server(home_of(store), mode="page", port=port) as prefect:
        name = f"refresh-{renewed}"
        document = {"deployment": f"{chosen.name}/{name}", "cron": cron, "prefect": prefect.page, **parameters}

        def render(console: Console) -> None:
            console.print(f"{chosen.name}/{name}: {cron}, refreshes {renewed}\npages: {prefect.page}\nCtrl-C stops it")

        emit(document, as_json, render)
        with stdout_to_stderr():
            serve_flow(chosen, name, schedule, parameters)


def _stage_to_refresh(recipe: Recipe, refresh: str | None) -> str:
    if refresh:
        recipe.stage(refresh)
        return refresh
    return "download" if "download" in recipe.stages else next(iter(recipe.stages))
