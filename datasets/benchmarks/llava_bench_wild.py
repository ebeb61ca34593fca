"""LLaVA-Bench (In-the-Wild): 60 open questions on 24 images, reviewed by a judge against GPT-4's answers.

Source of the rule: LLaVA `eval_gpt_review_bench.py` and `summarize_gpt_review.py`.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llavaflow.datasets.benchmarks._benchmark import (
    Benchmark,
    Item,
    Judge,
    Mark,
    Marker,
    Options,
    Pair,
    Read,
    Scored,
)
from llavaflow.datasets.benchmarks._files import Row, find, find_all, rows
from llavaflow.datasets.benchmarks._join import names_of, usual_names
from llavaflow.datasets.benchmarks._reviews import Review, read_reviews, review_runs, strangers, summary
from llavaflow.infra.errors import InputError


def reader(context_of: Any, questions: tuple[str, ...], references: tuple[str, ...], contexts: tuple[str, ...]) -> Read:
    """A reader of a folder with questions, GPT-4's answers and the images' contexts."""

    def read(gold: Path, options: Options) -> list[Item]:
        folder = gold if gold.is_dir() else gold.parent
        path = gold if gold.is_file() else find(gold, *questions, what="LLaVA-Bench questions.jsonl")
        answers = {str(row["question_id"]): row for row in _optional(folder, references)}
        images = {str(row.get("image", row.get("id"))): row for row in _optional(folder, contexts)}
        return [_item(row, answers, images, context_of) for row in rows(path)]

    return read


def _optional(folder: Path, patterns: tuple[str, ...]) -> list[Row]:
    path = next(find_all(folder, *patterns), None)
    return rows(path) if path else []


def _item(row: Row, answers: Mapping[str, Row], images: Mapping[str, Row], context_of: Any) -> Item:
    id, image, text = str(row["question_id"]), str(row.get("image", "")), str(row["text"])
    context, reference = images.get(image), answers.get(id)
    meta: dict[str, Any] = {}
    if context is not None and reference is not None:
        reference_id = reference.get("answer_id", reference["question_id"])
        meta = {"context": context_of(context), "reference": reference["text"], "reference_id": reference_id}
    return Item(
        id=id,
        gold=reference["text"] if reference else None,
        names=names_of(id, image, text),
        text=text,
        image=image,
        group=str(row.get("category", "")),
        meta=meta,
    )


def marker(rule: str) -> Marker:
    """Score pairs by stored reviews, one file per run, or by asking the judge once."""

    def mark(pairs: Sequence[Pair], options: Options, judge: Judge | None) -> Scored:
        runs = [_stored(path, pairs, options) for path in options.reviews]
        if not runs:
            runs = [_asked(pairs, rule, judge)]
        summaries = [summary(run) for run in runs]
        scores = [found["all"]["relative"] for found in summaries if found["all"]]
        if not scores:
            raise InputError("no review has a score pair in its first line: there is nothing to average.")
        metrics = {
            **summaries[0],
            "runs": scores,
            "spread": statistics.pstdev(scores),
            "failed": sum(found["failed"] for found in summaries),
        }
        score = scores[0] if len(scores) == 1 else statistics.fmean(scores)
        marks = [_mark_of([run[place] for run in runs]) for place in range(len(pairs))]
        failed = metrics["failed"]
        failures = (f"{failed} reviews without a score pair were left out",) if failed else ()
        notes = (*failures, *strangers(options.reviews, read_reviews, pairs))
        return Scored(score=score, marks=marks, metrics=metrics, notes=notes)

    return mark


def _mark_of(reviews: Sequence[Review]) -> Mark:
    """The model's mean score over the runs, as a share of ten; None read when every run failed."""
    scores = [found.scores[1] for found in reviews if found.scores]
    return Mark(value=statistics.fmean(scores) / 10, read=str(scores)) if scores else Mark(value=0.0, read=None)


def _stored(path: Path, pairs: Sequence[Pair], options: Options) -> list[Review]:
    found = read_reviews(path)
    absent = [pair.item.id for pair in pairs if pair.item.id not in found]
    if absent and not options.allow_missing:
        raise InputError(f"{path} lacks the review of {len(absent)} questions (first: {absent[0]}).")
    empty = [Review(question_id=pair.item.id, category=pair.item.group, scores=None, content="") for pair in pairs]
    return [found.get(pair.item.id, none) for pair, none in zip(pairs, empty, strict=True)]


def _asked(pairs: Sequence[Pair], rule: str, judge: Judge | None) -> list[Review]:
    if judge is None:
        raise InputError("this benchmark is scored by a judge: give --reviews FILE, or --judge MODEL to ask one.")
    return review_runs(pairs, rule, judge)[0]


def _caption(row: Row) -> str:
    caption = row["caption"]
    return "\n".join(caption) if isinstance(caption, list) else str(caption)


BENCHMARK = Benchmark(
    name="llava-bench-wild",
    title="LLaVA-Bench (In-the-Wild)",
    layout="a folder with questions.jsonl, context.jsonl and answers_gpt4.jsonl",
    prompt="{question}",
    rule=(
        "Mean judge score of the model over that of the reference x 100 (means rounded to 3 places, ratio to 1), "
        "reviews without a score pair left out (metrics.with_failed averages their -1 in, as upstream). Several "
        "--reviews are runs: mean and spread."
    ),
    source="LLaVA eval_gpt_review_bench.py and summarize_gpt_review.py",
    column="LLaVA-W",
    unit="percent of the reference",
    judged=True,
    read=reader(
        _caption, ("questions.jsonl", "*questions*.jsonl"), ("answers_gpt4.jsonl", "*gpt4*.jsonl"), ("context*.jsonl",)
    ),
    mark=marker("wild"),
    names=usual_names,
)
