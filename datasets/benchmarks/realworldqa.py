"""RealWorldQA: questions about everyday scenes, some with lettered options, some open.

Source of the rule: lmms-eval `realworldqa/utils.py` with its ranked letter extractor.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llavaflow.datasets.benchmarks._benchmark import Benchmark, Item, Mark, Metrics, Options, Pair, grouped, pooled
from llavaflow.datasets.benchmarks._choices import best_letter
from llavaflow.datasets.benchmarks._files import Row, find, rows
from llavaflow.datasets.benchmarks._join import names_of, usual_names
from llavaflow.infra.errors import InputError

LETTERS = ("A", "B", "C", "D")


def _read(gold: Path, options: Options) -> list[Item]:
    path = find(gold, "*.jsonl", "*.json", "*.parquet", "*.csv", what="RealWorldQA records")
    return [_item(row, number, path) for number, row in enumerate(rows(path))]


def _item(row: Row, number: int, path: Path) -> Item:
    if row.get("answer") is None:
        raise InputError(f"{path}, record {number + 1} has no answer: it is not a RealWorldQA gold file.")
    id = next((str(row[key]) for key in ("question_id", "id", "index") if row.get(key) is not None), str(number))
    gold, text = str(row["answer"]).strip(), str(row.get("question", ""))
    image = str(row.get("image_path") or row.get("image") or "")
    return Item(
        id=id,
        gold=gold,
        names=names_of(id, image, text),
        text=text,
        image=image,
        group="choice" if gold.upper() in LETTERS else "open",
    )


def _rule(item: Item, text: str) -> Mark:
    if item.group == "choice":
        read = best_letter(text, LETTERS)
        return Mark(value=float(read == item.gold.upper()), read=read)
    open_reply = text.lower().strip().rstrip(".")
    return Mark(value=float(open_reply == item.gold.lower()), read=open_reply)


def _metrics(pairs: Sequence[Pair], marks: Sequence[Mark]) -> Metrics:
    return {"by_form": grouped(pairs, marks, lambda item: item.group)}


BENCHMARK = Benchmark(
    name="realworldqa",
    title="RealWorldQA test",
    layout="records with question, answer and id (JSON lines, JSON, CSV or parquet)",
    prompt="{question}",
    rule=(
        "A gold letter A to D against the letter of the ranked extractor (start, end, phrase, brackets, ...); any "
        "other gold against the lower-cased reply without its final full stop."
    ),
    source="lmms-eval realworldqa/utils.py and _task_utils/mcq_extract.py",
    column="RealWorldQA",
    read=_read,
    mark=pooled(_rule, _metrics),
    names=usual_names,
)
