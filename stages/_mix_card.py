"""The card of a training set: its components against the published counts, and what was left out of each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llavaflow.datasets._mixture import Mixture
from llavaflow.stages._card import Card, write_card


def write_cards(
    out: Path,
    facts: Mapping[str, Any],
    *,
    title: str,
    seed: int | None,
    fingerprint: str,
    published: Mixture | None = None,
) -> None:
    """Write both cards from the facts of the mixture; without a seed the records are in the order of their file.

    What of a published mixture is not among the components is named, with what stands in for it.
    """
    order = "in the order of the file" if seed is None else f"shuffled once as a whole with seed {seed}"
    parts = facts["components"]
    about = [
        f"{facts['samples']:,} records, {facts['with_image']:,} with an image ({facts['images']:,} images), "
        f"{facts['turns']:,} turns, about {facts['tokens']:,} text tokens (4 characters each).",
        f"Fingerprint {fingerprint}; {order}.",
        "",
        *_table(parts),
        *_absent(parts, published),
        "",
        "Left out or mended, by component:",
        "",
        *_reasons(parts),
    ]
    card = Card(
        title=title,
        form="conversations",
        fingerprint=fingerprint,
        samples=facts["samples"],
        about=about,
        licences=sorted({f"{part['source']}: {part['licence']}" for part in parts}),
    )
    write_card(out, card)


def _table(parts: list[Mapping[str, Any]]) -> list[str]:
    head = "| component | source | taken | records | published | with image | turns | tokens |"
    rows = [head, "|---|---|---|--:|--:|--:|--:|--:|"]
    for part in parts:
        published = "" if part["expected"] is None else f"{part['expected']:,}"
        rows.append(
            f"| {part['name']} | {part['source']} | {part['sampling']} | {part['samples']:,} | {published} "
            f"| {part['with_image']:,} | {part['turns']:,} | {part['tokens']:,} |"
        )
    return rows


def _absent(parts: list[Mapping[str, Any]], published: Mixture | None) -> list[str]:
    there = {part["name"] for part in parts}
    absent = [part for part in (published.parts if published else ()) if part.name not in there]
    if not absent:
        return []
    rows = []
    for part in absent:
        count = "" if part.expected is None else f" ({part.expected:,} records)"
        why = f": {part.unpublished}; open in its place: {part.substitute}" if part.unpublished else ""
        rows.append(f"- {part.name}{count}{why}")
    return ["", "Parts of the published mixture that are not here:", "", *rows]


def _reasons(parts: list[Mapping[str, Any]]) -> list[str]:
    rows = []
    for part in parts:
        counts = {**part["dropped"], **{f"{name} (mended)": number for name, number in part["repairs"].items()}}
        if counts:
            told = ", ".join(f"{name} {number:,}" for name, number in sorted(counts.items()))
            rows.append(f"- {part['name']}: {told}")
    return rows or ["- nothing"]
