"""Ours against the published row of the model zoo, benchmark by benchmark.

The row is that of the published weights a recipe started from, or else the one whose recipe this is. Only equal
columns are put side by side; under which rule and harness the published number was made stands beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from llavaflow.datasets.benchmarks._benchmark import load_benchmark
from llavaflow.infra.artifact import Json
from llavaflow.models.zoo import ZOO
from llavaflow.stages._stage import Stage
from llavaflow.stages.zoo_weights import ZooWeights


def row_for(recipe: str, model: Stage) -> str | None:
    """The zoo's name for what a recipe makes; None where no page has published it."""
    if isinstance(model, ZooWeights):
        return model.name
    made = [name for name, row in ZOO.items() if row.recipe == recipe and row.form != "projector"]
    return next((name for name in made if ZOO[name].scores), None)


def against(name: str, scores: Mapping[str, Json]) -> Iterator[dict[str, Json]]:
    """A line for every benchmark of an evaluation whose column the row has: ours, published, and the difference."""
    row = ZOO[name]
    for benchmark, score in scores.items():
        column = load_benchmark(benchmark).column
        if column is None or column not in row.scores:
            continue
        theirs, ours = row.scores[column], float(score["score"])
        yield {
            "benchmark": benchmark,
            "column": column,
            "ours": ours,
            "published": theirs.value,
            "difference": round(ours - theirs.value, 2),
            "published_rule": theirs.rule,
            "published_harness": theirs.harness,
        }
