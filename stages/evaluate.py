"""Evaluate: greedy answers of a checkpoint on held-out questions, scored by the rules of the published benchmarks.

Every question is also asked with the picture blanked and with another question's picture, and the best constant
answer is worked out per type: what the model gains over these three is what it learned to see.

    scores.json            every result with its rule, by benchmark and variant
    answers/<bench>.jsonl  LLaVA's answer lines, each with its mark (`.blank`, `.shuffled` beside it)
    report.html, report.md, pictures/
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from llavaflow.datasets._index import IndexWriter, read_index, sha256_bytes
from llavaflow.datasets.benchmarks._benchmark import (
    Answer,
    Benchmark,
    BoxFrame,
    Options,
    Result,
    load_benchmark,
)
from llavaflow.datasets.benchmarks._join import join
from llavaflow.infra.artifact import Artifact, Json, Kind
from llavaflow.infra.context import RunContext
from llavaflow.infra.errors import StageFailed
from llavaflow.infra.fingerprint import digest
from llavaflow.infra.ray import map_batches
from llavaflow.stages._answerer import make_answerer
from llavaflow.stages._exam import IMAGES, QUESTIONS, Asked, Ledger, Variant, as_row, questions
from llavaflow.stages._prior import best_constant
from llavaflow.stages._report_page import write_report
from llavaflow.stages._stage import Stage

# what a benchmark's questions are called where the world asks them
TYPES = {"pope": "existence", "gqa": "colour", "vqav2": "count", "textvqa": "text", "refcoco": "grounding"}
BATCH = 64
Results = dict[str, dict[Variant, Result]]


@dataclass(frozen=True, kw_only=True)
class Evaluate(Stage):
    """Which checkpoint answers which questions, and how they are put.

    folder: where in the model's artifact the checkpoint lies. box_frame: what the model's boxes refer to.
    min_margin, min_colour_margin: gates, in points of gain over blanked pictures.
    """

    version: ClassVar[str] = "1"
    kind: ClassVar[Kind] = "scores"

    model: Stage
    questions: Stage
    folder: str = "model"
    benchmarks: tuple[str, ...] = tuple(TYPES)
    variants: tuple[Variant, ...] = ("images", "blank", "shuffled")
    template: str = "v1"
    max_new_tokens: int = 48
    box_frame: BoxFrame = "padded"
    seed: int = 0
    min_margin: float | None = None
    min_colour_margin: float | None = None

    def run(self, ctx: RunContext) -> Artifact:
        world = ctx.path(self.questions)
        asked = [question for name in self.benchmarks for question in questions(world, name, self.variants, self.seed)]
        answers = self._answer(ctx, world, asked)
        results = {name: self._score(world, name, asked, answers) for name in self.benchmarks}
        types = {TYPES.get(name, name): self._type(load_benchmark(name), found) for name, found in results.items()}
        facts = _facts(types, results)
        shutil.rmtree(ctx.out, ignore_errors=True)
        ctx.out.mkdir(parents=True)
        self._write_answers(ctx, world, asked, results)
        _write_scores(ctx.out, results, types)
        write_report(
            ctx.out, facts=facts, results={name: found["images"] for name, found in results.items()},
            pictures=world / IMAGES, title=f"{ctx.recipe}: what the model sees", model=ctx.artifact(self.model).ref,
        )  # fmt: skip
        self._gate(ctx, facts)
        return ctx.finish(facts)

    def _answer(self, ctx: RunContext, world: Path, asked: Sequence[Asked]) -> dict[str, str]:
        """The reply to every question by its key, from the ledger or from the pool."""
        with Ledger(ctx.work / "answers.jsonl") as ledger:
            left = [question for question in asked if question.key not in ledger.answers]
            # equal lengths meet in a batch: little padding, and short answers do not wait for long ones
            left.sort(key=lambda question: (question.benchmark, len(question.text), question.key))
            workers = ctx.machine.devices or max(1, ctx.machine.cores)
            replies = map_batches(
                [as_row(question) for question in left],
                make_answerer,
                arguments={
                    "checkpoint": str(ctx.path(self.model) / self.folder),
                    "template": self.template,
                    "max_new_tokens": self.max_new_tokens,
                    "images": str(world / IMAGES),
                    "threads": 1 if not ctx.machine.devices else 4,
                },
                batch_size=BATCH,
                workers=min(workers, -(-len(left) // BATCH) or 1),
                gpus_per_worker=1 if ctx.machine.devices else 0,
            )
            for question, reply in zip(ctx.track(left, "questions", total=len(left)), replies, strict=True):
                ledger.add(question.key, reply)
            return ledger.answers

    def _score(
        self, world: Path, name: str, asked: Sequence[Asked], answers: Mapping[str, str]
    ) -> dict[Variant, Result]:
        benchmark = load_benchmark(name)
        options = Options(box_frame=self.box_frame, questions=world / "eval" / name / QUESTIONS)
        items = benchmark.items(world / "eval" / name, options)
        found = {}
        for variant in self.variants:
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
                if question.benchmark == name and question.variant == variant
            ]
            joined = join(items, given, benchmark.names, benchmark=name, allow_missing=False)
            found[variant] = benchmark.result(joined.pairs, options)
        return found

    def _type(self, benchmark: Benchmark, found: Mapping[Variant, Result]) -> dict[str, Json]:
        prior = best_constant(benchmark, [pair.item for pair in found["images"].pairs])
        row: dict[str, Json] = {"benchmark": benchmark.name, "n": found["images"].n}
        row |= {variant: result.score for variant, result in found.items()}
        row |= {"prior": prior.score, "prior_answer": prior.answer}
        if "blank" in found:
            row["margin"] = found["images"].score - found["blank"].score
        return row

    def _write_answers(self, ctx: RunContext, world: Path, asked: Sequence[Asked], results: Results) -> None:
        """LLaVA's answer lines with marks, and the index that leads each back to its question and its picture."""
        source = ctx.artifact(self.questions).fingerprint
        ids = _record_ids(world)
        (ctx.out / "answers").mkdir()
        with IndexWriter(ctx.out) as index:
            for name, found in results.items():
                for variant, result in found.items():
                    file = f"answers/{name}.jsonl" if variant == "images" else f"answers/{name}.{variant}.jsonl"
                    lines = [line.encode() for line in _lines(result, variant, ctx.artifact(self.model).ref)]
                    (ctx.out / file).write_bytes(b"".join(line + b"\n" for line in lines))
                    for row, (line, pair) in enumerate(zip(lines, result.pairs, strict=True)):
                        assert pair.answer is not None, "an evaluation answers every question"
                        asked_row = pair.answer.row["row"]
                        parents = [
                            ids[place]
                            for place in (
                                (f"eval/{name}/{QUESTIONS}", asked_row),
                                (f"{IMAGES}/{pair.answer.image}", 0),
                            )
                            if place in ids
                        ]
                        index.add(
                            f"{name}/{variant}/{asked_row}", source=name, sha256=sha256_bytes(line), file=file, row=row,
                            parents=[f"{source}:{id}" for id in parents],
                        )  # fmt: skip

    def _gate(self, ctx: RunContext, facts: Mapping[str, Json]) -> None:
        """Fail the stage when the model gains too little from the pictures; the numbers are said first."""
        for name, row in facts["types"].items():
            ctx.log.info("%s: %s", name, ", ".join(f"{key} {value}" for key, value in row.items()))
        colour = facts["types"].get("colour", {}).get("margin")
        wanted = (("the mean", facts["margin"], self.min_margin), ("colour", colour, self.min_colour_margin))
        short = [
            f"{name}: {gain if gain is None else round(gain, 1)} of {least} points"
            for name, gain, least in wanted
            if least is not None and (gain is None or gain < least)
        ]
        if short:
            table = "; ".join(
                f"{name} {row['images']:.1f} with images, {row.get('blank', float('nan')):.1f} blank, "
                f"{row['prior']:.1f} prior"
                for name, row in facts["types"].items()
            )
            raise StageFailed(f"the model gains too little from its images ({'; '.join(short)}). {table}.")


def _record_ids(world: Path) -> dict[tuple[str, int], str]:
    """The ids of the questions artifact's records by file and row."""
    table = read_index(world, ["id", "file", "row"]).to_pydict()
    places = zip(table["file"], table["row"], table["id"], strict=True)
    return {(file, row): id for file, row, id in places if file.startswith("eval/")}


def _lines(result: Result, variant: Variant, model: str) -> Iterator[str]:
    for pair, mark in zip(result.pairs, result.marks, strict=True):
        answer = pair.answer
        assert answer is not None, "an evaluation answers every question"
        yield json.dumps(
            {
                "question_id": answer.id, "prompt": answer.prompt, "text": answer.text,
                "answer_id": digest([result.benchmark, variant, answer.row["row"], answer.text]), "model_id": model,
                "metadata": {"mark": mark.value, "read": mark.read, "image": answer.image, "category": answer.group},
            },
            ensure_ascii=False,
        )  # fmt: skip


def _facts(types: Mapping[str, Mapping[str, Json]], results: Results) -> dict[str, Json]:
    series = [key for key in ("images", "blank", "shuffled", "prior") if all(key in row for row in types.values())]
    mean = {key: sum(row[key] for row in types.values()) / len(types) for key in series}
    scores = {
        name: {"score": round(found["images"].score, 2), "n": found["images"].n, "rule": found["images"].rule}
        for name, found in results.items()
    }
    return {
        "samples": sum(row["n"] for row in types.values()),
        "scores": scores,
        "types": {name: dict(row) for name, row in types.items()},
        "mean": mean,
        "margin": mean["images"] - mean["blank"] if "blank" in mean else None,
        "unparsed": sum(found["images"].unparsed for found in results.values()),
    }


def _write_scores(out: Path, results: Results, types: Mapping[str, Json]) -> None:
    document = {
        "engine": "llavaflow",
        "types": types,
        "results": {
            name: {variant: result.as_json() for variant, result in found.items()} for name, found in results.items()
        },
    }
    (out / "scores.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
