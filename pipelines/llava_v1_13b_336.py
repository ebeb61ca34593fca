"""LLaVA v1 on Vicuna-13B v1.3 and the 336-pixel CLIP, finetuned with LoRA (`llava-v1-0719-336px-lora`)."""

from __future__ import annotations

from llavaflow.pipelines import _full_size as base
from llavaflow.pipelines import _llava_v1 as v1

first = v1.projector(v1.LCS_CAPTIONS, v1.vicuna("13b", "v1.3"), base.CLIP_336)
second = v1.instruct(v1.instruct_80k("v1"), first, "v1", lora=v1.SCRIPT_LORA)

RECIPE = v1.v1_recipe(
    "llava-v1-13b-336",
    "LLaVA v1 Vicuna-13B v1.3, CLIP 336, LoRA",
    first=first,
    second=second,
    script="finetune_lora.sh",
    licence="other",
    licence_note=base.LICENCE_LLAMA_1,
    notes="The script is for the 224-pixel tower; the model zoo's row names the 336-pixel one, LoRA and one epoch.",
)
