"""LLaVA-1.6 and LLaVA-NeXT at full size: images in tiles, the whole model trained, the tower ten times slower.

For LLaVA-1.6 no training script was published. What is known: the towers and language models, one epoch over a mixture
of 760 to 790 thousand samples with everything unfrozen, tiles merged by spatial_unpad (model zoo, configurations of the
released weights). The rest stands on Open-LLaVA-NeXT, which reaches or passes the scores of llava-v1.6-vicuna-7b.
LLaVA-NeXT on Llama-3 has a command in its model card, on Qwen a script.
"""

from __future__ import annotations

from typing import Any

from llavaflow.models.images import PINPOINTS_336
from llavaflow.pipelines import _full_size as base
from llavaflow.pipelines import _llava_v1 as v1
from llavaflow.pipelines import llava15
from llavaflow.pipelines._recipe import Recipe
from llavaflow.stages._pretrained import Pretrained
from llavaflow.stages.own_data import OwnData
from llavaflow.stages.train import Train

ZOO = f"{base.MODEL_ZOO}; config.json of the released weights"
OPEN = "xiaoachen98/Open-LLaVA-NeXT (no script of LLaVA-1.6 was published)"
NO_SCRIPT = (
    "No training script was published. Towers, language model, unfrozen parts, tiles and template are those of the "
    "released configuration; learning rates, batch and length are Open-LLaVA-NeXT's. About 50,000 samples of the "
    "mixture were never released: the public set has 779,289 rows as parquet and 738,000 in its raw form."
)
DATA_SET = "llava-next-data/llava_next_raw_format_processed.json"
EVERYTHING = ("mm_projector", "language_model", "vision_tower")
SHARDED = "chosen here: the weights, whole on every device as under upstream's ZeRO-2, leave too little room on 80 GB"
# fields that the released configurations show; the others come from another source
SHOWN = "template image_aspect projector select_layer select_feature trainable[0] trainable[1] trainable[2]"
PINPOINT_FIELDS = " ".join(f"pinpoints[{number}][{axis}]" for number in range(len(PINPOINTS_336)) for axis in range(2))


def mixture(template: str) -> OwnData:
    """The public mixture, its records checked against the marks of this template."""
    return base.own_data(DATA_SET, "llava-next-data/images", template)


def in_tiles(first: Train, template: str, **settings: Any) -> Train:
    """Stage 2: everything trains, on up to five tiles of 336 pixels."""
    return base.finetune(
        mixture(template),
        first,
        **{
            "template": template,
            "image_aspect": "anyres",
            "pinpoints": PINPOINTS_336,
            "trainable": EVERYTHING,
            "batching": "grouped",
            **settings,
        },
    )


def llava16(
    name: str,
    model: str,
    language: Pretrained,
    template: str,
    *,
    licence: str,
    licence_note: str,
    zero: int,
    pretrain_zero: int = 2,
) -> Recipe:
    """A LLaVA-1.6: the projector of LLaVA-1.5's stage 1, then everything."""
    first = base.pretrain(
        v1.LCS_CAPTIONS,
        vision=base.CLIP_336,
        language=language,
        projector="mlp2x_gelu",
        learning_rate=1e-3,
        global_batch=256,
        zero=pretrain_zero,
    )
    second = in_tiles(first, template, learning_rate=2e-5, vision_lr=2e-6, global_batch=128, max_length=4096, zero=zero)
    return base.two_stages(
        name,
        f"LLaVA-1.6 {model}",
        first=first,
        second=second,
        benchmarks=base.V16_BENCHMARKS,
        licence=licence,
        licence_notes=(licence_note, *base.LICENCE_DATA),
        notes=NO_SCRIPT,
        sources={
            **base.cite_script("pretrain", first, llava15.PRETRAIN),
            **base.cite_script("finetune", second, OPEN),
            **base.cite("finetune", OPEN, "vision_lr"),
            **(base.cite("finetune", SHARDED, "zero") if zero != 2 else {}),
            **(base.cite("pretrain", SHARDED, "zero") if pretrain_zero != 2 else {}),
            **base.cite("finetune", ZOO, f"{SHOWN} epochs {PINPOINT_FIELDS}"),
        },
    )


def llava_next(
    name: str,
    model: str,
    language: Pretrained,
    template: str,
    *,
    script: str,
    max_length: int,
    licence: str,
    licence_note: str,
    notes: str,
) -> Recipe:
    """A LLaVA-NeXT: labels as its own masker sets them, which also supervises headers and newlines."""
    first = base.pretrain(
        v1.LCS_CAPTIONS,
        vision=base.CLIP_336,
        language=language,
        projector="mlp2x_gelu",
        learning_rate=1e-3,
        global_batch=256,
        max_length=8192,
        zero=3,
    )
    second = in_tiles(
        first,
        template,
        learning_rate=1e-5,
        vision_lr=2e-6,
        global_batch=64,
        max_length=max_length,
        zero=3,
        masking="upstream",
        save_every_steps=3000,
    )
    return base.two_stages(
        name,
        f"LLaVA-NeXT {model}",
        first=first,
        second=second,
        benchmarks=base.V16_BENCHMARKS,
        licence=licence,
        licence_notes=(licence_note, *base.LICENCE_DATA),
        notes=notes,
        sources={
            **base.cite_script("pretrain", first, "LLaVA-VL/LLaVA-NeXT scripts/train/pretrain_clip.sh"),
            **base.cite("pretrain", "16 per device in scripts/train/pretrain_clip.sh, on 16 devices", "global_batch"),
            **base.cite_script("finetune", second, script),
            **base.cite("finetune", "4 per device, on the model card's 2 nodes of 8", "global_batch"),
            **base.cite("finetune", script, f"vision_lr masking save_every_steps {PINPOINT_FIELDS}"),
        },
    )
