"""Run a recipe: make what the store lacks, find the rest.

The store is asked first. When everything is found, neither Prefect nor Ray nor torch is imported and the command ends
in a second. Otherwise the run is one Prefect flow run on a server that lives exactly as long as this process.
"""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, NoReturn

import click

from llavaflow.infra.artifact import Json
from llavaflow.pipelines._cli._options import Usd, emit, json_option, machine_option, recipe_options, store_option

if TYPE_CHECKING:
    from llavaflow.infra.machine import Machine
    from llavaflow.infra.store import ArtifactStore
    from llavaflow.pipelines._recipe import Recipe
    from llavaflow.pipelines._run import Run

INTERRUPTED = 130


@click.command()
@recipe_options
@click.option("--stage", metavar="S", help="Make S and whatever it needs that is missing, nothing after it.")
@click.option("--only", metavar="S", help="Make S alone; refused if an input is missing.")
@click.option("--refresh", metavar="S", multiple=True, help="Make a new generation of S (fetches only failed or new).")
@click.option("--dry-run", is_flag=True, help="Say what would be made, and make nothing.")
@click.option("--max-usd", type=Usd(), help="Refuse to start, or stop, before spending more.")
@click.option("--max-tokens", type=click.IntRange(min=0), help="Stop before using more tokens of paid services.")
@machine_option
@store_option
@json_option
def command(
    recipe: Recipe,
    stage: str | None,
    only: str | None,
    refresh: tuple[str, ...],
    dry_run: bool,
    max_usd: float | None,
    max_tokens: int | None,
    machine: Machine,
    store: ArtifactStore,
    as_json: bool,
) -> int:
    """Run RECIPE: what the store lacks is made, stage by stage."""
    from llavaflow.infra.console import stdout_to_stderr, terminal
    from llavaflow.infra.context import Budget
    from llavaflow.pipelines._estimate import refuse_impossible_batches, unfit
    from llavaflow.pipelines._from_zoo import refuse_unlike
    from llavaflow.pipelines._gates import refuse_unnamed
    from llavaflow.pipelines._gates_data import refuse_unbrought
    from llavaflow.pipelines._plan import make_plan, refuse_past_budget
    from llavaflow.pipelines._run import prepare
    from llavaflow.pipelines._summary import render

    refuse_unlike(recipe)
    budget = Budget(max_usd=max_usd, max_tokens=max_tokens)
    if max_usd is not None:
        refuse_past_budget(make_plan(recipe, store, machine, stage=stage, only=only, refresh=refresh), max_usd)
    run = prepare(recipe, store, machine, stage=stage, only=only, refresh=refresh, budget=budget)
    missing = {name: recipe.stages[name] for name in run.selected if run.resolved[name].artifact is None}
    refuse_impossible_batches(missing, machine)
    refuse_unnamed(recipe, store, machine, missing)
    refuse_unbrought(recipe, missing)
    for warning in unfit(missing, machine):
        click.echo(f"warning: {warning}", err=True)
    code = 0
    if dry_run:
        run.look()
    else:
        with stdout_to_stderr(), terminal() as (run.log, run.progress):
            code = execute(run)
    run.ended = time.monotonic()
    emit(_document(run), as_json, lambda console: render(console, run))
    if run.failed and not run.interrupted:
        click.echo(f"error: {run.failed.name} failed: {run.failed.why}", err=True)
    return code


def execute(run: Run) -> int:
    """Run to the end and return the exit code; leaves no process behind."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        if not run.all_found:
            run.store.check_writable()
            _with_prefect(run)
        run.attempt_rest()
    except KeyboardInterrupt:
        run.interrupted = True
        run.skip_rest()
        click.echo("interrupted; what was finished is kept, the same command goes on from there", err=True)
        return INTERRUPTED
    return run.failed.exit_code if run.failed else 0


def _with_prefect(run: Run) -> None:
    """The run as a Prefect flow run. What Prefect could not carry to the end is left for the caller to go on with."""
    from llavaflow.infra.prefect import home_of, server

    missing = sum(run.resolved[name].artifact is None for name in run.selected)
    run.log.info("%s: %d of %d stages to make; starting Prefect", run.recipe.name, missing, len(run.selected))
    try:
        with server(home_of(run.store)):
            from llavaflow.pipelines._flow import run_flow

            run_flow(run)
    except Exception as error:
        run.log.warning("Prefect failed, the run goes on without its pages: %s", error)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        # Prefect turns SIGTERM into an exception of its own
        raise KeyboardInterrupt from error


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _document(run: Run) -> Json:
    document = run.as_json()
    if run.failed and not run.interrupted:
        document["error"] = {"stage": run.failed.name, "message": run.failed.why, "exit_code": run.failed.exit_code}
    return document
