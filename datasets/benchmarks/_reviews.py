"""GPT-assisted review of LLaVA-Bench: the prompt, the reading of a reply, stored reviews and what they sum to.

A review names two scores in its first line, for the reference answer and for the model's. A review that does not is
asked again, then left out and counted; upstream writes -1 -1 and averages it in, which `with_failed` reproduces.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from importlib.resources import files
from operator import add
from pathlib import Path
from typing import Any

from llavaflow.datasets.benchmarks._benchmark import Judge, Pair, Prompt
from llavaflow.datasets.benchmarks._files import rows
from llavaflow.datasets.benchmarks._judged import ask_until_read
from llavaflow.infra.errors import InputError

TEXTS: dict[str, Any] = json.loads(
    files("llavaflow.datasets.benchmarks").joinpath("_judge_texts.json").read_text(encoding="utf-8")
)
TEMPERATURE = 0.2
MAX_TOKENS = 1024
ATTEMPTS = 3
MOST = 10
FAILED = (-1.0, -1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Review:
    """The judge's word on one answer; `scores` is None when no attempt gave a score pair."""

    question_id: str
    category: str
    scores: tuple[float, float] | None
    content: str


def parse_scores(reply: str) -> tuple[float, float] | None:
    """Exactly two numbers in the first line, separated by a comma or a space, each from 0 to 10."""
    parts = reply.split("\n")[0].replace(",", " ").split()
    if len(parts) != 2:
        return None
    try:
        left, right = float(parts[0]), float(parts[1])
    except ValueError:
        return None
    return (left, right) if 0 <= left <= MOST and 0 <= right <= MOST else None


def prompt_of(pair: Pair, rule: str) -> str:
    """The text that the judge reads: context, question, the reference, the candidate, the rule."""
    meta, role = pair.item.meta, TEXTS["role"]
    return (
        f"[Context]\n{meta['context']}\n\n[Question]\n{pair.item.text}\n\n"
        f"[{role} 1]\n{meta['reference']}\n\n[End of {role} 1]\n\n"
        f"[{role} 2]\n{pair.text}\n\n[End of {role} 2]\n\n[System]\n{TEXTS['rules'][rule]}\n\n"
    )


def review_runs(pairs: Sequence[Pair], rule: str, judge: Judge, runs: int = 1) -> list[list[Review]]:
    """Ask the judge about every answer in every run, again where the reply has no score pair.

    Raises InputError for gold that lacks what a review shows the judge.
    """
    bare = [pair.item.id for pair in pairs if not pair.item.meta]
    if bare:
        raise InputError(
            f"question {bare[0]} has no context or no reference answer: a review needs the questions, the contexts "
            "and GPT-4's answers in one folder."
        )

    def prompt(place: int, attempt: int) -> Prompt:
        run, number = divmod(place, len(pairs))
        return Prompt(
            text=prompt_of(pairs[number], rule), system=TEXTS["system"], temperature=TEMPERATURE,
            max_tokens=MAX_TOKENS, run=run, attempt=attempt,
        )  # fmt: skip

    found = ask_until_read(judge, runs * len(pairs), prompt, parse_scores, ATTEMPTS)
    reviews = [
        Review(question_id=pair.item.id, category=pair.item.group, scores=scores, content=reply)
        for pair, (scores, reply) in zip([*pairs] * runs, found, strict=True)
    ]
    return [reviews[start : start + len(pairs)] for start in range(0, len(reviews), len(pairs))]


def read_reviews(path: Path) -> dict[str, Review]:
    """Stored reviews by question: LLaVA's JSON lines, or lmms-eval's records with `scores`."""
    found: dict[str, Review] = {}
    for line, row in enumerate(rows(path), start=1):
        if "question_id" not in row:
            raise InputError(f"{path}, record {line} has no question_id: it is not a review file.")
        id = str(row["question_id"])
        if id in found:
            raise InputError(f"{path}, record {line} reviews question {id} a second time. Keep one review each.")
        category = str(row.get("category", "")).removeprefix("llava_bench_")
        content = str(row.get("content", row.get("review", "")))
        found[id] = Review(question_id=id, category=category, scores=_stored(row, content), content=content)
    return found


def _stored(row: Mapping[str, Any], content: str) -> tuple[float, float] | None:
    pair = row.get("tuple", row.get("scores", row.get("score")))
    if not isinstance(pair, Sequence) or isinstance(pair, str):
        return parse_scores(content)
    usable = len(pair) == 2 and all(isinstance(value, (int, float)) and 0 <= value <= MOST for value in pair)
    return (float(pair[0]), float(pair[1])) if usable else None


def strangers(
    paths: Sequence[Path], read: Callable[[Path], Mapping[str, object]], pairs: Sequence[Pair]
) -> tuple[str, ...]:
    """A remark for every file of reviews or grades that speaks of other questions too: it may be of another gold."""
    known = {pair.item.id for pair in pairs}
    counts = {path: len(read(path).keys() - known) for path in paths}
    return tuple(
        f"{count} entries of {path.name} belong to no question of this gold and were left out"
        for path, count in counts.items()
        if count
    )


def write_reviews(reviews: Sequence[Review], pairs: Sequence[Pair], path: Path, prefix: str) -> None:
    """LLaVA's review JSON lines; a failed review is written with its reply and -1 -1, as upstream does."""
    lines = []
    for number, (found, pair) in enumerate(zip(reviews, pairs, strict=True), start=1):
        candidate = pair.answer.row.get("answer_id", pair.item.id) if pair.answer else None
        lines.append(
            json.dumps(
                {
                    "id": number,
                    "question_id": int(found.question_id) if found.question_id.isdecimal() else found.question_id,
                    "answer1_id": pair.item.meta.get("reference_id", pair.item.id),
                    "answer2_id": candidate,
                    "category": f"{prefix}{found.category}",
                    "content": found.content,
                    "tuple": list(found.scores or FAILED),
                },
                ensure_ascii=False,
            )
        )
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def ratio(pairs: Sequence[tuple[float, float]]) -> dict[str, float] | None:
    """Mean of the model over mean of the reference in percent, means rounded to 3 places, the ratio to 1.

    Added and divided in upstream's order: a sum of decimals that is exact rounds to another third place.
    """
    if not pairs:
        return None
    reference, model = (round(reduce(add, column) / len(pairs), 3) for column in zip(*pairs, strict=True))
    relative = round(model / reference * 100, 1) if reference else 0.0
    return {"relative": relative, "reference": round(10 * reference, 1), "model": round(10 * model, 1)}


def summary(run: Sequence[Review]) -> dict[str, Any]:
    """One run: overall and per category without the failed reviews, and upstream's average with them."""
    categories = sorted({found.category for found in run if found.category})
    good = [found for found in run if found.scores]
    return {
        "all": ratio([found.scores for found in good if found.scores]),
        **{
            name: ratio([found.scores for found in good if found.scores and found.category == name])
            for name in categories
        },
        "with_failed": ratio([found.scores or FAILED for found in run]),
        "failed": len(run) - len(good),
    }
