"""MM-Vet: 218 open questions graded 0.0 to 1.0 by a judge with few-shot examples, by capability.

Source of the rule: MM-Vet's evaluator. A grade that is no number from 0 to 1 is asked for again with an added line and
a higher temperature, then left out and counted. The total needs only grades; `mm-vet.json` adds the capabilities.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llavaflow.datasets.benchmarks._benchmark import (
    Answer,
    Benchmark,
    Item,
    Judge,
    Mark,
    Options,
    Pair,
    Prompt,
    Scored,
    mean,
)
from llavaflow.datasets.benchmarks._files import find, load
from llavaflow.datasets.benchmarks._join import names_of, usual_names
from llavaflow.datasets.benchmarks._judged import ask_until_read
from llavaflow.datasets.benchmarks._reviews import TEXTS, strangers
from llavaflow.infra.errors import InputError

CAPABILITIES = ("rec", "ocr", "know", "gen", "spat", "math")
AGAIN = "\nPredict the correctness of the answer (digit): "
HOTTER = 0.5
ATTEMPTS = 4
MAX_TOKENS = 16
# the grade, None where every attempt failed, and the judge's last words
Grade = tuple[float | None, str]


def _read(gold: Path, options: Options) -> list[Item]:
    path = find(gold, "mm-vet.json", "questions.jsonl", "*questions*.jsonl", "*.json", what="mm-vet.json or questions")
    document = load(path)
    listed = document.items() if isinstance(document, Mapping) else ((_id(row), row) for row in document)
    return [_item(str(id), row) for id, row in listed]


def _id(row: Mapping[str, Any]) -> str:
    id = str(row.get("question_id", row.get("id")))
    return id if id.startswith("v1_") else f"v1_{id}"


def _item(id: str, row: Mapping[str, Any]) -> Item:
    text, image = str(row.get("question") or row.get("text") or ""), str(row.get("imagename") or row.get("image") or "")
    capability = row.get("capability") or ()
    listed = capability.split(",") if isinstance(capability, str) else capability
    return Item(
        id=id,
        gold=row.get("answer"),
        names=(*names_of(id, image, text), id.removeprefix("v1_")),
        text=text,
        image=image,
        group="_".join(name for name in CAPABILITIES if name in listed),
    )


def grade_prompt(pair: Pair) -> str:
    """The few-shot table with one more row, whose last cell the judge completes."""
    gold = str(pair.item.gold).replace("<AND>", " <AND> ").replace("<OR>", " <OR> ")
    return f"{TEXTS['mmvet']}\n{' | '.join((pair.item.text, gold, pair.text, ''))}"


def parse_grade(reply: str) -> float | None:
    """The first word as a number from 0 to 1, or None."""
    try:
        grade = float(reply.split(" ")[0].strip())
    except ValueError:
        return None
    return grade if 0 <= grade <= 1 else None


def grade_runs(pairs: Sequence[Pair], judge: Judge, runs: int = 1) -> list[list[Grade]]:
    """The grade of every answer in every run, asked again with an added line and more warmth while a reply is none.

    A missing answer is wrong and not asked about. Raises InputError for gold without reference answers.
    """
    if any(pair.item.gold is None for pair in pairs):
        raise InputError("mmvet: grading needs the reference answers of mm-vet.json: give it as --gold.")
    asked = [(run, pair) for run in range(runs) for pair in pairs if pair.answer]

    def prompt(place: int, attempt: int) -> Prompt:
        run, pair = asked[place]
        text = grade_prompt(pair) + (AGAIN if attempt else "")
        return Prompt(text=text, temperature=attempt * HOTTER, max_tokens=MAX_TOKENS, run=run, attempt=attempt)

    found = iter(ask_until_read(judge, len(asked), prompt, parse_grade, ATTEMPTS))
    return [[next(found) if pair.answer else (0.0, "") for pair in pairs] for _ in range(runs)]


def write_grades(runs: Sequence[Sequence[Grade]], pairs: Sequence[Pair], model: str, path: Path) -> None:
    """MM-Vet's grade JSON: per question the judge, its words and the grade of every run; -1 marks a failed one."""
    document = {
        pair.item.id: {
            "model": [model] * len(runs),
            "content": [run[place][1] for run in runs],
            "score": [-1 if run[place][0] is None else run[place][0] for run in runs],
        }
        for place, pair in enumerate(pairs)
    }
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_grades(path: Path) -> dict[str, list[float | None]]:
    """Stored grades by question, one per run: MM-Vet's grade JSON, or plain id to grade."""
    document = load(path)
    if not isinstance(document, Mapping):
        raise InputError(f"{path} is not MM-Vet's object of grades by question.")
    found = {}
    for id, row in document.items():
        grades = row.get("score") if isinstance(row, Mapping) else row
        listed = grades if isinstance(grades, list) else [grades]
        found[str(id)] = [_grade(value) for value in listed]
    return found


def _grade(value: object) -> float | None:
    """A stored grade; -1 or a word marks a failed call."""
    return float(value) if isinstance(value, (int, float)) and 0 <= value <= 1 else None


def _names(answer: Answer) -> Iterator[str]:
    """The usual names, and the number without MM-Vet's `v1_`: LLaVA's questions have the bare one."""
    yield from usual_names(answer)
    yield answer.id.removeprefix("v1_")


def _runs(pairs: Sequence[Pair], options: Options, judge: Judge | None) -> list[list[float | None]]:
    """The grades of all pairs, run by run."""
    if not options.reviews:
        if judge is None:
            raise InputError("mmvet is graded by a judge: give --reviews GRADES.json, or --judge MODEL to ask one.")
        return [[grade for grade, _ in run] for run in grade_runs(pairs, judge)]
    runs: list[list[float | None]] = []
    for path in options.reviews:
        grades = read_grades(path)
        absent = [pair.item.id for pair in pairs if pair.item.id not in grades]
        if absent and not options.allow_missing:
            raise InputError(f"{path} lacks the grade of {len(absent)} questions (first: {absent[0]}).")
        count = max((len(values) for values in grades.values()), default=0)
        runs += [[_nth(pair, grades, run) for pair in pairs] for run in range(count)]
    return runs


def _nth(pair: Pair, grades: Mapping[str, Sequence[float | None]], run: int) -> float | None:
    """The grade of one run; a missing answer that nobody graded is wrong, as it is where a judge is asked."""
    if pair.answer is None and pair.item.id not in grades:
        return 0.0
    given = grades.get(pair.item.id, ())
    return given[run] if run < len(given) else None


def _mark(pairs: Sequence[Pair], options: Options, judge: Judge | None) -> Scored:
    runs = _runs(pairs, options, judge)
    totals = [mean(kept) for run in runs if (kept := [grade for grade in run if grade is not None])]
    if not totals:
        raise InputError("mmvet: no grade is a number from 0 to 1: there is nothing to average.")
    marks = [_mark_of([run[place] for run in runs]) for place in range(len(pairs))]
    failed = sum(grade is None for run in runs for grade in run)
    graded = [(pair.item.group, mark.value) for pair, mark in zip(pairs, marks, strict=True) if mark.read is not None]
    metrics: dict[str, Any] = {"runs": totals, "spread": statistics.pstdev(totals), "failed": failed}
    names = sorted({group for group, _ in graded if group})
    metrics["capability"] = {
        name: mean(value for group, value in graded if name in group.split("_"))
        for name in CAPABILITIES
        if any(name in group.split("_") for group in names)
    }
    metrics["combination"] = {name: mean(value for group, value in graded if group == name) for name in names}
    notes = () if names else ("this gold has no capabilities (mm-vet.json has): total only",)
    failures = (f"{failed} grades that are no number from 0 to 1 were left out",) if failed else ()
    told = (*notes, *failures, *strangers(options.reviews, read_grades, pairs))
    return Scored(score=statistics.fmean(totals), marks=marks, metrics=metrics, notes=told)


def _mark_of(grades: Sequence[float | None]) -> Mark:
    kept = [grade for grade in grades if grade is not None]
    return Mark(value=statistics.fmean(kept), read=str(kept)) if kept else Mark(value=0.0, read=None)


def _upload(pairs: Sequence[Pair], out: Path) -> None:
    replies = {f"v1_{pair.item.id.removeprefix('v1_')}": pair.text for pair in pairs}
    out.write_text(json.dumps(replies, indent=2), encoding="utf-8")


BENCHMARK = Benchmark(
    name="mmvet",
    title="MM-Vet",
    layout="mm-vet.json: {v1_0: {imagename, question, answer, capability}}; or LLaVA's questions.jsonl (total only)",
    prompt="{question}",
    rule=(
        "Mean grade x 100 over the questions, averaged over the runs (metrics.spread: their standard deviation); "
        "grades that are no number from 0 to 1 left out and counted."
    ),
    source="MM-Vet evaluator (few-shot grader); LLaVA convert_mmvet_for_eval.py",
    column="MM-Vet",
    judged=True,
    read=_read,
    mark=_mark,
    names=_names,
    upload=_upload,
    upload_form="JSON of id to text: {v1_0: ...}",
)
