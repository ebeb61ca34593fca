"""Evaluate: greedy answers of a model on held-out questions, scored by the rules of the published benchmarks.

In the world's exam every question is also asked with the picture blanked and with another question's picture, and the
best constant answer is worked out per type: what the model gains over these three is what it learned to see. Open
questions are asked once and reviewed by a judge; they are scored apart.

    scores.json            every result with its rule, by benchmark and variant, and who judged
    answers/<bench>.jsonl  LLaVA's answer lines, each with its mark (`.blank`, `.shuffled` beside it)
    reviews/               what the judge wrote, as LLaVA's review files
    report.html, report.md, pictures/
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from llavaflow.datasets.benchmarks._benchmark import (
    PERCENT,
    Answer,
    Benchmark,
    BoxFrame,
    Item,
    Options,
    Pair,
    Result,
    load_benchmark,
)
from llavaflow.datasets.benchmarks._join import join
from llavaflow.infra.artifact import Artifact, Json, Kind
from llavaflow.infra.context import RunContext
from llavaflow.infra.errors import StageFailed
from llavaflow.stages._answer_files import Results, write_answers
from llavaflow.stages._answerer import Answerer, Checkpoint, CheckpointAnswerer
from llavaflow.stages._exam import IMAGES, QUESTIONS, Asked, Ledger, Variant, questions
from llavaflow.stages._judging import Judging, judged_fact, judged_rule, open_reviewer, write_reviewed
from llavaflow.stages._prior import best_constant
from llavaflow.stages._report_page import columns_of, write_report
from llavaflow.stages._served import Served, ServedAnswerer
from llavaflow.stages._stage import Stage
from llavaflow.stages.questions import Questions

# what a benchmark's questions are called where the world asks them
TYPES = {"pope": "existence", "gqa": "colour", "vqav2": "count", "textvqa": "text", "refcoco": "grounding"}


@dataclass(frozen=True, kw_only=True)
class Evaluate(Stage):
    """Who answers which questions, and how they are put.

    model: a stage (the checkpoint lies in `folder` of its artifact), a checkpoint from outside, or a served model.
    template: of the conversation, empty for the checkpoint's own; a server has its own in any case.
    box_frame: what the model's boxes refer to.
    review: open benchmarks and their judge; max_open_tokens: how long their answers may be.
    min_margin, min_colour_margin: gates, in points of gain over blanked pictures.
    """

    version: ClassVar[str] = "3"
    kind: ClassVar[Kind] = "scores"
    folders_by_content: ClassVar[bool] = True

    model: Stage | Checkpoint | Served
    questions: Stage
    folder: str = "model"
    benchmarks: tuple[str, ...] = tuple(TYPES)
    variants: tuple[Variant, ...] = ("images", "blank", "shuffled")
    template: str = "v1"
    max_new_tokens: int = 48
    review: Judging | None = None
    max_open_tokens: int = 1024
    box_frame: BoxFrame = "padded"
    seed: int = 0
    min_margin: float | None = None
    min_colour_margin: float | None = None

    def run(self, ctx: RunContext) -> Artifact:
        world = ctx.path(self.questions)
        asked = list(self._questions(world))
        answerer = self._answerer(ctx, world / IMAGES)
        answers = self._answer(ctx, asked, answerer)
        results = {name: self._score(world, name, asked, answers) for name in self.benchmarks}
        types = self._types(results)
        shutil.rmtree(ctx.out, ignore_errors=True)
        ctx.out.mkdir(parents=True)
        judged, told = self._judge(ctx, world, asked, answers)
        facts = _facts(types, results, judged, told)
        if answerer.refused:
            facts["refused"] = answerer.refused
        model = self._name(ctx)
        everything: Results = results | {name: {"images": result} for name, result in judged.items()}
        write_answers(ctx.out, everything, world=world, source=ctx.artifact(self.questions).fingerprint, model=model)
        _write_scores(ctx.out, everything, types, told)
        scored = {name: found["images"] for name, found in everything.items()}
        write_report(
            ctx.out, facts=facts, title=f"{ctx.recipe}: what the model sees", model=model,
            ours=columns_of({name: scored[name] for name in self.benchmarks}), results=scored, told=told,
            pictures=world / IMAGES,
        )  # fmt: skip
        self._gate(ctx, facts)
        return ctx.finish(facts)

    def _questions(self, world: Path) -> Iterator[Asked]:
        for name in self.benchmarks:
            yield from questions(world, name, self.variants, self.seed, self.max_new_tokens)
        for name in self.review.benchmarks if self.review else ():
            yield from questions(world, name, ("images",), self.seed, self.max_open_tokens)

    def _answerer(self, ctx: RunContext, images: Path) -> Answerer:
        if isinstance(self.model, Served):
            return ServedAnswerer(ctx, self.model, images)
        if isinstance(self.model, Stage):
            outside = Checkpoint(path=ctx.path(self.model) / self.folder)
            return CheckpointAnswerer(ctx, outside, self.template, images)
        return CheckpointAnswerer(ctx, self.model, self.template, images)

    def _name(self, ctx: RunContext) -> str:
        """How reports call the model."""
        if isinstance(self.model, Stage):
            return ctx.artifact(self.model).ref
        return str(self.model)

    def _answer(self, ctx: RunContext, asked: Sequence[Asked], answerer: Answerer) -> dict[str, str]:
        """The reply to every question by its key, from the ledger or from the answerer."""
        with Ledger(ctx.work / "answers.jsonl") as ledger:
            left = [question for question in asked if question.key not in ledger.answers]
            # equal lengths meet in a batch: little padding, and short answers do not wait for long ones
            left.sort(key=lambda question: (question.benchmark, len(question.text), question.key))
            replies = answerer(left)
            for question, reply in zip(ctx.track(left, "questions", total=len(left)), replies, strict=True):
                ledger.add(question.key, reply)
            return ledger.answers

    def _score(
        self, world: Path, name: str, asked: Sequence[Asked], answers: Mapping[str, str]
    ) -> dict[Variant, Result]:
        benchmark = load_benchmark(name)
        options = Options(box_frame=self.box_frame, questions=world / "eval" / name / QUESTIONS)
        items = benchmark.items(world / "eval" / name, options)
        pairs = {variant: _pairs(benchmark, items, variant, asked, answers) for variant in self.variants}
        return {variant: benchmark.result(joined, options) for variant, joined in pairs.items()}

    def _judge(
        self, ctx: RunContext, world: Path, asked: Sequence[Asked], answers: Mapping[str, str]
    ) -> tuple[dict[str, Result], dict[str, Json]]:
        """The reviewed results of the open benchmarks, and who judged."""
        if self.review is None:
            return {}, {}
        results = {}
        with open_reviewer(self.review, ctx.work / "reviews.jsonl", ctx.budget) as reviewer:
            for name in self.review.benchmarks:
                benchmark = load_benchmark(name)
                items = benchmark.items(world / "eval" / name, Options())
                pairs = _pairs(benchmark, items, "images", asked, answers)
                reviews = write_reviewed(benchmark, pairs, reviewer, ctx.out / "reviews")
                results[name] = benchmark.result(pairs, Options(reviews=reviews))
            return results, reviewer.told()

    def _types(self, results: Mapping[str, Mapping[Variant, Result]]) -> dict[str, dict[str, Json]]:
        """A row per type of question: in the world's exam, or where published questions are asked in variants too.

        Published benchmarks alone have none, and go by their own names in any case: GQA is not about colours there.
        """
        published = isinstance(self.questions, Questions)
        if published and self.variants == ("images",):
            return {}
        names = {} if published else TYPES
        return {names.get(name, name): self._type(load_benchmark(name), found) for name, found in results.items()}

    def _type(self, benchmark: Benchmark, found: Mapping[Variant, Result]) -> dict[str, Json]:
        prior = best_constant(benchmark, [pair.item for pair in found["images"].pairs])
        row: dict[str, Json] = {"benchmark": benchmark.name, "n": found["images"].n}
        row |= {variant: result.score for variant, result in found.items()}
        row |= {"prior": prior.score, "prior_answer": prior.answer}
        if "blank" in found:
            row["margin"] = found["images"].score - found["blank"].score
        return row

    def _gate(self, ctx: RunContext, facts: Mapping[str, Json]) -> None:
        """Fail the stage when the model gains too little from the pictures; the numbers are said first."""
        types = facts.get("types", {})
        for name, row in types.items():
            ctx.log.info("%s: %s", name, ", ".join(f"{key} {value}" for key, value in row.items()))
        colour = types.get("colour", {}).get("margin")
        wanted = (("the mean", facts.get("margin"), self.min_margin), ("colour", colour, self.min_colour_margin))
        short = [
            f"{name}: {gain if gain is None else round(gain, 1)} of {least} points"
            for name, gain, least in wanted
            if least is not None and (gain is None or gain < least)
        ]
        if short:
            table = "; ".join(
                f"{name} {row['images']:.1f} with images, {row.get('blank', float('nan')):.1f} blank, "
                f"{row['prior']:.1f} prior"
                for name, row in types.items()
            )
            raise StageFailed(f"the model gains too little from its images ({'; '.join(short)}). {table}.")


def _pairs(
    benchmark: Benchmark, items: Sequence[Item], variant: Variant, asked: Sequence[Asked], answers: Mapping[str, str]
) -> list[Pair]:
    """The gold questions with what was answered to them in a variant."""
    given = [
        Answer(
            id=question.id,
            text=answers[question.key],
            line=question.row,
            prompt=question.text,
            image=question.image,
            group=question.category,
            row={"row": question.row},
        )
        for question in asked
        if question.benchmark == benchmark.name and question.variant == variant
    ]
    names, repeat = benchmark.names, benchmark.ids_repeat
    return join(items, given, names, benchmark=benchmark.name, allow_missing=False, ids_repeat=repeat).pairs


def _facts(
    types: Mapping[str, Mapping[str, Json]],
    results: Mapping[str, Mapping[Variant, Result]],
    judged: Mapping[str, Result],
    told: Mapping[str, Json],
) -> dict[str, Json]:
    # points have no mean with percents
    percents = [row for row in types.values() if load_benchmark(row["benchmark"]).unit == PERCENT]
    series = [key for key in ("images", "blank", "shuffled", "prior") if all(key in row for row in percents)]
    mean = {key: sum(row[key] for row in percents) / len(percents) for key in series if percents}
    scores = {
        name: {"score": round(found["images"].score, 2), "n": found["images"].n, "rule": found["images"].rule}
        for name, found in results.items()
    }
    scores |= {
        name: {"score": round(result.score, 2), "n": result.n, "rule": judged_rule(result, told)}
        for name, result in judged.items()
    }
    facts: dict[str, Json] = {"samples": sum(score["n"] for score in scores.values()), "scores": scores}
    if types:
        facts |= {"types": {name: dict(row) for name, row in types.items()}, "mean": mean}
        facts["margin"] = mean["images"] - mean["blank"] if "blank" in mean else None
    facts["unparsed"] = sum(found["images"].unparsed for found in results.values())
    if judged:
        facts["judged"] = {name: judged_fact(result, told) for name, result in judged.items()}
    return facts


def _write_scores(out: Path, results: Results, types: Mapping[str, Json], told: Mapping[str, Json]) -> None:
    document = {
        "engine": "llavaflow",
        "types": types,
        **({"judge": told} if told else {}),
        "results": {
            name: {variant: result.as_json() for variant, result in found.items()} for name, found in results.items()
        },
    }
    (out / "scores.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
