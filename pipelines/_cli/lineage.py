"""Show what an artifact was made from and what was made from it, as a tree."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from llavaflow.pipelines._cli._options import emit, json_option, store_option

if TYPE_CHECKING:
    from rich.console import Console
    from rich.tree import Tree

    from llavaflow.infra.lineage import Direction, Graph
    from llavaflow.infra.store import ArtifactStore

TITLES: dict[Direction, str] = {"up": "made from", "down": "went into"}


@click.command()
@click.argument("ref")
@click.option("--up", "ways", flag_value="up", help="Only what it was made from.")
@click.option("--down", "ways", flag_value="down", help="Only what was made from it.")
@click.option("--openlineage", is_flag=True, help="The graph as OpenLineage events, one JSON document per line.")
@store_option
@json_option
def command(ref: str, ways: str | None, openlineage: bool, store: ArtifactStore, as_json: bool) -> None:
    """The graph of artifacts around REF: RECIPE/STAGE, KIND:FINGERPRINT, or the place of an artifact."""
    from llavaflow.infra.lineage import build_graph
    from llavaflow.infra.reference import find_reference

    found = find_reference(ref, store)
    directions: list[Direction] = ["up"] if ways == "up" else ["down"] if ways == "down" else ["up", "down"]
    root = found.artifact.ref
    graph = build_graph(found.store.records()).around(root, directions)
    if openlineage:
        _print_events(graph, found.store.url)
        return
    emit({"ref": root, **graph.as_json()}, as_json, lambda console: _render(console, graph, root, directions))


def _print_events(graph: Graph, namespace: str) -> None:
    from llavaflow.infra.openlineage import events_of

    for node in graph.nodes.values():
        for event in events_of(node.record, namespace) if node.record else ():
            click.echo(json.dumps(event, ensure_ascii=False))


def _render(console: Console, graph: Graph, root: str, directions: list[Direction]) -> None:
    from rich.tree import Tree

    for direction in directions:
        tree = Tree(f"{_label(graph, root)} [dim]{TITLES[direction]}[/dim]")
        _grow(tree, graph, root, direction, {root})
        console.print(tree)


def _grow(tree: Tree, graph: Graph, ref: str, direction: Direction, drawn: set[str]) -> None:
    """Add the neighbours of an artifact; one that was drawn before is named again, but not its branches."""
    for other in graph.neighbours(ref, direction):
        ends = (other, ref) if direction == "up" else (ref, other)
        held = f"[dim]as {', '.join(graph.paths(*ends)).replace('[', chr(92) + '[')}[/dim]"
        if other in drawn:
            repeated = bool(graph.neighbours(other, direction))
            tree.add(f"{_label(graph, other)} {held}{' [dim](see above)[/dim]' if repeated else ''}")
            continue
        drawn.add(other)
        _grow(tree.add(f"{_label(graph, other)} {held}"), graph, other, direction, drawn)


def _label(graph: Graph, ref: str) -> str:
    node = graph.nodes[ref]
    if node.record is None:
        return f"[bold]{node.stage}[/bold] {ref} [red]no longer in the store[/red]"
    generation = f" generation {node.record.generation}" if node.record.generation else ""
    return f"[bold]{node.record.recipe}/{node.stage}[/bold] {ref}{generation}"
