"""DocVQA: questions on scanned pages, scored by edit distance (ANLS). The test set is scored on a server."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from llavaflow.datasets.benchmarks._benchmark import (
    Benchmark,
    Item,
    Mark,
    Metrics,
    Options,
    Pair,
    mean,
    pooled,
    score_of,
)
from llavaflow.datasets.benchmarks._distance import edit_distance
from llavaflow.datasets.benchmarks._files import Row, find, load
from llavaflow.datasets.benchmarks._join import names_of, usual_names
from llavaflow.datasets.benchmarks._vqa import write_upload
from llavaflow.infra.errors import InputError

THRESHOLD = 0.5
GOLDS = ("answers", "ground_truth", "answer")


def _read(gold: Path, options: Options) -> list[Item]:
    path = find(gold, "val_v1.0*.json", "val*.json", "val*.jsonl", "*.json", "*.jsonl", what="DocVQA annotations")
    document = load(path)
    listed = document.get("data") if isinstance(document, Mapping) else document
    if not isinstance(listed, list):
        raise InputError(f"{path} has no list of questions (`data`): it is not a DocVQA gold file.")
    return [_item(row, path) for row in listed]


def _item(row: Row, path: Path) -> Item:
    golds = next((row[name] for name in GOLDS if row.get(name) is not None), None)
    if golds is None:
        raise InputError(f"{path} has a record without answers: the test split is scored on the server, use --upload.")
    id = str(row.get("questionId", row.get("question_id")))
    image, text = str(row.get("image", "")), str(row.get("question", ""))
    return Item(
        id=id,
        gold=[str(gold) for gold in golds] if isinstance(golds, list) else [str(golds)],
        names=names_of(id, image, text),
        text=text,
        image=image,
    )


def collapsed(text: str) -> str:
    """Lower-case, one space between words, none at the edges."""
    return " ".join(text.lower().split())


def similarity(reply: str, golds: Sequence[str], normal: Callable[[str], str], original_length: bool) -> float:
    """The best 1 - distance / longer length over the gold answers; below a half it is nothing."""
    scores = []
    for gold in golds:
        left, right = normal(gold), normal(reply)
        longest = max(len(gold.upper()), len(reply.upper())) if original_length else max(len(left), len(right))
        scores.append(1 - edit_distance(left, right) / longest if longest else 1.0)
    best = max(scores, default=0.0)
    return best if best >= THRESHOLD else 0.0


def _rule(item: Item, text: str) -> Mark:
    return Mark(value=similarity(text, item.gold, collapsed, original_length=False), read=collapsed(text))


def _original_length(item: Item, text: str) -> Mark:
    return Mark(value=similarity(text, item.gold, collapsed, original_length=True), read=text)


def _m4c(item: Item, text: str) -> Mark:
    value = similarity(text, item.gold, lambda side: side.lower().strip(), original_length=False)
    return Mark(value=value, read=text)


def _metrics(pairs: Sequence[Pair], marks: Sequence[Mark]) -> Metrics:
    return {
        "lmms_eval_original_length": score_of(pairs, _original_length),
        "m4c_spaces_kept": score_of(pairs, _m4c),
        "exact": mean(mark.value == 1.0 for mark in marks),
    }


def _upload(pairs: Sequence[Pair], out: Path) -> None:
    records = (
        {"questionId": int(pair.item.id) if pair.item.id.isdecimal() else pair.item.id, "answer": pair.text}
        for pair in pairs
    )
    write_upload(records, out)


BENCHMARK = Benchmark(
    name="docvqa",
    title="DocVQA validation (test by upload)",
    layout="val_v1.0.json: {data: [{questionId, question, image, answers}]}, or JSON lines with question_id and answer",
    prompt="{question}\\nAnswer the question using a single word or phrase.",
    rule=(
        "ANLS x 100: 1 - edit distance / longer length against the nearest gold answer, on lower-cased text with "
        "collapsed spaces; below 0.5 becomes 0; mean."
    ),
    source=(
        "DocVQA ANLS; metrics.lmms_eval_original_length: lmms-eval api/metrics.py; metrics.m4c_spaces_kept: LLaVA "
        "m4c_evaluator.py"
    ),
    column="DocVQA",
    read=_read,
    mark=pooled(_rule, _metrics),
    names=usual_names,
    upload=_upload,
    upload_form="JSON list of {questionId, answer}",
)
