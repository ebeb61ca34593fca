"""MathVista: mathematics in pictures; a reply is reduced to an answer, which must equal the gold string.

Source of the rule: MathVista `evaluation/calculate_score.py` and `extract_answer.py`. Upstream lets a language model
extract the answer. A stored extraction is used where the file has one; else upstream's shortcuts, then the judge;
without a judge the reply itself is taken, so a short reply scores as it should and an essay mostly does not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from llavaflow.datasets.benchmarks._benchmark import (
    Benchmark,
    Item,
    Judge,
    Mark,
    Options,
    Pair,
    Prompt,
    Scored,
    grouped,
    mean,
)
from llavaflow.datasets.benchmarks._distance import edit_distance
from llavaflow.datasets.benchmarks._files import find, load
from llavaflow.datasets.benchmarks._join import usual_names
from llavaflow.infra.errors import InputError

KEYS = ("question_type", "answer_type", "language", "source", "category", "task", "context", "grade")
BRACKETED = re.compile(r"\(([a-zA-Z])\)")
QUOTED = re.compile(r'The answer is "(.*)"\.')
EXTRACT = (
    "Give only the final answer that this reply states, in the form that the hint asks for (the option's letter for a "
    "choice, else the bare number or list).\n\n{query}\n\nReply: {reply}\n\nExtracted answer:"
)


def _read(gold: Path, options: Options) -> list[Item]:
    path = find(gold, "testmini.json", "*testmini*.json", "*.json", "*.jsonl", "*.parquet", what="MathVista testmini")
    document = load(path)
    listed = document.values() if isinstance(document, Mapping) else document
    return [_item(row, path) for row in listed]


def _item(row: Mapping[str, Any], path: Path) -> Item:
    if row.get("answer") in (None, ""):
        raise InputError(f"{path}: problem {row.get('pid')} has no answer; the test split's answers are not public.")
    return Item(
        id=str(row["pid"]),
        gold=row["answer"],
        names=(str(row["pid"]),),
        text=str(row.get("query") or row.get("question", "")),
        image=str(row.get("image", "")),
        group=str((row.get("metadata") or {}).get("task", "")),
        options=tuple(str(choice) for choice in row.get("choices") or ()),
        meta=row,
    )


def stored(pair: Pair) -> str | None:
    """The extraction that the answer file holds. An empty one counts as it is, unless the file has no other."""
    found = pair.answer.row.get("extraction") if pair.answer else None
    return None if found is None else str(found)


def stated(pair: Pair) -> str | None:
    """The answer that a reply states by upstream's shortcuts; None where upstream asks a judge."""
    reply = pair.text
    if reply == "" or reply in pair.item.options:
        return reply
    cast = {"integer": int, "float": float}.get(str(pair.item.meta.get("answer_type")))
    if cast is not None:
        try:
            return str(cast(reply))
        except ValueError:
            pass
    quoted = QUOTED.search(reply)
    return quoted.group(1) if quoted else None


def extracted(pairs: Sequence[Pair], judge: Judge | None) -> list[str]:
    """The answer of every reply: stated in it, by the judge, or without a judge the reply itself."""
    known = [stored(pair) for pair in pairs]
    if not any(known):
        known = [None] * len(pairs)
    found = [stated(pair) if answer is None else answer for pair, answer in zip(pairs, known, strict=True)]
    open_places = [place for place, answer in enumerate(found) if answer is None]
    if judge is None or not open_places:
        return [pair.text if answer is None else answer for pair, answer in zip(pairs, found, strict=True)]
    prompts = [Prompt(text=EXTRACT.format(query=pairs[p].item.text, reply=pairs[p].text)) for p in open_places]
    said = dict(zip(open_places, judge(prompts), strict=True))
    return [said[place].strip() if answer is None else answer for place, answer in enumerate(found)]


def normalised(answer: str, item: Item) -> str | None:
    """The answer in the gold's form, or None when it cannot be brought into it."""
    if item.meta.get("question_type") == "multi_choice":
        return _choice(answer.strip(), item.options)
    kind = item.meta.get("answer_type")
    try:
        if kind == "integer":
            return str(int(float(answer)))
        if kind == "float":
            return str(round(float(answer), int(item.meta.get("precision") or 0)))
    except (ValueError, OverflowError):
        return None
    return answer


def _choice(answer: str, options: Sequence[str]) -> str | None:
    """The option of a letter, bracketed or bare, else the option nearest by edit distance."""
    if found := BRACKETED.findall(answer):
        answer = found[0].upper()
    if len(answer) == 1 and 0 <= (place := ord(answer) - ord("A")) < len(options):
        return options[place]
    return min(options, key=lambda option: edit_distance(answer, option), default=None)


def _mark_pair(pair: Pair, answer: str) -> Mark:
    if pair.answer is None:
        return Mark(value=0.0, read=None)
    read = normalised(answer, pair.item)
    return Mark(value=float(read == pair.item.gold), read=read)


def _mark(pairs: Sequence[Pair], options: Options, judge: Judge | None) -> Scored:
    marks = [_mark_pair(pair, answer) for pair, answer in zip(pairs, extracted(pairs, judge), strict=True)]
    metrics: dict[str, Any] = {"average": mean(mark.value for mark in marks)}
    metrics |= {key: grouped(pairs, marks, partial(_value, key)) for key in KEYS}
    metrics["skills"] = _skills(pairs, marks)
    extractions = sum(bool(stored(pair)) for pair in pairs)
    metrics["stored_extractions"] = extractions
    notes = () if extractions or judge else ("no stored extractions and no judge: replies are read by rule alone",)
    return Scored(score=metrics["average"], marks=marks, metrics=metrics, notes=notes)


def _value(key: str, item: Item) -> str:
    return str(item.meta.get(key) or (item.meta.get("metadata") or {}).get(key) or "")


def _skills(pairs: Sequence[Pair], marks: Sequence[Mark]) -> dict[str, float]:
    groups: dict[str, list[float]] = {}
    for pair, mark in zip(pairs, marks, strict=True):
        for skill in (pair.item.meta.get("metadata") or {}).get("skills") or ():
            groups.setdefault(str(skill), []).append(mark.value)
    return {skill: mean(values) for skill, values in sorted(groups.items())}


BENCHMARK = Benchmark(
    name="mathvista",
    title="MathVista testmini",
    layout="testmini.json: {pid: {question, choices, answer, question_type, answer_type, precision, metadata}}",
    prompt="{query} (a hint line that names the form of the answer, then the question)",
    rule=(
        "The extracted answer brought into the gold's form (choice by (A), letter or nearest edit distance; integer "
        "via int(float()); float rounded to the item's precision; lists as text), then string equality; pooled."
    ),
    source="MathVista evaluation/calculate_score.py and extract_answer.py",
    column="MathVista",
    read=_read,
    mark=_mark,
    names=usual_names,
)
