"""Foundation: makes what a full recipe takes from the hub: a CLIP, a BLIP captioner, a language model and tokenizer.

All three are trained here on generated scenes, none of them held out, and saved in Hugging Face format (`clip/`,
`blip/`, `language/`), so that later stages load them as they would load published models. The stage fails when one of
them is too weak for the stages that follow, and says by how much.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from llavaflow.infra.artifact import Artifact, Json, Kind
from llavaflow.infra.context import RunContext
from llavaflow.infra.errors import StageFailed
from llavaflow.stages._foundation_fit import Part, Report, fit
from llavaflow.stages._foundation_workers import run_lanes
from llavaflow.stages._stage import Stage


@dataclass(frozen=True, kw_only=True)
class Gates:
    """The least that the later stages need; 0 and `max_language_loss` None switch a gate off (test sizes)."""

    clip_retrieval: float = 0.5
    mismatch_recall: float = 0.9
    blip_accuracy: float = 0.55
    max_language_loss: float | None = 1.0

    def check(self, facts: Mapping[str, Json]) -> None:
        """Raise StageFailed with every number that misses its gate."""
        weak = [
            f"{name} is {facts[name]}, needs at least {floor}"
            for name, floor in (
                ("clip_retrieval", self.clip_retrieval),
                ("mismatch_recall", self.mismatch_recall),
                ("blip_accuracy", self.blip_accuracy),
            )
            if facts[name] < floor
        ]
        if self.max_language_loss is not None and facts["language_loss"] > self.max_language_loss:
            weak.append(f"language_loss is {facts['language_loss']}, may be at most {self.max_language_loss}")
        if weak:
            raise StageFailed(
                f"the tiny models are too weak for the stages that follow: {'; '.join(weak)}. Give them more steps "
                "(foundation.clip_steps, blip_steps, language_steps), or loosen foundation.gates."
            )


@dataclass(frozen=True, kw_only=True)
class Foundation(Stage):
    """Sizes and lengths of the three models; `side` is the shorter side of a scene, `image_size` the towers' input."""

    kind: ClassVar[Kind] = "checkpoint"

    world: Stage
    seed: int = 0
    side: int = 72
    image_size: int = 72
    # a third of the picture: one patch, one place of a scene
    patch: int = 24
    vision_hidden: int = 128
    vision_layers: int = 4
    clip_steps: int = 600
    clip_batch: int = 40
    clip_learning_rate: float = 1e-3
    blip_steps: int = 300
    blip_batch: int = 32
    blip_learning_rate: float = 1e-3
    language_hidden: int = 128
    language_layers: int = 4
    language_steps: int = 1400
    language_batch: int = 8
    language_learning_rate: float = 1e-3
    vocabulary: int = 1500
    gates: Gates = Gates()

    def run(self, ctx: RunContext) -> Artifact:
        world = ctx.path(self.world)
        # the longest first; two lanes because the tiny recipe is sized for two cores
        lanes = [
            [("language", self.language_steps)],
            [("clip", self.clip_steps), ("blip", self.blip_steps)],
        ]
        measured = run_lanes(self.train, lanes, world, ctx)
        facts = {
            "clip_retrieval": measured["clip"]["retrieval"],
            "mismatch_recall": measured["clip"]["mismatch_recall"],
            "matched_kept": measured["clip"]["matched_kept"],
            "blip_accuracy": measured["blip"]["accuracy"],
            "blip_examples": measured["blip"]["examples"],
            "language_loss": measured["language"]["language_loss"],
        }
        self.gates.check(facts)
        return ctx.finish(facts)

    def train(self, name: str, world: Path, out: Path, work: Path, report: Report) -> dict[str, Any]:
        """Train one of the three parts, in the process that calls."""
        builders: dict[str, Callable[[], Part]] = {
            "clip": lambda: self._clip(world),
            "blip": lambda: self._blip(out / "clip"),
            "language": lambda: self._language(world),
        }
        return fit(name, builders[name], self.seed, out, work, report)

    def _clip(self, world: Path) -> Part:
        from llavaflow.stages._foundation_clip import TinyClip

        return TinyClip(
            steps=self.clip_steps, batch=self.clip_batch, learning_rate=self.clip_learning_rate, world=world,
            **self._vision(),
        )  # fmt: skip

    def _blip(self, clip: Path) -> Part:
        from llavaflow.stages._foundation_blip import TinyBlip

        return TinyBlip(
            steps=self.blip_steps, batch=self.blip_batch, learning_rate=self.blip_learning_rate, clip=clip,
            **self._vision(),
        )  # fmt: skip

    def _language(self, world: Path) -> Part:
        from llavaflow.stages._foundation_language import TinyLanguage

        return TinyLanguage(
            steps=self.language_steps, batch=self.language_batch, learning_rate=self.language_learning_rate,
            hidden=self.language_hidden, layers=self.language_layers, vocabulary=self.vocabulary,
            side=self.side, grid=self.image_size // self.patch, seed=self.seed, world=world,
        )  # fmt: skip

    def _vision(self) -> dict[str, Any]:
        return {
            "size": self.image_size, "patch": self.patch, "hidden": self.vision_hidden, "layers": self.vision_layers,
            "side": self.side, "seed": self.seed,
        }  # fmt: skip
