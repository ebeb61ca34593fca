"""AI2D: four-way choices on school diagrams; the reply must be the letter."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from pathlib import Path

from llavaflow.datasets.benchmarks._benchmark import Benchmark, Item, Mark, Metrics, Options, Pair, grouped, pooled
from llavaflow.datasets.benchmarks._files import Row, find, rows
from llavaflow.datasets.benchmarks._join import names_of, usual_names
from llavaflow.infra.errors import InputError

LETTERS = "ABCDEFGH"
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
FRONT_LETTER = re.compile(r"^\s*([A-Z])\.")


def _read(gold: Path, options: Options) -> list[Item]:
    path = find(gold, "test.jsonl", "*.jsonl", "*.json", "*.parquet", what="AI2D test.jsonl")
    return [_item(row, number, path) for number, row in enumerate(rows(path))]


def _item(row: Row, number: int, path: Path) -> Item:
    if row.get("answer") is None:
        raise InputError(f"{path}, record {number + 1} has no answer: it is not an AI2D gold file.")
    id, image = str(row.get("question_id", number)), str(row.get("image", ""))
    options = row.get("options") or ()
    gold = str(row["answer"])
    return Item(
        id=id,
        gold=LETTERS[int(gold)] if gold.isdecimal() else gold.strip(),
        names=names_of(id, image, str(row.get("question", ""))),
        text=str(row.get("question", "")),
        image=image,
        group=image.split("/")[0] if "/" in image else "",
        options=tuple(str(option) for option in options),
    )


def letter(text: str) -> str:
    """A letter with a full stop in front of the reply, else the whole reply without punctuation and edge space."""
    front = FRONT_LETTER.match(text)
    return front.group(1) if front else text.translate(NO_PUNCTUATION).strip()


def _rule(item: Item, text: str) -> Mark:
    read = letter(text)
    known = len(read) == 1 and read.upper() in LETTERS
    return Mark(value=float(read.upper() == item.gold), read=read if known else None)


def _metrics(pairs: Sequence[Pair], marks: Sequence[Mark]) -> Metrics:
    return {"by_images": grouped(pairs, marks, lambda item: item.group)}


BENCHMARK = Benchmark(
    name="ai2d",
    title="AI2D test",
    layout="test.jsonl: {image, question, question_id, answer (letter)}, or lmms-eval's rows with options and number",
    prompt="{question}\\nA. ...\\nAnswer with the option's letter from the given choices directly.",
    rule=(
        "Exact letter: the letter before a full stop at the reply's start, else the whole reply, equals the gold "
        "letter, whatever its case and punctuation."
    ),
    source="lmms-eval ai2d/utils.py",
    read=_read,
    mark=pooled(_rule, _metrics),
    names=usual_names,
)
