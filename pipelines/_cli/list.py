"""The catalogue: recipes, stages, sources, filters, benchmarks, mixtures, machines, zoo.

Everything is read from the files; a new file is in the list without any other edit.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

import click

from llavaflow.datasets._source import source_names
from llavaflow.infra.artifact import Json
from llavaflow.pipelines._catalogue import FOLDERS, Entry, entries, recipe_entries
from llavaflow.pipelines._cli._options import emit, json_option

if TYPE_CHECKING:
    from rich.console import Console

KINDS = (*FOLDERS, "mixtures", "machines", "zoo")


@click.command()
@click.argument("what", type=click.Choice(KINDS), required=False)
@json_option
def command(what: str | None, as_json: bool) -> None:
    """List what there is: one kind, or everything."""
    found = {kind: _entries(kind) for kind in ([what] if what else KINDS)}
    document: Json = {kind: [_row(entry) for entry in rows] for kind, rows in found.items()}
    emit(document, as_json, lambda console: _render(console, found))


def _entries(kind: str) -> list[Entry]:
    if kind == "recipes":
        return recipe_entries()
    if kind == "machines":
        return _machines()
    if kind == "zoo":
        return _zoo()
    if kind == "mixtures":
        return _mixtures()
    if kind == "sources":
        # the generated world lies among the sources, but nothing is read from it by name
        known = source_names()
        return [entry for entry in entries(kind) if entry.name in known]
    return entries(kind)


def _machines() -> list[Entry]:
    from llavaflow.infra.machine import KINDS as machines

    return [Entry(name=name, summary=machine.title, file="infra/machine.py") for name, machine in machines.items()]


def _mixtures() -> list[Entry]:
    from llavaflow.datasets._mixture import MIXTURES

    file = "datasets/_mixture.py"
    return [Entry(name=name, summary=mixture.title, file=file) for name, mixture in MIXTURES.items()]


def _zoo() -> list[Entry]:
    if find_spec("llavaflow.models.zoo") is None:
        return []
    zoo = import_module("llavaflow.models.zoo")
    return [Entry(name=name, summary=row.title, file="models/zoo.py") for name, row in zoo.ZOO.items()]


def _row(entry: Entry) -> dict[str, Json]:
    return {"name": entry.name, "summary": entry.summary, "file": entry.file}


def _render(console: Console, found: dict[str, list[Entry]]) -> None:
    from rich.table import Table

    for kind, rows in found.items():
        table = Table(title=f"{kind} ({len(rows)})", title_justify="left", box=None, show_header=False, pad_edge=False)
        table.add_column(style="bold", no_wrap=True)
        table.add_column()
        for entry in rows:
            table.add_row(entry.name, entry.summary)
        console.print(table)
        console.print()
