"""A published mixture for `pipeline show`: its parts, what of them was never published, and what stands in for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def is_mixture(name: str) -> bool:
    """Whether a name is that of a published mixture (and not the fingerprint of one that was built)."""
    from llavaflow.datasets._mixture import MIXTURES

    return name in MIXTURES


def mixture_document(name: str) -> dict[str, Any]:
    """The mixture as JSON."""
    from llavaflow.datasets._mixture import MIXTURES

    mixture = MIXTURES[name]
    parts = [
        {
            "name": part.name,
            "source": part.source,
            "sampling": part.sampling,
            "expected": part.expected,
            "with_image": part.with_image,
            "unpublished": part.unpublished or None,
            "substitute": part.substitute or None,
        }
        for part in mixture.parts
    ]
    return {"mixture": mixture.name, "title": mixture.title, "expected": mixture.expected, "parts": parts}


def render_mixture(console: Console, document: dict[str, Any]) -> None:
    """Print it as a table, the withheld parts below."""
    from rich.table import Table

    console.print(f"[bold]{document['mixture']}[/]: {document['title']}\n")
    table = Table(box=None, pad_edge=False)
    for title in ("part", "source", "taken", "records", "image"):
        table.add_column(title, justify="right" if title == "records" else "left")
    for part in document["parts"]:
        count = "not published" if part["expected"] is None else f"{part['expected']:,}"
        shown = "yes" if part["with_image"] else "no"
        if not part["unpublished"]:
            table.add_row(part["name"], part["source"], part["sampling"], count, shown)
    console.print(table)
    withheld = [part for part in document["parts"] if part["unpublished"]]
    if withheld:
        console.print(f"\nNot to be had ({withheld[0]['unpublished']}), and what is open in its place:")
    for part in withheld:
        console.print(f"  {part['name']}, {part['expected']:,} records: {part['substitute']}", markup=False)
