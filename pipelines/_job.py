"""TrainingJob: what a planner must know of a training stage, read from its fields and two tables, without torch.

Sizes of models and lengths of mixtures are data (`_model_sizes.json`, `_length_census.json`). What they do not hold is
None, and every estimate that needs it is None too: a plan says nothing rather than something invented.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from llavaflow.infra.artifact import Json
from llavaflow.pipelines._lengths import Lengths
from llavaflow.stages._stage import Stage

# rank 128 adapters on the seven matrices of a block, when the stage does not say
DEFAULT_LORA_RANK = 128


@dataclass(frozen=True, kw_only=True)
class Language:
    """A language model's size."""

    parameters: int
    layers: int
    hidden: int
    intermediate: int
    vocabulary: int

    @property
    def blocks(self) -> int:
        """Parameters that work on every token: without the embedding table and the output head."""
        return self.parameters - 2 * self.vocabulary * self.hidden

    def lora_parameters(self, rank: int) -> int:
        return self.layers * rank * (8 * self.hidden + 3 * (self.hidden + self.intermediate))


@dataclass(frozen=True, kw_only=True)
class Vision:
    """A vision tower's size; `gflop` is one forward pass over one picture."""

    parameters: int
    hidden: int
    layers: int
    tokens: int
    gflop: float


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """A training stage as numbers."""

    language: Language
    vision: Vision
    projector_parameters: int
    trains_language: bool
    trains_vision: bool
    lora_rank: int
    global_batch: int
    epochs: int
    max_length: int
    batching: str
    zero: int
    offload: str
    weight_bytes: int
    checkpointing: bool
    tiles: float
    lengths: Lengths | None

    @property
    def trainable(self) -> int:
        """Parameters with gradients and optimizer state."""
        language = self.language.lora_parameters(self.lora_rank) if self.lora_rank else self.language.parameters
        parts = (language if self.trains_language else 0, self.vision.parameters if self.trains_vision else 0)
        return sum(parts) + self.projector_parameters

    @property
    def parameters(self) -> int:
        adapters = self.language.lora_parameters(self.lora_rank) if self.lora_rank else 0
        return self.language.parameters + self.vision.parameters + self.projector_parameters + adapters

    @property
    def image_tokens(self) -> float:
        return self.tiles * self.vision.tokens


@cache
def _table(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(files("llavaflow.pipelines").joinpath(name).read_text())
    return loaded


def read_job(stage: Any, facts: Mapping[str, Json] | None = None) -> TrainingJob | None:
    """The job of a training stage; None when its models are not in the table. `facts`: of its data, once built."""
    models = _models(stage)
    if models is None:
        return None
    language, vision = models
    anyres = getattr(stage, "image_aspect", "") == "anyres"
    depth = 2 if "2x" in stage.projector else 1
    return TrainingJob(
        language=language,
        vision=vision,
        projector_parameters=(vision.hidden + (depth - 1) * language.hidden) * language.hidden,
        trains_language="language_model" in stage.trainable,
        trains_vision="vision_tower" in stage.trainable,
        lora_rank=_lora_rank(getattr(stage, "lora", None)),
        global_batch=stage.global_batch,
        epochs=stage.epochs,
        max_length=stage.max_length,
        batching=getattr(stage, "batching", "packed"),
        zero=stage.zero,
        offload=getattr(stage, "offload", "none"),
        weight_bytes=4 if getattr(stage, "precision", "bf16") == "float32" else 2,
        checkpointing=getattr(stage, "gradient_checkpointing", True),
        # the mean over photographs of the five published layouts, overview included
        tiles=4.2 if anyres else 1.0,
        lengths=_lengths(stage.data, facts),
    )


def _lora_rank(lora: Any) -> int:
    if not lora:
        return 0
    rank = lora if isinstance(lora, int) and lora > 1 else getattr(lora, "rank", getattr(lora, "r", DEFAULT_LORA_RANK))
    return int(rank)


def _models(stage: Any) -> tuple[Language, Vision] | None:
    table = _table("_model_sizes.json")
    names = [name.lower() for name in texts(stage, inside=("vision", "language", "base"))]
    # what a ConvNeXt costs depends on its resolution, which no name of weights tells
    names += [f"convnext_large-{stage.image_size_px}" for name in names if "convnext_large" in name][:1]
    for alias, (language, vision) in table["aliases"].items():
        if any(alias in name for name in names):
            return Language(**table["language"][language]), Vision(**table["vision"][vision])
    language = _longest_match(table["language"], names)
    vision = _longest_match(table["vision"], names)
    if language is None or vision is None:
        return None
    return Language(**table["language"][language]), Vision(**table["vision"][vision])


def _longest_match(table: Mapping[str, object], names: list[str]) -> str | None:
    found = [key for key in table if any(key in name for name in names)]
    return max(found, key=len, default=None)


def texts(stage: Stage, inside: tuple[str, ...] = ()) -> Iterator[str]:
    """Every text in the fields of a stage and of what it holds; `inside` narrows the first level."""
    for name, value in stage.fields().items():
        if not inside or name in inside:
            yield from _texts(value)


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, Stage):
        yield from texts(value)
    elif isinstance(value, (str, Path)):
        yield str(value)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)
    elif hasattr(value, "__dataclass_fields__"):
        yield from _texts(vars(value))


def _lengths(data: Stage, facts: Mapping[str, Json] | None) -> Lengths | None:
    """What is known of the data's lengths: a published mixture that it names, with the built number of samples."""
    table = _table("_length_census.json")
    names = {alias: alias for alias in table["mixtures"]} | table["aliases"]
    said = [text.lower() for text in texts(data)]
    mixture = _longest_match(names, said)
    if mixture is None:
        return None
    samples = facts.get("samples") if facts else None
    return Lengths.of(table["mixtures"][names[mixture]], table["parts"], samples if isinstance(samples, int) else None)
