"""MMMU: college exam questions of thirty subjects, most with lettered options, a few open.

Source of the rule: MMMU `utils/eval_utils.py`, its guess included: where no option can be found in a reply, upstream
draws one at random. The draws are taken here in gold order with seed 42, so shuffled answers score the same.
"""

from __future__ import annotations

import ast
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llavaflow.datasets.benchmarks._benchmark import (
    Benchmark,
    Item,
    Judge,
    Mark,
    Options,
    Pair,
    Scored,
    grouped,
    mean,
)
from llavaflow.datasets.benchmarks._files import Row, find, find_all, load
from llavaflow.datasets.benchmarks._join import usual_names
from llavaflow.datasets.benchmarks._mmmu_replies import open_matches, read_choice
from llavaflow.infra.errors import InputError

SEED = 42
CHOICE = "multiple-choice"
LETTERS = "ABCDEFGHI"
DOMAINS = {
    "Art and Design": ("Art", "Art_Theory", "Design", "Music"),
    "Business": ("Accounting", "Economics", "Finance", "Manage", "Marketing"),
    "Science": ("Biology", "Chemistry", "Geography", "Math", "Physics"),
    "Health and Medicine": (
        "Basic_Medical_Science", "Clinical_Medicine", "Diagnostics_and_Laboratory_Medicine", "Pharmacy",
        "Public_Health",
    ),
    "Humanities and Social Science": ("History", "Literature", "Sociology", "Psychology"),
    "Tech and Engineering": (
        "Agriculture", "Architecture_and_Engineering", "Computer_Science", "Electronics", "Energy_and_Power",
        "Materials", "Mechanical_Engineering",
    ),
}  # fmt: skip
DOMAIN_OF = {subject: domain for domain, subjects in DOMAINS.items() for subject in subjects}


def _read(gold: Path, options: Options) -> list[Item]:
    if gold.is_dir():
        paths = list(dict.fromkeys(find_all(gold, "answer_dict_val.json", "*answer_dict*.json")))[:1]
        paths = paths or list(dict.fromkeys(find_all(gold, "output.json", "*.parquet", "*.jsonl")))
        paths = paths or [find(gold, "answer_dict_val.json", what="MMMU answer_dict_val.json")]
    else:
        paths = [gold]
    return [item for path in paths for item in _items(load(path), path)]


def _items(document: Any, path: Path) -> list[Item]:
    if isinstance(document, Mapping):
        return [_item(str(id), {"id": id, **row}, path) for id, row in document.items()]
    return [_item(str(row.get("id")), row, path) for row in document]


def _item(id: str, row: Row, path: Path) -> Item:
    gold = row.get("ground_truth", row.get("answer"))
    if gold is None:
        raise InputError(f"{path}: question {id} has neither ground_truth nor answer; the test split is not public.")
    kind = str(row.get("question_type", CHOICE))
    if kind != CHOICE:
        gold = _listed(gold)
    return Item(
        id=id,
        gold=gold,
        names=(id,),
        text=str(row.get("question", "")),
        group="_".join(id.split("_")[1:-1]),
        meta={"kind": kind, "choices": choices_of(row)},
    )


def choices_of(row: Mapping[str, Any]) -> dict[str, str]:
    """The options by letter, from MMMU's output files (index2ans) or its records (options)."""
    if isinstance(row.get("index2ans"), Mapping):
        return {str(letter): str(text) for letter, text in row["index2ans"].items()}
    return {letter: str(text) for letter, text in zip(LETTERS, _listed(row.get("options")) or (), strict=False)}


def _listed(value: Any) -> Any:
    """A list that the hub's records keep as Python's text of it; anything else as it is."""
    if not isinstance(value, str) or not value.startswith("["):
        return value
    try:
        return ast.literal_eval(value)
    except (SyntaxError, ValueError) as error:
        raise InputError(f"mmmu: {value[:60]!r} is not a list as Python writes one.") from error


def _choices(pair: Pair) -> Mapping[str, str]:
    """The options by letter, from the gold or else from the answer's own row."""
    return pair.item.meta["choices"] or (choices_of(pair.answer.row) if pair.answer else {})


def _mark_pair(pair: Pair, chance: random.Random) -> tuple[Mark, bool]:
    """The mark, and whether it comes from a guess."""
    if pair.answer is None:
        return Mark(value=0.0, read=None), False
    gold = pair.item.gold
    if pair.item.meta["kind"] != CHOICE:
        return Mark(value=float(open_matches(pair.text, gold)), read=pair.text), False
    choices = _choices(pair)
    letter = read_choice(pair.text, choices or dict.fromkeys(LETTERS, ""))
    guess = chance.choice(list(choices)) if letter is None and choices else None
    right = (letter or guess) in gold if isinstance(gold, list) else (letter or guess) == gold
    return Mark(value=float(right), read=letter), guess is not None


def _mark(pairs: Sequence[Pair], options: Options, judge: Judge | None) -> Scored:
    chance = random.Random(SEED)
    marked = [_mark_pair(pair, chance) for pair in pairs]
    marks = [mark for mark, _ in marked]
    guessed = sum(guess for _, guess in marked)
    score = mean(mark.value for mark in marks)
    metrics = {
        "overall": score,
        "guessed": guessed,
        "guesses_wrong": mean(mark.value if mark.read is not None else 0.0 for mark in marks),
        "form": grouped(pairs, marks, lambda item: item.meta["kind"]),
        "domain": grouped(pairs, marks, lambda item: DOMAIN_OF.get(item.group, "")),
        "subject": grouped(pairs, marks, lambda item: item.group),
    }
    return Scored(score=score, marks=marks, metrics=metrics, notes=_notes(pairs, guessed))


def _notes(pairs: Sequence[Pair], guessed: int) -> tuple[str, ...]:
    """How many replies were guessed, and how many could not be for want of the options."""
    notes = []
    if guessed:
        notes.append(f"{guessed} replies name no option; upstream's random guess (seed {SEED}, gold order) stands in")
    bare = sum(pair.item.meta["kind"] == CHOICE and not _choices(pair) for pair in pairs if pair.answer)
    if bare:
        notes.append(f"{bare} questions come without their options: letters are read, and nothing is guessed")
    return tuple(notes)


def _upload(pairs: Sequence[Pair], out: Path) -> None:
    out.write_text(json.dumps({pair.item.id: pair.text for pair in pairs}, ensure_ascii=False), encoding="utf-8")


BENCHMARK = Benchmark(
    name="mmmu",
    title="MMMU validation",
    layout="answer_dict_val.json: {id: {question_type, ground_truth}}, a folder of <subject>/output.json, or records",
    prompt="{question}\\n\\n(A) ...\\n\\nAnswer with the option's letter from the given choices directly.",
    rule=(
        "Accuracy pooled over all questions. Choice: (X) anywhere, else ' X ', else the option's text in a reply of "
        "more than five words, the last one wins; none found: a random option, seed 42, in gold order "
        "(metrics.guesses_wrong counts them as wrong). Open: gold contained in a key phrase, or an equal number "
        "rounded to 2 places."
    ),
    source="MMMU mmmu/utils/eval_utils.py",
    column="MMMU",
    read=_read,
    mark=_mark,
    names=usual_names,
    upload=_upload,
    upload_form="JSON of id to reply",
)
