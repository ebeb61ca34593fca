"""LLaVA-1.5 at toy scale: the whole pipeline on this machine in minutes, every component the real one."""

from __future__ import annotations

from llavaflow.pipelines._tiny import Scale, tiny_recipe
from llavaflow.stages.foundation import Foundation
from llavaflow.stages.world import World

world = World()

RECIPE = tiny_recipe(
    "llava15-tiny",
    "LLaVA-1.5 at toy scale, from a web of generated scenes to a scored checkpoint",
    Scale(
        world=world,
        foundation=Foundation(world=world),
        # 6,000 records in the shares of mix665k
        instruct=(523, 207, 694),
        samples={
            "sharegpt": 367,
            "vqav2": 747,
            "gqa": 651,
            "okvqa": 81,
            "ocrvqa": 721,
            "aokvqa": 597,
            "textcaps": 198,
            "refcoco": 437,
            "vg": 779,
        },
        # about a tenth of the captions are planted on the wrong picture
        clip_fraction=0.88,
        pretrain_batch=16,
        pretrain_lr=3e-3,
        finetune_batch=16,
        finetune_lr=8e-4,
        finetune_epochs=3,
        # partitioned weights would cost a model of this size more in messages than they save
        finetune_zero=2,
    ),
)
