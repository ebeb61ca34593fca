"""Show what differs between two artifacts or two recipes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from llavaflow.infra.artifact import Json
from llavaflow.infra.errors import InputError
from llavaflow.pipelines._cli._options import emit, json_option, store_option

if TYPE_CHECKING:
    from rich.console import Console

    from llavaflow.infra.store import ArtifactStore


@click.command()
@click.argument("a")
@click.argument("b")
@store_option
@json_option
def command(a: str, b: str, store: ArtifactStore, as_json: bool) -> None:
    """What differs between A and B, two recipes or two artifacts (RECIPE/STAGE, KIND:FINGERPRINT, a place).

    Recipes are compared by every setting, with the sources of the numbers; artifacts by identity and facts.
    """
    recipes = [_is_recipe(ref) for ref in (a, b)]
    if any(recipes) and not all(recipes):
        raise InputError(f"cannot compare a recipe with an artifact ({a}, {b}). Name two recipes or two artifacts.")
    document = _recipes(a, b) if all(recipes) else _artifacts(a, b, store)
    emit(document, as_json, lambda console: _render(console, document))


def _is_recipe(ref: str) -> bool:
    return not set(ref) & set(":/.")


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
    return {"of": "artifacts", "a": old.artifact.ref, "b": new.artifact.ref, "differences": rows}


def _render(console: Console, document: dict[str, Json]) -> None:
    from rich.table import Table
    from rich.text import Text

    rows = document["differences"]
    if not rows:
        console.print(f"no difference between {document['a']} and {document['b']}")
        return
    table = Table(box=None, pad_edge=False)
    for column in ("", document["a"], document["b"], "sources" if document["of"] == "recipes" else ""):
        table.add_column(column, overflow="fold")
    for row in rows:
        sources = [text for text in dict.fromkeys((row.get("source_a"), row.get("source_b"))) if text]
        table.add_row(
            Text(row["path"]), *(Text(str(row[side])) for side in "ab"), Text("; ".join(sources), style="dim")
        )
    console.print(table)
