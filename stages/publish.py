"""Publish: the checkpoint as others will get it, with a card that says what made it and how well it does.

The folder holds a Hugging Face checkpoint that plain transformers loads, the stage-1 `mm_projector.bin`, and a
README.md in the hub's model-card format: data counts, scores with their rule, ours against the published row of the
model zoo, fingerprints, licence notes.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import ClassVar

from llavaflow.infra.artifact import Artifact, Json, Kind
from llavaflow.infra.context import RunContext
from llavaflow.infra.errors import StageFailed
from llavaflow.models.zoo import ZOO
from llavaflow.stages._against_zoo import against, row_for
from llavaflow.stages._stage import Stage


@dataclass(frozen=True, kw_only=True)
class Publish(Stage):
    """Gather the finetuned model, its projector, its data counts and its scores into one folder.

    notes: what its scores alone would not tell about how it was made; one paragraph each.
    licence_notes: what the user must know about the terms of the parts; one line each, printed on the card.
    """

    kind: ClassVar[Kind] = "checkpoint"

    model: Stage
    projector: Stage
    data: tuple[Stage, ...] = ()
    scores: Stage | None = None
    title: str = "LLaVA"
    notes: tuple[str, ...] = ()
    licence: str = "apache-2.0"
    licence_notes: tuple[str, ...] = ()

    def run(self, ctx: RunContext) -> Artifact:
        model = ctx.path(self.model) / "model"
        if not (model / "config.json").is_file():
            raise StageFailed(
                f"nothing to publish: {model} holds no Hugging Face checkpoint. "
                "Publish takes a stage that writes `model/`, such as finetune."
            )
        if ctx.out.exists():
            shutil.rmtree(ctx.out)
        ctx.out.mkdir(parents=True)
        for source in sorted(path for path in model.rglob("*") if path.is_file()):
            _link_or_copy(source, ctx.out / source.relative_to(model))
        projector = ctx.path(self.projector) / "mm_projector.bin"
        _link_or_copy(projector, ctx.out / "mm_projector.bin")
        (ctx.out / "README.md").write_text(self.card(ctx), encoding="utf-8")
        (ctx.out / "lineage.json").write_text(json.dumps(self._lineage(ctx), indent=2) + "\n", encoding="utf-8")
        name, rows = self._against(ctx)
        for row in rows:
            ctx.log.info(
                "%s: ours %.2f, published %.2f (%s), %+.2f",
                row["benchmark"], row["ours"], row["published"], name, row["difference"],
            )  # fmt: skip
        facts = {"files": sum(1 for _ in ctx.out.rglob("*")), "scores": self._scores(ctx)}
        return ctx.finish(facts | ({"published_row": name, "against": rows} if rows else {}))

    def _scores(self, ctx: RunContext) -> Mapping[str, Json]:
        scores: Mapping[str, Json] = ctx.artifact(self.scores).facts.get("scores", {}) if self.scores else {}
        return scores

    def _against(self, ctx: RunContext) -> tuple[str, list[dict[str, Json]]]:
        """The row of the model zoo that this model is held against, and a line for each benchmark of both."""
        name = row_for(ctx.recipe, self.model)
        return (name, list(against(name, self._scores(ctx)))) if name else ("", [])

    def card(self, ctx: RunContext) -> str:
        """The model card: YAML front matter of the hub, then data, scores, lineage and licence notes."""
        from jinja2 import Environment

        name, rows = self._against(ctx)
        template = (files("llavaflow.stages") / "_model_card.md.j2").read_text(encoding="utf-8")
        environment = Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, autoescape=False)
        return environment.from_string(template).render(
            title=self.title,
            recipe=ctx.recipe,
            licence=self.licence,
            notes=self.notes,
            licence_notes=self.licence_notes,
            data=[_row(ctx.artifact(stage)) for stage in self.data],
            scores=list(_scores(ctx.artifact(self.scores).facts)) if self.scores else [],
            published=ZOO[name].title if rows else "",
            against=rows,
            lineage=self._lineage(ctx),
        )

    def _lineage(self, ctx: RunContext) -> list[dict[str, Json]]:
        return [_row(ctx.artifact(stage)) for stage in self.inputs().values()]


def _row(artifact: Artifact) -> dict[str, Json]:
    return {"stage": artifact.stage, "ref": artifact.ref, "samples": artifact.facts.get("samples")}


def _scores(facts: Mapping[str, Json]) -> Iterator[dict[str, Json]]:
    """One row per benchmark of an evaluation's facts: name, score, rule."""
    for name, score in dict(facts.get("scores", {})).items():
        body = score if isinstance(score, Mapping) else {"score": score}
        yield {"benchmark": name, "score": body.get("score"), "n": body.get("n"), "rule": body.get("rule", "")}


def _link_or_copy(source: Path, target: Path) -> None:
    """Hard-link where the file system allows: both sides belong to the store."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
