"""Show what differs between two artifacts or two recipes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from llavaflow.infra.artifact import Json
from llavaflow.infra.errors import InputError
from llavaflow.pipelines._cli._options import emit, json_option, store_option

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from llavaflow.infra.store import ArtifactStore

SHOWN = 12


@click.command()
@click.argument("a")
@click.argument("b")
@store_option
@json_option
def command(a: str, b: str, store: ArtifactStore, as_json: bool) -> None:
    """What differs between A and B, two recipes or two artifacts (RECIPE/STAGE, KIND:FINGERPRINT, a place).

    Recipes are compared by every setting, with the sources of the numbers; artifacts by identity and facts; two
    evaluations question by question too: which answers flipped, and whether the difference is more than noise.
    """
    recipes = [_is_recipe(ref) for ref in (a, b)]
    if any(recipes) and not all(recipes):
        raise InputError(f"cannot compare a recipe with an artifact ({a}, {b}). Name two recipes or two artifacts.")
    document = _recipes(a, b) if all(recipes) else _artifacts(a, b, store)
    emit(document, as_json, lambda console: _render(console, document))


def _is_recipe(ref: str) -> bool:
    return ref.endswith(".py") or not set(ref) & set(":/.")


def _recipes(a: str, b: str) -> dict[str, Json]:
    from llavaflow.infra.identity import differences
    from llavaflow.pipelines._catalogue import find_recipe
    from llavaflow.pipelines._flat import flat_settings

    old, new = find_recipe(a), find_recipe(b)
    rows = [
        {
            "path": item.path,
            "a": item.before,
            "b": item.after,
            "source_a": old.sources.get(item.path),
            "source_b": new.sources.get(item.path),
        }
        for item in differences(flat_settings(old), flat_settings(new))
    ]
    return {"of": "recipes", "a": a, "b": b, "differences": rows}


def _artifacts(a: str, b: str, store: ArtifactStore) -> dict[str, Json]:
    from llavaflow.infra.identity import differences
    from llavaflow.infra.record import Record
    from llavaflow.infra.reference import find_reference

    def view(record: Record) -> dict[str, Json]:
        identity = record.identity
        return {
            "type": identity.type,
            "version": identity.version,
            "generation": record.generation,
            "settings": dict(identity.settings),
            "inputs": {path: held.ref for path, held in identity.inputs.items()},
            "outside": dict(identity.outside),
            "facts": dict(record.facts),
            "packages": dict(record.packages),
        }

    old, new = find_reference(a, store), find_reference(b, store)
    rows = [
        {"path": item.path, "a": item.before, "b": item.after}
        for item in differences(view(old.record), view(new.record))
    ]
    document: dict[str, Json] = {"of": "artifacts", "a": old.artifact.ref, "b": new.artifact.ref, "differences": rows}
    if old.artifact.kind == new.artifact.kind == "scores":
        document["benchmarks"] = _evaluations(old.path, new.path)
    return document


def _evaluations(old: Path, new: Path) -> list[Json]:
    from dataclasses import asdict

    from llavaflow.stages._compare import compare

    return [{**asdict(item), "noise": item.noise} for item in compare(old, new)]


def _render(console: Console, document: dict[str, Json]) -> None:
    if not document["differences"]:
        console.print(f"no difference between {document['a']} and {document['b']}")
        return
    _print_differences(console, document)
    for item in document.get("benchmarks", []):
        _print_benchmark(console, item)


def _print_differences(console: Console, document: dict[str, Json]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for column in ("", document["a"], document["b"], "sources" if document["of"] == "recipes" else ""):
        table.add_column(column, overflow="fold")
    alone = _stages_of_one(document) if document["of"] == "recipes" else {}
    for stage, side in alone.items():
        cells = ("a stage", "absent") if side == "a" else ("absent", "a stage")
        table.add_row(Text(stage, style="bold"), *map(Text, cells), Text(""))
    for row in document["differences"]:
        if row["path"].partition(".")[0] in alone:
            continue
        sources = [text for text in dict.fromkeys((row.get("source_a"), row.get("source_b"))) if text]
        table.add_row(
            Text(row["path"]), *(Text(str(row[side])) for side in "ab"), Text("; ".join(sources), style="dim")
        )
    console.print(table)


def _stages_of_one(document: dict[str, Json]) -> dict[str, str]:
    """Stages that only one of two recipes has, and which: one line says as much as all of their settings."""
    from llavaflow.infra.identity import ABSENT

    missing: dict[str, set[str]] = {}
    for row in document["differences"]:
        sides = {side for side in "ab" if row[side] == ABSENT}
        missing.setdefault(row["path"].partition(".")[0], set()).add("".join(sorted(sides)))
    found = {stage: sides.pop() for stage, sides in missing.items() if sides in ({"a"}, {"b"})}
    return {stage: "b" if side == "a" else "a" for stage, side in found.items() if _is_whole(document, stage)}


def _is_whole(document: dict[str, Json], stage: str) -> bool:
    """Whether even the type of the stage is missing on one side, and not only a setting of it."""
    return any(row["path"] == f"{stage}.type" for row in document["differences"])


def _print_benchmark(console: Console, item: dict[str, Json]) -> None:
    from rich.table import Table
    from rich.text import Text

    verdict = "within the noise" if item["noise"] else "more than noise"
    console.print(
        f"\n[bold]{item['benchmark']}[/bold] {item['difference']:+.2f} points "
        f"(95 % interval {item['low']:+.2f} to {item['high']:+.2f}, paired bootstrap, {item['n']} questions): {verdict}"
    )
    gained = sum(flip["gained"] for flip in item["flips"])
    console.print(f"{len(item['flips'])} answers flipped: {gained} gained, {len(item['flips']) - gained} lost")
    table = Table(box=None, pad_edge=False)
    for column in ("question", "", "A", "B"):
        table.add_column(column, overflow="fold")
    for flip in item["flips"][:SHOWN]:
        sign = "gained" if flip["gained"] else "lost"
        table.add_row(*(Text(str(cell)) for cell in (flip["question_id"], sign, flip["before"], flip["after"])))
    if item["flips"]:
        console.print(table)
    if len(item["flips"]) > SHOWN:
        console.print(f"... and {len(item['flips']) - SHOWN} more; --json lists all")
