"""Judge: open answers of an evaluation reviewed by a language model (LLaVA-Bench, MM-Vet), as `_judging.py` says.

An evaluation can ask its judge itself; this stage reviews answers that are there, by another judge or more often.

    reviews/<bench>.<run>.jsonl   LLaVA's review lines       reviews/mmvet.json   MM-Vet's grades of all runs
    scores.json                   results with judge and date              report.html, report.md
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from typing import ClassVar

from llavaflow.datasets.benchmarks._answers import read_answers
from llavaflow.datasets.benchmarks._benchmark import Options, Result, load_benchmark
from llavaflow.infra.artifact import Artifact, Json, Kind
from llavaflow.infra.context import RunContext
from llavaflow.stages._exam import IMAGES
from llavaflow.stages._judging import Judging, Reviewer, judged_fact, judged_rule, open_reviewer, write_reviewed
from llavaflow.stages._report_page import columns_of, write_report
from llavaflow.stages._stage import Stage


@dataclass(frozen=True, kw_only=True)
class Judge(Stage):
    """Which answers are reviewed by which judge.

    answers: a stage with answers/<bench>.jsonl. questions: a stage with eval/<bench>/ and contexts.
    """

    version: ClassVar[str] = "2"
    kind: ClassVar[Kind] = "scores"

    answers: Stage
    questions: Stage
    review: Judging = Judging()

    def run(self, ctx: RunContext) -> Artifact:
        shutil.rmtree(ctx.out, ignore_errors=True)
        ctx.out.mkdir(parents=True)
        with open_reviewer(self.review, ctx.work / "reviews.jsonl", ctx.budget) as reviewer:
            results = {name: self._benchmark(ctx, name, reviewer) for name in self.review.benchmarks}
            told = reviewer.told()
        facts: dict[str, Json] = {
            "samples": sum(result.n for result in results.values()),
            "scores": {
                name: {"score": round(result.score, 2), "n": result.n, "rule": judged_rule(result, told)}
                for name, result in results.items()
            },
            "judged": {name: judged_fact(result, told) for name, result in results.items()},
        }
        document = {"engine": "llavaflow", "judge": told}
        document["results"] = {name: {"images": result.as_json()} for name, result in results.items()}
        text = json.dumps(document, indent=1, ensure_ascii=False)
        (ctx.out / "scores.json").write_text(text + "\n", encoding="utf-8")
        write_report(
            ctx.out, facts=facts, title=f"{ctx.recipe}: open answers under review",
            model=ctx.artifact(self.answers).ref, ours=columns_of(results), results=results, told=told,
            pictures=ctx.path(self.questions) / IMAGES,
        )  # fmt: skip
        return ctx.finish(facts)

    def _benchmark(self, ctx: RunContext, name: str, reviewer: Reviewer) -> Result:
        benchmark = load_benchmark(name)
        given = read_answers(ctx.path(self.answers) / "answers" / f"{name}.jsonl")
        pairs = benchmark.join(given, ctx.path(self.questions) / "eval" / name, Options()).pairs
        reviews = write_reviewed(benchmark, pairs, reviewer, ctx.out / "reviews")
        return benchmark.result(pairs, Options(reviews=reviews))
