"""TrainingJob: what a planner must know of a training stage, read from its fields, without torch.

Sizes of models are `models/sizes.py`, lengths of mixtures `_length_census.json`. What they do not hold is None, and
every estimate that needs it is None too: a plan says nothing rather than something invented.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from llavaflow.infra.artifact import Json
from llavaflow.models.images import ImageRule, count_tiles, count_tokens
from llavaflow.models.sizes import (
    LanguageSize,
    Tower,
    VisionSize,
    projector_params,
    recognise_language,
    recognise_vision,
)
from llavaflow.pipelines._lengths import Lengths, census_of
from llavaflow.stages._stage import Stage
from llavaflow.stages.foundation import Foundation
from llavaflow.stages.train import Train

# what stands for a picture whose size nobody knows: COCO's usual one
PHOTOGRAPH = (640, 480)
Arithmetic = Literal["half", "float32"]


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """A training stage as numbers.

    weight_bytes: of a weight and of an activation as they lie in memory. quantized_bits: of QLoRA's frozen ones, or 0.
    """

    language: LanguageSize
    vision: Tower
    projector_parameters: int
    trains_language: bool
    trains_vision: bool
    vision_from_layer: int
    lora_rank: int
    quantized_bits: int
    global_batch: int
    epochs: int
    max_length: int
    batching: str
    zero: int
    offload: str
    weight_bytes: int
    arithmetic: Arithmetic
    checkpointing: bool
    tiles: float
    image_tokens: float
    lengths: Lengths | None

    @property
    def adapters(self) -> int:
        """Parameters of LoRA."""
        return self.language.lora_params(self.lora_rank) if self.lora_rank else 0

    @property
    def trainable(self) -> int:
        """Parameters with gradients and optimizer state."""
        language = self.adapters or self.language.params
        vision = self.vision.params_from(self.vision_from_layer) if self.trains_vision else 0
        return (language if self.trains_language else 0) + vision + self.projector_parameters

    @property
    def parameters(self) -> int:
        return self.language.params + self.vision.params + self.projector_parameters + self.adapters

    @property
    def resting_bytes(self) -> float:
        """Bytes of all weights as they lie between steps; those of QLoRA's frozen language model are rounded."""
        rounded = self.language.matrices if self.quantized_bits else 0
        return self.weight_bytes * (self.parameters - rounded) + self.quantized_bits / 8 * rounded

    def longest(self) -> int:
        """Tokens of the longest sample that a device may meet."""
        return self.lengths.longest(self.image_tokens, self.max_length) if self.lengths else self.max_length


def read_job(stage: Train, facts: Mapping[str, Json] | None = None) -> TrainingJob | None:
    """The job of a training stage; None when its models are not known by name.

    facts: of its data, once built. A chip without bf16 is taken to train in fp16, which is as fast and as small.
    """
    names = list(texts(stage, inside=("vision", "language", "base")))
    toy = _toy(stage)
    language, vision = toy or (recognise_language(names), recognise_vision(names, stage.image_size_px))
    if language is None or vision is None:
        return None
    half = stage.precision in ("bf16", "fp16")
    arithmetic: Arithmetic = "half" if half else "float32"
    samples = facts.get("samples") if facts else None
    # a toy's mixture has the name of the published one and other lengths
    lengths = None if toy else census_of(texts(stage.data), samples if isinstance(samples, int) else None)
    tiles, image_tokens = pictures(stage, vision, lengths)
    return TrainingJob(
        language=language,
        vision=vision,
        projector_parameters=projector_params(stage.projector, vision.hidden, language.hidden),
        trains_language="language_model" in stage.trainable,
        trains_vision="vision_tower" in stage.trainable,
        vision_from_layer=stage.vision_from_layer,
        lora_rank=stage.lora.r if stage.lora else 0,
        quantized_bits=stage.lora.quantization.bits if stage.lora and stage.lora.quantization else 0,
        global_batch=stage.global_batch,
        epochs=stage.epochs,
        max_length=stage.max_length,
        batching=stage.batching,
        zero=stage.zero,
        offload=stage.offload,
        weight_bytes=2 if half else 4,
        arithmetic=arithmetic,
        checkpointing=stage.gradient_checkpointing,
        tiles=tiles,
        image_tokens=image_tokens,
        lengths=lengths,
    )


def _toy(stage: Train) -> tuple[LanguageSize, Tower] | None:
    """The sizes of models that the recipe makes itself."""
    made = stage.language.stage if stage.language else None
    if not isinstance(made, Foundation):
        return None
    hidden, heads = made.language_hidden, max(1, made.language_hidden // 32)
    language = LanguageSize(
        name="toy", hub="", family="llama", layers=made.language_layers, hidden=hidden,
        intermediate=hidden * 8 // 3, heads=heads, kv_heads=heads, vocab=made.vocabulary, context=2048,
    )  # fmt: skip
    vision = VisionSize(
        name="toy", hub="", layers=made.vision_layers, hidden=made.vision_hidden, intermediate=4 * made.vision_hidden,
        heads=max(1, made.vision_hidden // 32), image=made.image_size, patch=made.patch,
    )  # fmt: skip
    return language, vision


def pictures(stage: Train, vision: Tower, lengths: Lengths | None) -> tuple[float, float]:
    """Tiles and tokens of a mean picture; one tile unless pictures are cut to pinpoints."""
    rule = image_rule(stage, vision)
    over = lengths.mean_over_pictures if lengths else lambda value: value(*PHOTOGRAPH)
    return over(partial(count_tiles, rule)), over(partial(count_tokens, rule))


def image_rule(stage: Train, vision: Tower) -> ImageRule:
    """How the stage cuts pictures, as far as their tokens go."""
    aspect = stage.image_aspect if stage.pinpoints else "pad"
    return ImageRule(aspect=aspect, size=vision.image, patch=vision.patch, pinpoints=stage.pinpoints)


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
