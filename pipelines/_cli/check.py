"""Check what can go wrong before anything is started: packages, disk, keys, ports, batch, template and more."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from llavaflow.infra.artifact import Json
from llavaflow.pipelines._cli._options import emit, json_option, machine_option, recipe_options, store_option

if TYPE_CHECKING:
    from rich.console import Console

    from llavaflow.infra.machine import Machine
    from llavaflow.infra.store import ArtifactStore
    from llavaflow.pipelines._gates import Problem
    from llavaflow.pipelines._recipe import Recipe

Found = dict[str, list["Problem"]]
FAILED = 2


@click.command()
@recipe_options
@machine_option
@store_option
@json_option
def command(recipe: Recipe, machine: Machine, store: ArtifactStore, as_json: bool) -> int:
    """Check RECIPE on a machine; exit code 2 when a gate fails."""
    from llavaflow.pipelines._gates import ENVIRONMENT, Preflight
    from llavaflow.pipelines._gates_data import DATA
    from llavaflow.pipelines._gates_training import TRAINING

    preflight = Preflight(recipe, store, machine)
    found: Found = {gate.__name__.replace("_", "-"): list(gate(preflight)) for gate in (*ENVIRONMENT, *DATA, *TRAINING)}
    passed = not any(_fails(problems) for problems in found.values())
    document: Json = {
        "recipe": recipe.name,
        "machine": machine.name,
        "passed": passed,
        "gates": [
            {"gate": name, "passed": not _fails(problems), "problems": [dict(vars(problem)) for problem in problems]}
            for name, problems in found.items()
        ],
    }
    emit(document, as_json, lambda console: _render(console, found))
    return 0 if passed else FAILED


def _fails(problems: list[Problem]) -> bool:
    return any(not problem.warning for problem in problems)


def _render(console: Console, found: Found) -> None:
    from rich.markup import escape

    for name, problems in found.items():
        state = "[red]failed[/]" if _fails(problems) else "[yellow]warning[/]" if problems else "[green]passed[/]"
        console.print(f"{state}  {name}")
        for problem in problems:
            console.print(
                escape(f"        {problem.where}: {problem.what}\n        mend: {problem.mend}"), soft_wrap=True
            )
    failed = sum(_fails(problems) for problems in found.values())
    console.print(f"\n{len(found) - failed} of {len(found)} gates passed")
