"""CLIP score: drops pairs whose image and text say different things, by the cosine of their CLIP embeddings.

Either a fixed `threshold` (LAION used 0.28 with ViT-B/32) or the `fraction` of pairs with the best scores to keep
(DataComp-1B kept 0.3 with ViT-L/14); the scale of the scores belongs to the model, so a threshold does too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import ClassVar

import numpy as np

from llavaflow.infra.artifact import Json
from llavaflow.infra.context import RunContext
from llavaflow.infra.errors import InputError
from llavaflow.stages._pretrained import Pretrained
from llavaflow.stages.filters._clip import load_clip
from llavaflow.stages.filters._record_filter import Measure, Measured, Picture, RecordFilter, Signal


@dataclass(frozen=True, kw_only=True)
class ClipScore(RecordFilter):
    """The CLIP to use, and exactly one of `threshold` and `fraction`."""

    name: ClassVar[str] = "clip_score"

    clip: Pretrained
    threshold: float | None = None
    fraction: float | None = None

    def prepare(self, ctx: RunContext) -> dict[str, Json]:
        if (self.threshold is None) == (self.fraction is None):
            raise InputError("clip_score needs exactly one of threshold and fraction.")
        if self.fraction is not None and not 0 < self.fraction <= 1:
            raise InputError(f"fraction {self.fraction} of clip_score is no share of the pairs: above 0, at most 1.")
        return {"clip": self.clip.resolve(ctx)}

    def measurer(self, **prepared: Json) -> Measure:
        clip = load_clip(prepared["clip"])

        def measure(pictures: Sequence[Picture]) -> list[Signal]:
            images = clip.images([picture.pixels for picture in pictures])
            texts = clip.texts([picture.pair.caption for picture in pictures])
            # five digits: the last bits depend on the batch in which a pair was scored
            return [{"score": round(float(score), 5)} for score in (images * texts).sum(axis=1)]

        return measure

    def verdict(self, signal: Signal) -> str | None:
        low = self.threshold is not None and signal["score"] < self.threshold
        return "text-does-not-match" if low else None

    def choose(self, records: Iterable[Measured]) -> Iterator[tuple[str, str]]:
        if self.fraction is None:
            return
        scores = np.array([record.signals[self.name]["score"] for record in records])
        # of equal scores the smaller id stays
        ranked = np.argsort(-scores, kind="stable")
        gone = np.zeros(len(scores), bool)
        gone[ranked[round(self.fraction * len(scores)) :]] = True
        for record in compress(records, gone):
            yield record.pair.id, "text-does-not-match"
