"""The LLaVA-1.5 pipeline at toy scale: the stages of the full recipe, sized to the generated world.

`tiny_recipe` takes the few numbers in which the shipped sizes differ. What a full recipe takes from the internet and
from the hub, this one takes from `world` and `foundation`; everything behind them is the same code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from llavaflow.pipelines._recipe import Recipe
from llavaflow.stages._judging import Judging
from llavaflow.stages._pretrained import Pretrained
from llavaflow.stages.caption import Caption
from llavaflow.stages.download import Download
from llavaflow.stages.evaluate import Evaluate
from llavaflow.stages.filter import Filter
from llavaflow.stages.filters.clip_score import ClipScore
from llavaflow.stages.filters.concepts import Concepts
from llavaflow.stages.filters.decode import Decode
from llavaflow.stages.filters.duplicates import Duplicates
from llavaflow.stages.filters.size import Size
from llavaflow.stages.foundation import Foundation
from llavaflow.stages.mix import Component, Mix
from llavaflow.stages.publish import Publish
from llavaflow.stages.synthesize import Synthesize
from llavaflow.stages.train import Train
from llavaflow.stages.world import World


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What differs between the toy sizes. Steps follow from the data.

    instruct  images for conversation, detail and complex reasoning
    samples   records drawn per component of the mixture; all of a component that is not named
    """

    world: World
    foundation: Foundation
    instruct: tuple[int, int, int]
    samples: dict[str, int] = field(default_factory=dict)
    clip_fraction: float
    pretrain_batch: int
    pretrain_lr: float
    finetune_batch: int
    finetune_lr: float
    finetune_epochs: int = 1
    finetune_zero: Literal[2, 3] = 3
    max_length: int = 512
    save_every_steps: int = 40
    success_floor: float = 0.8
    min_margin: float | None = None
    min_colour_margin: float | None = None


def tiny_recipe(name: str, title: str, scale: Scale) -> Recipe:
    """The whole pipeline, from rendering the world to the published checkpoint."""
    world, foundation = scale.world, scale.foundation
    clip, language = (Pretrained(stage=foundation, folder=folder) for folder in ("clip", "language"))
    download = Download(urls=world, web=world, timeout_s=2, retries=2, success_floor=scale.success_floor)
    keep = Filter(
        data=download,
        filters=(
            Decode(),
            Size(min_side_px=48, max_aspect_ratio=3.0),
            Duplicates(max_distance=4),
            ClipScore(clip=clip, fraction=scale.clip_fraction),
            Concepts(min_captions=3, max_captions=100),
        ),
    )
    caption = Caption(data=keep, model=Pretrained(stage=foundation, folder="blip"))
    conversation, detail, complex_reasoning = scale.instruct
    synthesize = Synthesize(data=world, conversation=conversation, detail=detail, complex=complex_reasoning)
    mix = Mix(components=_components(world, synthesize, scale.samples))
    pretrain = _train(scale, caption, clip, language, None)
    finetune = _train(scale, mix, clip, language, pretrain)
    evaluate = Evaluate(
        model=finetune,
        questions=world,
        # by rule, on loopback, under its own name: no run of this recipe asks a paid service
        review=Judging(),
        max_open_tokens=96,
        min_margin=scale.min_margin,
        min_colour_margin=scale.min_colour_margin,
    )
    publish = Publish(
        model=finetune,
        projector=pretrain,
        data=(caption, mix),
        scores=evaluate,
        title=f"LLaVA-1.5 at toy scale ({name})",
        notes=(
            "It answers about generated scenes of shapes and signs, and about nothing else. Its vision tower was "
            "trained to match patches to phrases beside pictures to captions, and its language model to read such "
            "scenes put in words before it saw one.",
        ),
        licence_notes=("Made from generated scenes and models trained on them alone: no third-party data or weights.",),
    )
    return Recipe(
        name=name,
        title=title,
        stages={
            "world": world,
            "download": download,
            "foundation": foundation,
            "filter": keep,
            "caption": caption,
            "synthesize": synthesize,
            "mix": mix,
            "pretrain": pretrain,
            "finetune": finetune,
            "evaluate": evaluate,
            "publish": publish,
        },
    )


def _components(world: World, synthesize: Synthesize, samples: Mapping[str, int]) -> tuple[Component, ...]:
    """The ten components of mix665k, in its order."""
    raw = ("sharegpt", "vqav2", "gqa", "okvqa", "ocrvqa", "aokvqa", "textcaps", "refcoco", "vg")
    instruct = Component(
        name="llava-instruct",
        source="llava-json",
        data=synthesize,
        folder="data.jsonl",
    )
    shared = {"vqav2": "coco", "okvqa": "coco", "aokvqa": "coco", "refcoco": "coco"}
    return (
        instruct,
        *(
            Component(
                name=name,
                source=name,
                data=world,
                folder=f"raw/{name}",
                images=None if name == "sharegpt" else f"raw/{shared.get(name, name)}",
                sampling=f"random:{samples[name]}" if name in samples else "all",
            )
            for name in raw
        ),
    )


def _train(scale: Scale, data: Caption | Mix, vision: Pretrained, language: Pretrained, base: Train | None) -> Train:
    """Stage 1 without `base`, stage 2 on top of it. float32 and no checkpointing: the models are tiny."""
    first = base is None
    return Train(
        data=data,
        vision=vision,
        language=language,
        projector_from=base,
        template="plain" if first else "v1",
        image_aspect="square" if first else "pad",
        trainable=("mm_projector",) if first else ("mm_projector", "language_model"),
        learning_rate=scale.pretrain_lr if first else scale.finetune_lr,
        global_batch=scale.pretrain_batch if first else scale.finetune_batch,
        epochs=1 if first else scale.finetune_epochs,
        max_length=scale.max_length,
        zero=2 if first else scale.finetune_zero,
        precision="float32",
        gradient_checkpointing=False,
        save_every_steps=scale.save_every_steps,
    )
