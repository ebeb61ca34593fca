"""A toy recipe of four tiny stages in a file of its own, as a user may write one: draw -> scale -> learn -> score."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from llavaflow.infra.artifact import Artifact, Kind
from llavaflow.infra.context import RunContext
from llavaflow.infra.errors import StageFailed
from llavaflow.pipelines._recipe import Recipe
from llavaflow.stages._stage import Stage


@dataclass(frozen=True, kw_only=True)
class Draw(Stage):
    kind: ClassVar[Kind] = "shards"
    samples: int = 10
    seed: int = 0
    sleep_s: float = 0.0
    note: Path | None = None

    def run(self, ctx: RunContext) -> Artifact:
        time.sleep(self.sleep_s)
        # libraries do this, and it must not end up in the JSON document
        print("printed by a stage")
        os.system("echo printed by a child")
        (ctx.out / "numbers.json").write_text(json.dumps([self.seed + i + ctx.generation for i in range(self.samples)]))
        return ctx.finish({"samples": self.samples, "dropped": {"too-small": 2}})


@dataclass(frozen=True, kw_only=True)
class Rule:
    factor: float = 2.0
    names: tuple[str, ...] = ("a",)
    source: Draw | None = None


@dataclass(frozen=True, kw_only=True)
class Scale(Stage):
    kind: ClassVar[Kind] = "mixture"
    source: Draw
    rules: tuple[Rule, ...] = (Rule(),)

    def run(self, ctx: RunContext) -> Artifact:
        numbers = json.loads((ctx.path(self.source) / "numbers.json").read_text())
        for number in ctx.track(range(len(numbers)), "scaling", len(numbers)):
            for rule in self.rules:
                numbers[number] *= rule.factor
        (ctx.out / "numbers.json").write_text(json.dumps(numbers))
        return ctx.finish({"samples": len(numbers)})


@dataclass(frozen=True, kw_only=True)
class Learn(Stage):
    kind: ClassVar[Kind] = "checkpoint"
    data: Scale
    learning_rate: float = 0.1
    fail: Literal["no", "gate", "bug", "disk"] = "no"

    def run(self, ctx: RunContext) -> Artifact:
        if self.fail == "gate":
            raise StageFailed("the loss is not a number. Lower the learning rate.")
        if self.fail == "bug":
            raise ZeroDivisionError("division by zero")
        if self.fail == "disk":
            raise OSError(28, "No space left on device", str(ctx.out / "model"))
        (ctx.out / "model").write_text(str(self.learning_rate))
        return ctx.finish({"loss": 0.5})


@dataclass(frozen=True, kw_only=True)
class Score(Stage):
    kind: ClassVar[Kind] = "scores"
    model: Learn
    data: Draw = field(default_factory=Draw)

    def run(self, ctx: RunContext) -> Artifact:
        (ctx.out / "report.md").write_text("# Scores\n\nAll right.\n")
        (ctx.out / "report.html").write_text("<h1>Scores</h1>")
        return ctx.finish({"scores": {"colour": {"model": 91.0, "blank": 20.0}}})


draw = Draw()
scale = Scale(source=draw, rules=(Rule(), Rule(factor=3.0, source=draw)))
learn = Learn(data=scale)
score = Score(model=learn, data=draw)

RECIPE = Recipe(
    name="toy",
    title="four tiny stages",
    stages={"draw": draw, "scale": scale, "learn": learn, "score": score},
    sources={"learn.learning_rate": "made up"},
)
