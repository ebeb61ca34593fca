"""The card beside a dataset artifact: README.md for people and the Hugging Face hub, croissant.json for machines.

Both say the same: what the records are, how many, from what, under whose terms, and which files hold them. Neither
holds a date or a place, so that equal data has equal cards.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from llavaflow.datasets._index import NAME as INDEX
from llavaflow.datasets._shards import FOLDER, TABLE
from llavaflow.infra.fingerprint import sha256_file
from llavaflow.stages._pairs import LEDGER

CARD, CROISSANT = "README.md", "croissant.json"
Form = Literal["conversations", "pairs"]
# the file of the records, and the fields of one
RECORDS: Mapping[Form, tuple[str, Mapping[str, str]]] = {
    "conversations": ("data.jsonl", {"id": "Text", "image": "Text", "conversations": "turns"}),
    "pairs": (
        LEDGER,
        {"id": "Text", "url": "Text", "caption": "Text", "image": "Text", "status": "Text", "reason": "Text",
         "width": "Integer", "height": "Integer"},
    ),
}  # fmt: skip
IMAGES = {"image": "Text", "file": "Text", "width": "Integer", "height": "Integer", "sha256": "Text"}
LINEAGE = {"id": "Text", "source": "Text", "url": "Text", "sha256": "Text", "dropped": "Text", "file": "Text"}
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_TASKS = {"conversations": "visual-question-answering, image-text-to-text", "pairs": "image-to-text"}


@dataclass(frozen=True, kw_only=True)
class Card:
    """What both cards are written from.

    form      conversations (data.jsonl), or image-text pairs (ledger.parquet)
    about     the paragraphs and tables of README.md under its title
    dropped   how many records are not here, by reason
    licences  terms of each source
    """

    title: str
    form: Form
    fingerprint: str
    samples: int
    about: Sequence[str]
    licences: Sequence[str]
    dropped: Mapping[str, int] = field(default_factory=dict)


def write_card(out: Path, card: Card) -> None:
    """Write README.md and croissant.json; the files of the artifact must be complete."""
    (out / CARD).write_text(_markdown(card), "utf-8")
    text = json.dumps(croissant(out, card), indent=1, ensure_ascii=False)
    (out / CROISSANT).write_text(text + "\n", "utf-8")


def _markdown(card: Card) -> str:
    size = next((name for limit, name in _SIZES if card.samples < limit), "1M<n<10M")
    data = RECORDS[card.form][0] if card.form == "conversations" else f"{FOLDER}/*.tar"
    front = ["---", "license: other", f"task_categories: [{_TASKS[card.form]}]", f"size_categories: [{size}]"]
    front += ["configs:", "- config_name: default", f"  data_files: {data}", "---"]
    gone = [f"- {reason}: {count:,}" for reason, count in sorted(card.dropped.items()) if count]
    left_out = ["Left out, by reason:", "", *gone, ""] if gone else []
    terms = ["Licences of the sources:", "", *(f"- {line}" for line in card.licences), ""]
    lines = [*front, f"# {card.title}", "", *card.about, "", *left_out, *terms, *_files(card.form)]
    return "\n".join(lines) + "\n"


def _files(form: Form) -> list[str]:
    told = {
        "conversations": f"- `{RECORDS[form][0]}`: the records as LLaVA JSON, one a line",
        "pairs": f"- `{LEDGER}`: one row for every pair that was looked at, with status, reason and text",
    }
    return [
        "Files:",
        "",
        told[form],
        f"- `{FOLDER}/*.tar`: the images as webdataset shards; `{TABLE}` says where each lies",
        f"- `{INDEX}`: where every record comes from, and why others are not here",
        f"- `{CROISSANT}`: this card for machines",
    ]


def croissant(out: Path, card: Card) -> dict[str, Any]:
    """Croissant 1.1 metadata: records, image table and index as record sets, the shards as a file set."""
    name, fields = RECORDS[card.form]
    tables = {card.form: (name, fields), "images": (TABLE, IMAGES), "lineage": (INDEX, LINEAGE)}
    there = {key: table for key, table in tables.items() if (out / table[0]).exists()}
    return {
        "@context": json.loads((files("llavaflow.stages") / "_croissant_context.json").read_text("utf-8")),
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": card.fingerprint,
        "description": f"{card.title}. {card.samples} {card.form}.",
        "version": "1.0.0",
        "url": f"urn:llavaflow:{card.fingerprint}",
        "license": list(card.licences),
        "creator": {"@type": "sc:Organization", "name": "llavaflow"},
        "citeAs": f"llavaflow dataset {card.fingerprint}",
        "distribution": [*(_file(key, out / file) for key, (file, _) in there.items()), _SHARDS],
        "recordSet": [_record_set(key, table) for key, (_, table) in there.items()],
    }


def _file(key: str, path: Path) -> dict[str, Any]:
    form = "application/jsonlines" if path.suffix == ".jsonl" else "application/x-parquet"
    return {
        "@type": "cr:FileObject",
        "@id": f"{key}-file",
        "name": f"{key}-file",
        "contentUrl": path.name,
        "encodingFormat": form,
        "sha256": sha256_file(path),
    }


_SHARDS = {
    "@type": "cr:FileSet",
    "@id": "image-shards",
    "name": "image-shards",
    "encodingFormat": "application/x-tar",
    "includes": f"{FOLDER}/*.tar",
}


def _record_set(key: str, fields: Mapping[str, str]) -> dict[str, Any]:
    body = [_field(key, name, kind) if kind != "turns" else _turns(key, name) for name, kind in fields.items()]
    return {"@type": "cr:RecordSet", "@id": key, "name": key, "field": body}


def _field(key: str, name: str, kind: str) -> dict[str, Any]:
    source = {"fileObject": {"@id": f"{key}-file"}, "extract": {"column": name}}
    return {"@type": "cr:Field", "@id": f"{key}/{name}", "name": name, "dataType": f"sc:{kind}", "source": source}


def _turns(key: str, name: str) -> dict[str, Any]:
    """A list of {from, value}: one repeated field with a field for each."""
    parts = []
    for part in ("from", "value"):
        field_of = _field(key, name, "Text") | {"@id": f"{key}/{name}/{part}", "name": part, "repeated": True}
        parts.append({**field_of, "source": {**field_of["source"], "transform": {"jsonPath": part}}})
    return {"@type": "cr:Field", "@id": f"{key}/{name}", "name": name, "repeated": True, "subField": parts}
