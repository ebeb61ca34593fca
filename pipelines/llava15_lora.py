"""LLaVA-1.5 7B with LoRA: the pipeline of `llava15`, its language model finetuned through adapters."""

from __future__ import annotations

from typing import Any

from llavaflow.models.lora import Lora
from llavaflow.pipelines import _full_size as base
from llavaflow.pipelines import llava15

SCRIPT = "haotian-liu/LLaVA scripts/v1_5/finetune_lora.sh"
# bias none and dropout 0.05 are the code's defaults, which the script leaves alone
ADAPTERS: dict[str, Any] = {
    "lora": Lora(r=128, alpha=256, dropout=0.05, bias="none"),
    "learning_rate": 2e-4,
    "projector_lr": 2e-5,
}
FIELDS = "learning_rate projector_lr lora.r lora.alpha lora.dropout lora.bias"

RECIPE = llava15.RECIPE.replace(
    {"finetune": ADAPTERS, "publish": {"title": "LLaVA-1.5 7B, finetuned with LoRA"}},
    name="llava15-lora",
    title="LLaVA-1.5 7B, finetuned with LoRA",
    sources={**llava15.RECIPE.sources, **base.cite("finetune", SCRIPT, FIELDS)},
)
