"""A-OKVQA: commonsense questions with four choices and ten direct answers.

Source of the rule: A-OKVQA's `eval_predictions.py`. Multiple choice: the reply must be the text of the right choice
(a bare letter, as LLaVA's prompt asks for, stands for its choice). Direct answer: min(1, exact matches / 3), nobody
left out, without the questions marked difficult_direct_answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llavaflow.datasets.benchmarks._benchmark import (
    Benchmark,
    Item,
    Judge,
    Mark,
    Options,
    Pair,
    Scored,
    mean,
)
from llavaflow.datasets.benchmarks._files import Row, find, rows
from llavaflow.datasets.benchmarks._join import names_of, usual_names
from llavaflow.infra.errors import InputError

LETTERS = "ABCDEFGH"


def _read(gold: Path, options: Options) -> list[Item]:
    path = find(gold, "aokvqa_v1p0_val.json", "aokvqa*val*.json", "*.json", "*.jsonl", what="A-OKVQA annotations")
    return [_item(row, path) for row in rows(path)]


def _item(row: Row, path: Path) -> Item:
    if "correct_choice_idx" not in row:
        raise InputError(f"{path} has a record without correct_choice_idx: the test split's answers are not public.")
    id, image, text = str(row["question_id"]), str(row.get("image_id", "")), str(row.get("question", ""))
    return Item(
        id=id,
        gold=row["choices"][row["correct_choice_idx"]],
        names=names_of(id, image, text),
        text=text,
        image=image,
        options=tuple(row["choices"]),
        meta=row,
    )


def _replies(pair: Pair, setting: str) -> str:
    """The reply to one of the two settings; an ordinary answer file has one reply for both."""
    row = pair.answer.row if pair.answer else {}
    return str(row[setting]) if setting in row else pair.text


def _choice(pair: Pair) -> Mark:
    if pair.answer is None:
        return Mark(value=0.0, read=None)
    reply, options = _replies(pair, "multiple_choice"), pair.item.options
    if reply not in options and len(reply) == 1 and reply in LETTERS[: len(options)]:
        reply = options[LETTERS.index(reply)]
    return Mark(value=float(reply == pair.item.gold), read=reply if reply in options else None)


def _direct(pair: Pair) -> float:
    reply = _replies(pair, "direct_answer") if pair.answer else None
    matches: int = sum(human == reply for human in pair.item.meta["direct_answers"])
    return min(1.0, matches / 3)


def _mark(pairs: Sequence[Pair], options: Options, judge: Judge | None) -> Scored:
    marks = [_choice(pair) for pair in pairs]
    direct = [_direct(pair) for pair in pairs if _has_direct_answers(pair.item)]
    metrics = {
        "multiple_choice": mean(mark.value for mark in marks),
        "direct_answer": mean(direct) if direct else None,
        "direct_answer_questions": len(direct),
    }
    return Scored(score=mean(mark.value for mark in marks), marks=marks, metrics=metrics)


def _has_direct_answers(item: Item) -> bool:
    return bool(item.meta.get("direct_answers")) and not item.meta.get("difficult_direct_answer", False)


BENCHMARK = Benchmark(
    name="aokvqa",
    title="A-OKVQA validation (multiple choice; direct answer in the metrics)",
    layout="aokvqa_v1p0_val.json: list of {question_id, question, choices, correct_choice_idx, direct_answers, ...}",
    prompt="{question}\\nA. ...\\nAnswer with the option's letter from the given choices directly.",
    rule=(
        "Multiple choice: the reply is exactly the right choice's text, or its bare letter. metrics.direct_answer: "
        "min(1, exact matches among the ten / 3), difficult_direct_answer questions left out."
    ),
    source="allenai/aokvqa evaluation/eval_predictions.py",
    read=_read,
    mark=_mark,
    names=usual_names,
)
