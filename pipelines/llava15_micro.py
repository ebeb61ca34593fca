"""The same pipeline at the smallest size at which every component still works: for tests, not for learning."""

from __future__ import annotations

from llavaflow.pipelines._tiny import Scale, tiny_recipe
from llavaflow.stages.foundation import Foundation, Gates
from llavaflow.stages.world import World

world = World(
    coco_images=40,
    gqa_images=24,
    vg_images=24,
    ocrvqa_books=40,
    textcaps_images=10,
    sharegpt_chats=40,
    urls=120,
    exam_questions=12,
    open_images=4,
)
foundation = Foundation(
    world=world,
    image_size=48,
    vision_hidden=32,
    vision_layers=2,
    clip_steps=3,
    clip_batch=6,
    blip_steps=3,
    blip_batch=4,
    language_hidden=32,
    language_layers=1,
    language_steps=3,
    language_batch=4,
    vocabulary=700,
    gates=Gates(clip_retrieval=0.0, mismatch_recall=0.0, blip_accuracy=0.0, max_language_loss=None),
)

RECIPE = tiny_recipe(
    "llava15-micro",
    "LLaVA-1.5 at the smallest size: every component, no learning",
    Scale(
        world=world,
        foundation=foundation,
        instruct=(20, 8, 24),
        samples={"vqav2": 30, "gqa": 20, "ocrvqa": 20, "aokvqa": 24, "refcoco": 16},
        clip_fraction=0.88,
        pretrain_batch=16,
        pretrain_lr=2e-3,
        finetune_batch=16,
        finetune_lr=8e-4,
        save_every_steps=5,
        success_floor=0.5,
    ),
)
