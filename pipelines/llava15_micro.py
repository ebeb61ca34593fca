"""The same pipeline at the smallest size at which every component still works: for tests, not for learning."""

from __future__ import annotations

from llavaflow.pipelines._tiny import Scale, tiny_recipe
from llavaflow.stages.foundation import Foundation, Gates
from llavaflow.stages.world import World

world = World(
    coco_images=60,
    gqa_images=30,
    vg_images=30,
    ocrvqa_books=30,
    textcaps_images=12,
    sharegpt_chats=16,
    urls=120,
    exam_questions=10,
)

RECIPE = tiny_recipe(
    "llava15-micro",
    "LLaVA-1.5 at the smallest size: every component, no learning",
    Scale(
        world=world,
        foundation=Foundation(
            world=world,
            clip_steps=20,
            blip_steps=10,
            language_steps=10,
            gates=Gates(clip_retrieval=0.0, mismatch_recall=0.0, blip_accuracy=0.0, max_language_loss=None),
        ),
        sampling={},
        clip_threshold=-1.0,
        pretrain_batch=16,
        pretrain_lr=2e-3,
        finetune_batch=16,
        finetune_lr=1e-3,
        save_every_steps=5,
        success_floor=0.5,
    ),
)
