"""Classifier: drops images by the score of any image-classification model, such as one for NSFW content or aesthetics.

`drop_above` drops what shows the label (an NSFW model), `drop_below` what does not (an aesthetics model).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from llavaflow.infra.artifact import Json
from llavaflow.infra.context import RunContext
from llavaflow.infra.errors import InputError, unknown
from llavaflow.stages._pretrained import Pretrained
from llavaflow.stages.filters._record_filter import Measure, Picture, RecordFilter, Signal


@dataclass(frozen=True, kw_only=True)
class Classifier(RecordFilter):
    """A model by name or stage, one of its labels, and the probabilities at which an image goes."""

    name: ClassVar[str] = "classifier"

    model: Pretrained
    label: str
    drop_above: float | None = None
    drop_below: float | None = None

    def prepare(self, ctx: RunContext) -> dict[str, Json]:
        if self.drop_above is None and self.drop_below is None:
            raise InputError("the classifier filter needs drop_above or drop_below.")
        return {"model": self.model.resolve(ctx)}

    def measurer(self, **prepared: Json) -> Measure:
        from transformers import AutoImageProcessor, AutoModelForImageClassification

        model: Any = AutoModelForImageClassification.from_pretrained(prepared["model"]).eval()
        processor: Any = AutoImageProcessor.from_pretrained(prepared["model"])
        numbers = {label.lower(): int(number) for number, label in model.config.id2label.items()}
        if self.label.lower() not in numbers:
            raise unknown("label", self.label, numbers, f"the labels of {prepared['model']}")
        column = numbers[self.label.lower()]

        def measure(pictures: Sequence[Picture]) -> list[Signal]:
            import torch

            inputs = processor(images=[picture.pixels for picture in pictures], return_tensors="pt")
            with torch.inference_mode():
                scores = model(**inputs).logits.softmax(dim=-1)[:, column]
            return [{"score": round(float(score), 5)} for score in scores]

        return measure

    def verdict(self, signal: Signal) -> str | None:
        score = signal["score"]
        if self.drop_above is not None and score > self.drop_above:
            return f"classified-{self.label.lower().replace(' ', '-')}"
        if self.drop_below is not None and score < self.drop_below:
            return f"not-classified-{self.label.lower().replace(' ', '-')}"
        return None
