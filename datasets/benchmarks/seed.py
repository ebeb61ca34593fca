"""SEED-Bench: four-way choices on images (14,233) and on the middle frame of videos (5,009).

Source of the rule: LLaVA `convert_seed_for_submission.py`. The zoo's 1.5 rows are image and video pooled, its 1.6 rows
SEED-IMG: compare those with metrics.image. One id, 49914, belongs to two of the 19,242 questions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from llavaflow.datasets.benchmarks._benchmark import (
    Benchmark,
    Item,
    Mark,
    Metrics,
    Options,
    Pair,
    grouped,
    mean,
    pooled,
    score_of,
)
from llavaflow.datasets.benchmarks._files import find, load
from llavaflow.datasets.benchmarks._join import usual_names
from llavaflow.infra.errors import InputError

CHOICES = ("choice_a", "choice_b", "choice_c", "choice_d")
LETTERS = "ABCD"


def _read(gold: Path, options: Options) -> list[Item]:
    path = find(gold, "SEED-Bench.json", "SEED*.json", "*result*.json", "*.json", "*.jsonl", what="SEED-Bench.json")
    document = load(path)
    kinds: dict[str, str] = {}
    if isinstance(document, Mapping):
        kinds = {str(number): str(name) for name, number in dict(document.get("question_type", {})).items()}
        document = document.get("questions", [])
    return [_item(row, kinds, path) for row in document]


def _item(row: Mapping[str, object], kinds: Mapping[str, str], path: Path) -> Item:
    gold = row.get("gt_answer", row.get("answer"))
    if gold is None or "question_id" not in row:
        raise InputError(f"{path} has a record without question_id and answer: it is not a SEED gold file.")
    number = str(row.get("question_type_id", ""))
    return Item(
        id=str(row["question_id"]),
        gold=str(gold),
        names=(str(row["question_id"]),),
        text=str(row.get("question", "")),
        image=str(row.get("data_id", "")),
        group=str(row.get("data_type", "")),
        options=tuple(str(row[name]) for name in CHOICES if name in row),
        meta={"dimension": kinds.get(number, number)},
    )


def _rule(item: Item, text: str) -> Mark:
    return Mark(value=float(text == item.gold), read=text if len(text) == 1 and text in LETTERS else None)


def _lmms_eval(item: Item, text: str) -> Mark:
    read = text.strip()[:1]
    return Mark(value=float(read.lower() == item.gold.lower()), read=read)


def _metrics(pairs: Sequence[Pair], marks: Sequence[Mark]) -> Metrics:
    kinds = grouped(pairs, marks, lambda item: item.group)
    return {
        "all": mean(mark.value for mark in marks),
        **kinds,
        "rows": {kind: sum(pair.item.group == kind for pair in pairs) for kind in kinds},
        "lmms_eval_first_letter": score_of(pairs, _lmms_eval),
        "dimensions": grouped(pairs, marks, lambda item: str(item.meta["dimension"])),
    }


def _upload(pairs: Sequence[Pair], out: Path) -> None:
    lines = (json.dumps({"question_id": pair.item.id, "prediction": pair.text}) + "\n" for pair in pairs)
    out.write_text("".join(lines), encoding="utf-8")


BENCHMARK = Benchmark(
    name="seed",
    title="SEED-Bench (image and video pooled)",
    layout="SEED-Bench.json: {questions: [{question_id, answer, data_type, question_type_id, ...}], question_type}",
    prompt="{question}\\nA. ...\\nD. ...\\nAnswer with the option's letter from the given choices directly.",
    rule="The reply must equal the gold letter; all items of the gold pooled (metrics.image and metrics.video apart).",
    source="LLaVA convert_seed_for_submission.py; metrics.lmms_eval_first_letter: lmms-eval seedbench/utils.py",
    column="SEED",
    read=_read,
    mark=pooled(_rule, _metrics),
    names=usual_names,
    ids_repeat=True,
    upload=_upload,
    upload_form="JSON lines of {question_id, prediction} over all questions",
)
