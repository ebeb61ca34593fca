"""ScienceQA: school questions with two to five choices, half of the test split with an image.

Source of the rule: LLaVA `eval_science_qa.py`. The published column is the accuracy over questions with an image.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from llavaflow.datasets.benchmarks._benchmark import (
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
from llavaflow.datasets.benchmarks._files import find, find_all, load
from llavaflow.datasets.benchmarks._join import usual_names
from llavaflow.infra.errors import InputError

LETTERS = "ABCDE"
SPLIT = "test"
SENTENCE = re.compile(r"The answer is ([A-Z]).")
IMAGE_TOKEN = "<image>"


def _read(gold: Path, options: Options) -> list[Item]:
    path = find(gold, "problems.json", "*problems*.json", what="ScienceQA problems.json")
    problems = load(path)
    if not isinstance(problems, Mapping):
        raise InputError(f"{path} is not ScienceQA's object of problems by id.")
    ids = _split(path, problems)
    return [_item(id, problems[id]) for id in ids]


def _split(path: Path, problems: Mapping[str, Mapping[str, object]]) -> list[str]:
    """The ids of the test split: pid_splits.json beside the problems, else each problem's own `split`."""
    splits = next(find_all(path.parent, "pid_splits.json"), None)
    if splits is not None:
        ids = [str(id) for id in load(splits)[SPLIT]]
        absent = [id for id in ids if id not in problems]
        if absent:
            raise InputError(f"{splits} names {len(absent)} problems that {path} lacks (first: {absent[0]}).")
        return ids
    return [id for id, problem in problems.items() if problem.get("split", SPLIT) == SPLIT]


def _item(id: str, problem: Mapping[str, object]) -> Item:
    choices, answer = problem["choices"], problem["answer"]
    if not isinstance(choices, list) or not isinstance(answer, int):
        raise InputError(f"scienceqa: problem {id} has no choices with the number of the right one.")
    return Item(
        id=id,
        gold=answer,
        names=(id,),
        text=str(problem.get("question") or problem.get("question_block") or ""),
        image=f"{id}/{problem['image']}" if problem.get("image") else "",
        group=str(problem.get("subject") or ""),
        options=tuple(str(choice) for choice in choices),
        meta=problem,
    )


def letter(text: str) -> str | None:
    """LLaVA's reading: a bare letter; a letter, full stop and space in front; or one single `The answer is X.`"""
    if len(text) == 1 and text in LETTERS:
        return text
    if len(text) >= 3 and text[0] in LETTERS and text[1:3] == ". ":
        return text[0]
    found = SENTENCE.findall(text)
    return found[0] if len(found) == 1 else None


def _rule(item: Item, text: str) -> Mark:
    read = letter(text)
    chosen = LETTERS.find(read) if read and read in LETTERS[: len(item.options)] else -1
    return Mark(value=float(chosen == item.gold), read=read)


def _lmms_eval(item: Item, text: str) -> Mark:
    gold, reply = chr(ord("A") + item.gold), text.strip()
    if reply.upper() == gold:
        return Mark(value=1.0, read=gold)
    started = len(reply) >= 2 and reply[0].isupper() and reply[1] == "."
    return Mark(value=float(started and reply[0] == gold), read=reply[:1] if started else None)


def has_image(pair: Pair) -> bool:
    """Whether the question came with an image: the gold says so, else the image token in the prompt."""
    return bool(pair.item.image) or bool(pair.answer and IMAGE_TOKEN in pair.answer.prompt)


def _mark(pairs: Sequence[Pair], options: Options, judge: Judge | None) -> Scored:
    marks = by_marks(_rule)(pairs)
    pictured = [mark.value for pair, mark in zip(pairs, marks, strict=True) if has_image(pair)]
    everything = mean(mark.value for mark in marks)
    metrics = {
        "all": everything,
        "n_img": len(pictured),
        "lmms_eval_all": score_of(pairs, _lmms_eval),
        "subject": grouped(pairs, marks, lambda item: item.group),
        "grade": grouped(pairs, marks, lambda item: str(item.meta.get("grade") or "")),
    }
    if not pictured:
        return Scored(score=everything, marks=marks, metrics=metrics, notes=("no question has an image: score is all",))
    metrics["img"] = score = mean(pictured)
    return Scored(score=score, marks=marks, metrics=metrics)


BENCHMARK = Benchmark(
    name="scienceqa",
    title="ScienceQA test (all, and IMG)",
    layout="problems.json and pid_splits.json in one folder",
    prompt="Context: {hint}\\n{question}\\nA. ...\\nAnswer with the option's letter from the given choices directly.",
    rule=(
        "Accuracy over the questions with an image (metrics.all: over all). A bare letter A to E, or a letter with "
        "'. ' in front, or exactly one 'The answer is X.'; anything else is wrong, as is a letter beyond the choices."
    ),
    source="LLaVA eval_science_qa.py; metrics.lmms_eval_all: lmms-eval scienceqa/utils.py",
    column="SQA-I",
    read=_read,
    mark=_mark,
    names=usual_names,
)
