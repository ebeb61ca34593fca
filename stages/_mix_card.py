"""The card of a training set: README.md for people (and the Hugging Face hub), croissant.json for machines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llavaflow.infra.fingerprint import sha256_file

DATA = "data.jsonl"
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def write_cards(out: Path, facts: Mapping[str, Any], *, title: str, seed: int | None, fingerprint: str) -> None:
    """Write both cards from the facts of the mixture."""
    (out / "README.md").write_text(_markdown(facts, title, seed, fingerprint), "utf-8")
    text = json.dumps(croissant(facts, title, fingerprint, sha256_file(out / DATA)), indent=1, ensure_ascii=False)
    (out / "croissant.json").write_text(text + "\n", "utf-8")


def _markdown(facts: Mapping[str, Any], title: str, seed: int | None, fingerprint: str) -> str:
    size = next((name for limit, name in _SIZES if facts["samples"] < limit), "1M<n<10M")
    order = "in the order of the file" if seed is None else f"shuffled once as a whole with seed {seed}"
    return "\n".join(
        [
            "---",
            "license: other",
            "task_categories: [visual-question-answering, image-text-to-text]",
            f"size_categories: [{size}]",
            "configs:",
            "- config_name: default",
            f"  data_files: {DATA}",
            "---",
            f"# {title}",
            "",
            f"{facts['samples']:,} records, {facts['with_image']:,} with an image ({facts['images']:,} images), "
            f"{facts['turns']:,} turns, about {facts['tokens']:,} text tokens (4 characters each).",
            f"Fingerprint {fingerprint}; {order}.",
            "",
            *_table(facts["components"]),
            "",
            "Left out or set aside, by reason:",
            "",
            *_reasons(facts["components"]),
            "",
            "Licences of the sources:",
            "",
            *sorted({f"- {part['source']}: {part['licence']}" for part in facts["components"]}),
            "",
        ]
    )


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


def _reasons(parts: list[Mapping[str, Any]]) -> list[str]:
    rows = []
    for part in parts:
        counts = {**part["dropped"], **{f"{name} (mended)": number for name, number in part["repairs"].items()}}
        if counts:
            told = ", ".join(f"{name} {number:,}" for name, number in sorted(counts.items()))
            rows.append(f"- {part['name']}: {told}")
    return rows or ["- nothing"]


def croissant(facts: Mapping[str, Any], title: str, fingerprint: str, sha256: str) -> dict[str, Any]:
    """Croissant 1.1 metadata: the records file, the image shards, and the fields of a record."""
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": fingerprint,
        "description": f"{title}. {facts['samples']} conversations, {facts['images']} images.",
        "version": "1.0.0",
        "datePublished": "2026-01-01",
        "url": f"urn:llavaflow:mixture:{fingerprint}",
        "license": sorted({part["licence"] for part in facts["components"]}),
        "creator": {"@type": "sc:Organization", "name": "llavaflow"},
        "citeAs": f"llavaflow mixture {fingerprint}",
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": "records",
                "name": "records",
                "contentUrl": DATA,
                "encodingFormat": "application/jsonlines",
                "sha256": sha256,
            },
            {
                "@type": "cr:FileSet",
                "@id": "image-shards",
                "name": "image-shards",
                "encodingFormat": "application/x-tar",
                "includes": "shards/*.tar",
            },
        ],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "conversations",
                "name": "conversations",
                "field": [_field("id", "$.id"), _field("image", "$.image"), _field("turns", "$.conversations")],
            }
        ],
    }


def _field(name: str, path: str) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": f"conversations/{name}",
        "name": name,
        "dataType": "sc:Text",
        "source": {"fileObject": {"@id": "records"}, "extract": {"jsonPath": path}},
    }


# the context that the Croissant 1.1 specification prescribes, as far as the terms above need it
_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "includes": "cr:includes",
    "jsonPath": "cr:jsonPath",
    "recordSet": "cr:recordSet",
    "sc": "https://schema.org/",
    "source": "cr:source",
}
