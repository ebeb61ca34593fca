"""LLaVA-1.5 13B with LoRA: the pipeline of `llava15-13b`, its language model finetuned through adapters."""

from __future__ import annotations

from llavaflow.pipelines import _full_size as base
from llavaflow.pipelines import llava15_13b
from llavaflow.pipelines.llava15_lora import ADAPTERS, FIELDS, SCRIPT

RECIPE = llava15_13b.RECIPE.replace(
    {"finetune": ADAPTERS, "publish": {"title": "LLaVA-1.5 13B, finetuned with LoRA"}},
    name="llava15-13b-lora",
    title="LLaVA-1.5 13B, finetuned with LoRA",
    sources={**llava15_13b.RECIPE.sources, **base.cite("finetune", SCRIPT, FIELDS)},
)
