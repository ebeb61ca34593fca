"""GQA: compositional questions on scene graphs with one gold word or phrase; test-dev balanced has 12,578.

Source of the rule: LLaVA `convert_gqa_for_eval.py` (lower case, final full stops stripped), then GQA's `eval.py`.
"""

from __future__ import annotations

import string
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
    pooled,
    score_of,
)
from llavaflow.datasets.benchmarks._files import find, load
from llavaflow.datasets.benchmarks._join import asked, usual_names
from llavaflow.datasets.benchmarks._vqa import write_upload
from llavaflow.infra.errors import InputError

OPEN = "query"
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _read(gold: Path, options: Options) -> list[Item]:
    path = find(gold, "testdev_balanced_questions.json", "*questions*.json", "*.json", "*.jsonl", what="GQA questions")
    document = load(path)
    if isinstance(document, list):
        document = {str(row.get("question_id", row.get("id"))): row for row in document}
    if not isinstance(document, Mapping):
        raise InputError(f"{path} is not GQA's object of questions by id.")
    try:
        return [_item(str(id), row) for id, row in document.items()]
    except KeyError as error:
        raise InputError(f"{path} has a question without {error}: it is not a GQA gold file.") from error


def _item(id: str, row: Mapping[str, object]) -> Item:
    kinds = row.get("types")
    kinds = kinds if isinstance(kinds, Mapping) else {}
    image, text = str(row.get("imageId") or row.get("image") or ""), str(row.get("question", ""))
    return Item(
        id=id,
        gold=str(row["answer"]),
        names=(id, asked(image, text)),
        text=text,
        image=image,
        group=str(kinds.get("structural", "")),
        meta=kinds,
    )


def prediction(text: str) -> str:
    """The prediction that LLaVA hands to GQA's evaluation."""
    return text.rstrip(".").lower()


def _rule(item: Item, text: str) -> Mark:
    read = prediction(text)
    return Mark(value=float(read == item.gold), read=read)


def _lmms_eval(item: Item, text: str) -> Mark:
    read, gold = (side.lower().translate(NO_PUNCTUATION) for side in (text, item.gold))
    return Mark(value=float(read == gold), read=read)


def _metrics(pairs: Sequence[Pair], marks: Sequence[Mark]) -> Metrics:
    halves = grouped(pairs, marks, lambda item: ("open" if item.group == OPEN else "binary") if item.group else "")
    return {
        **halves,
        "lmms_eval_exact_match": score_of(pairs, _lmms_eval),
        "structural": grouped(pairs, marks, lambda item: item.group),
        "semantic": grouped(pairs, marks, lambda item: str(item.meta.get("semantic", ""))),
    }


def _upload(pairs: Sequence[Pair], out: Path) -> None:
    write_upload(({"questionId": pair.item.id, "prediction": prediction(pair.text)} for pair in pairs), out)


BENCHMARK = Benchmark(
    name="gqa",
    title="GQA test-dev balanced",
    layout="testdev_balanced_questions.json: {question id: {question, imageId, answer, types, ...}}",
    prompt="{question}\\nAnswer the question using a single word or phrase.",
    rule="Exact match after lower-casing and stripping final full stops, over all questions.",
    source=(
        "LLaVA convert_gqa_for_eval.py and GQA eval.py (binary: verify, logical, choose, compare; open: query); "
        "metrics.lmms_eval_exact_match: lmms-eval gqa.yaml, which drops all punctuation on both sides"
    ),
    column="GQA",
    read=_read,
    mark=pooled(_rule, _metrics),
    names=usual_names,
    upload=_upload,
    upload_form="JSON list of {questionId, prediction} for GQA's eval.py",
)
