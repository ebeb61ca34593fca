"""ChartQA: questions on charts, half written by people and half by a model; numbers may be 5 % off.

Source of the rule: the relaxed accuracy of the paper as Qwen-VL and lmms-eval compute it (`chartqa/utils.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from llavaflow.datasets.benchmarks._benchmark import (
    Answer,
    Benchmark,
    Item,
    Judge,
    Mark,
    Options,
    Pair,
    Scored,
    by_marks,
    grouped,
    mean,
    score_of,
)
from llavaflow.datasets.benchmarks._files import Row, find, find_all, rows
from llavaflow.datasets.benchmarks._join import names_of, question_of, usual_names
from llavaflow.infra.errors import InputError

TOLERANCE = 0.05
HALVES = ("human", "augmented")


def _read(gold: Path, options: Options) -> list[Item]:
    if gold.is_dir():
        halves = ("test_human.json", "test_augmented.json", "test_human.jsonl", "test_augmented.jsonl")
        paths = list(dict.fromkeys(find_all(gold, *halves))) or [
            find(gold, "test.jsonl", "test*.json", "*.jsonl", what="ChartQA test_human.json and test_augmented.json")
        ]
    else:
        paths = [gold]
    records = [(row, next((half for half in HALVES if half in path.name), "")) for path in paths for row in rows(path)]
    ids = [str(row.get("question_id", "")) for row, _ in records]
    # the published JSON lines have question_id -1 throughout: the place in the file then names a question
    if len(set(ids)) < len(ids):
        ids = [str(number) for number in range(len(ids))]
    return [_item(id, row, half) for id, (row, half) in zip(ids, records, strict=True)]


def _item(id: str, row: Row, half: str) -> Item:
    label = row.get("label", row.get("answer"))
    if label is None:
        raise InputError(f"chartqa: gold question {id} has no label and no answer.")
    image = str(row.get("imgname") or row.get("image") or "")
    text = str(row.get("query") or row.get("question") or "")
    kind = str(row.get("type") or half).removesuffix("_test")
    return Item(
        id=id,
        gold=str(label[0] if isinstance(label, list) else label),
        names=(*names_of("", image, text), f"{kind}|?{question_of(text)}", id),
        text=text,
        image=image,
        group=kind,
    )


def _names(answer: Answer) -> Iterator[str]:
    """Image and question first: an id may be the place in a file of another order."""
    names = list(usual_names(answer))
    yield from names[1:]
    yield names[0]


def number(text: str) -> float | None:
    """A reply as a number; a percentage counts as its hundredth part."""
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def relaxed_match(reply: str, gold: str) -> bool:
    """Within 5 % (inclusive) of a gold number that is not zero, else equal texts whatever the case."""
    said, meant = number(reply), number(gold)
    if said is not None and meant:
        return abs(said - meant) / abs(meant) <= TOLERANCE
    return reply.lower() == gold.lower()


def _rule(item: Item, text: str) -> Mark:
    return Mark(value=float(relaxed_match(text, item.gold)), read=text)


def _exact(item: Item, text: str) -> Mark:
    return Mark(value=float(text.strip().lower() == item.gold.strip().lower()), read=text)


def _mark(pairs: Sequence[Pair], options: Options, judge: Judge | None) -> Scored:
    marks = by_marks(_rule)(pairs)
    halves = grouped(pairs, marks, lambda item: item.group)
    score = mean(mark.value for mark in marks)
    metrics = {
        "overall": score,
        **halves,
        "exact": score_of(pairs, _exact),
    }
    notes = () if halves else ("the gold does not tell human from augmented questions: overall only",)
    return Scored(score=score, marks=marks, metrics=metrics, notes=notes)


BENCHMARK = Benchmark(
    name="chartqa",
    title="ChartQA test (human, augmented, overall)",
    layout="test_human.json and test_augmented.json: lists of {imgname, query, label}; or JSON lines with image, "
    "question, answer",
    prompt="{question}\nAnswer the question with a single word.",
    rule=(
        "Relaxed accuracy over all questions: a number within 5 % of a non-zero gold number (12% reads 0.12), "
        "otherwise equal without regard to case."
    ),
    source="ChartQA paper as in lmms-eval chartqa/utils.py",
    read=_read,
    mark=_mark,
    names=_names,
)
